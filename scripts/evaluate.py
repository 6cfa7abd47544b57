"""Measure a checkpoint on annotated videos, with the cascade as inference.py runs it.

Prints a table and writes docs/metrics.md's keys as JSON. The trigger head's figures, which see single
frames alone, stand beside those of the temporal encoder.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from utils import cli

logger = logging.getLogger("evaluate")


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    cli.add_config_arguments(parser)
    parser.add_argument("--checkpoint", metavar="FILE", required=True, type=Path)
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
        "--threshold",
        metavar="P",
        type=float,
        help="temporal score that makes an event (default: the checkpoint's)",
    )
    parser.add_argument(
        "--candidate-threshold",
        metavar="P",
        type=float,
        help="trigger-head score from which on the temporal encoder looks (default: the checkpoint's)",
    )
    parser.add_argument(
        "--collar-seconds",
        metavar="S",
        type=float,
        default=0.5,
        help="how far an event's start may be off (default: %(default)s)",
    )
    parser.add_argument("--strict-loading", action=argparse.BooleanOptionalAction, default=False)
    cli.add_device_argument(parser)
    cli.add_common_arguments(parser)
    return parser


def main(arguments: argparse.Namespace) -> int:
    """Evaluate; returns 1 where a video could not be used."""
    from pipeline import assembly, settings
    from utils.atomic_file import check_writable, write_json
    from utils.data.annotations import load_annotations

    config = settings.load_inference_config(arguments.config, arguments.overrides)
    annotations = load_annotations(arguments.annotations, video_dir=arguments.video_dir)
    check_writable(arguments.output)
    cascade = assembly.cascade_of_checkpoint(
        assembly.Request(
            config=config,
            overrides=arguments.overrides,
            threshold=arguments.threshold,
            candidate_threshold=arguments.candidate_threshold,
        ),
        arguments.checkpoint,
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
            collar_seconds=arguments.collar_seconds,
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
        logger.error("error: %d videos could not be used; see above", len(evaluation.failed))
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
    lines = [" " * width + "".join(f"  {heading:>15}" for heading, _ in _COLUMNS)]
    for label in (*labels, "overall"):
        cells = []
        for _, key in _COLUMNS:
            value = (
                metrics[key]["overall"] if label == "overall" else metrics[key]["per_class"][label]
            )
            cells.append(f"  {'-' if value is None else f'{value:.3f}':>15}")
        lines.append(f"{label:<{width}}{''.join(cells)}")
    lines.append(
        f"{metrics['num_videos']} videos, {metrics['duration_seconds']:.0f} s; the temporal encoder "
        f"looked at {metrics['contextualized_share']:.0%} of the frames"
    )
    return lines


if __name__ == "__main__":
    sys.exit(cli.run(main, build_parser()))
