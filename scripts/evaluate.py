"""Measure a checkpoint on annotated videos, with the cascade as inference.py runs it.

Prints a table and writes the keys of docs/metrics.md as JSON. The figures of the trigger head,
which sees single frames alone, stand beside those of the temporal encoder. Videos are watched
whole: data.max_frames has no say.
"""

from __future__ import annotations

import argparse
import logging
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from utils import cli
from utils.errors import UsageError

logger = logging.getLogger("evaluate")

_MAX_FRAMES_KEY = "data.max_frames"


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    cli.add_config_arguments(parser, stored_in="the checkpoint")
    cli.add_checkpoint_arguments(parser)
    parser.add_argument("--annotations", metavar="FILE", required=True, help="the truth")
    parser.add_argument(
        "--video-dir",
        metavar="DIR",
        help="folder of the videos (default: that of the annotations)",
    )
    parser.add_argument(
        "--output", metavar="FILE", required=True, type=Path, help="the metrics, as JSON"
    )
    parser.add_argument(
        "--tolerance-seconds",
        metavar="S",
        type=float,
        default=0.5,
        help="how far an event's start may be off; its end may be off by that or by half the "
        "annotated event's length, whichever is more (default: %(default)s)",
    )
    cli.add_device_argument(parser)
    cli.add_common_arguments(parser)
    return parser


def main(arguments: argparse.Namespace) -> int:
    """Evaluate; returns 1 where a video could not be used.

    Raises:
        UsageError: A flag or setting does not fit.
        VideoTriggerError: Annotations, checkpoint or every video cannot be used.
    """
    tolerance = arguments.tolerance_seconds
    if not (math.isfinite(tolerance) and tolerance >= 0):
        raise UsageError(f"--tolerance-seconds must be 0 or more, got {tolerance:g}")
    if any(given.partition("=")[0].strip() == _MAX_FRAMES_KEY for given in arguments.overrides):
        raise UsageError(
            f"--set {_MAX_FRAMES_KEY}: evaluation watches whole videos, else it would judge what "
            "was never looked at; leave it out"
        )
    from pipeline import assembly
    from utils.atomic_file import check_writable, write_json
    from utils.data.annotations import load_annotations

    annotations = load_annotations(
        arguments.annotations, video_dir=arguments.video_dir, named_by="--annotations"
    )
    checkpoint = Path(arguments.checkpoint)
    # That it cannot be written is known before hours of work.
    check_writable(
        arguments.output,
        inputs=(
            Path(arguments.annotations),
            checkpoint,
            *(video.path for video in annotations.videos),
        ),
    )
    cascade, config = assembly.cascade_of_checkpoint(
        assembly.Request(
            config_name=arguments.config,
            overrides=arguments.overrides,
            threshold=arguments.threshold,
            candidate_threshold=arguments.candidate_threshold,
        ),
        checkpoint,
        device=arguments.device,
        strict=arguments.strict_loading,
    )

    from tqdm import tqdm

    from pipeline.evaluation import evaluate

    with tqdm(total=len(annotations.videos), unit="video", dynamic_ncols=True) as bar:

        def show(name: str) -> None:
            bar.set_description(name)
            bar.update()

        evaluation = evaluate(
            cascade,
            annotations,
            decoder=config.data.decoder,
            point_radius_seconds=config.data.point_radius_seconds,
            tolerance_seconds=tolerance,
            on_done=show,
        )
    content = {
        **evaluation.metrics,
        "annotations": str(arguments.annotations),
        "model": dict(cascade.scorer.identity),
        "failed": dict(evaluation.failed),
    }
    write_json(content, arguments.output)
    print(*_table(content, cascade.labels), sep="\n")
    print(f"metrics: {arguments.output}")
    if evaluation.failed:
        logger.error(
            "%d of %d videos could not be used; see above",
            len(evaluation.failed),
            len(annotations.videos),
        )
    return 1 if evaluation.failed else 0


_COLUMNS = (
    ("frame AP", "frame_ap"),
    ("trigger head AP", "frame_ap_trigger_head"),
    ("frame AUROC", "frame_auroc"),
    ("event F1", "event_f1"),
    ("precision", "event_precision"),
    ("recall", "event_recall"),
)


def _table(metrics: Mapping[str, Any], labels: tuple[str, ...]) -> list[str]:
    """A line per class and one for all, columns under their headings."""
    width = max(len(label) for label in (*labels, "overall"))
    headings, keys = zip(*_COLUMNS, strict=True)
    rows = [[metrics[key]["per_class"][label] for key in keys] for label in labels]
    rows.append([metrics[key]["overall"] for key in keys])
    lines = [" " * width + "".join(f"  {heading:>15}" for heading in headings)]
    for label, row in zip((*labels, "overall"), rows, strict=True):
        cells = "".join(f"  {'-' if value is None else f'{value:.3f}':>15}" for value in row)
        lines.append(f"{label:<{width}}{cells}")
    num_videos = metrics["num_videos"]
    lines.append(
        f"{num_videos} video{'' if num_videos == 1 else 's'}, "
        f"{metrics['duration_seconds']:.0f} s; the temporal encoder looked at "
        f"{metrics['contextualized_share']:.0%} of the frames"
    )
    return lines


if __name__ == "__main__":
    sys.exit(cli.run(main, build_parser()))
