"""Measure a checkpoint on annotated videos, with the cascade as inference.py runs it.

Prints a table and writes the keys of docs/metrics.md as JSON; with --report also a page of curves,
timelines and the worst mistakes in pictures. Videos are watched whole: data.max_frames has no say.
With --scores the scores of an earlier run are judged, and no video is decoded for them.
"""

from __future__ import annotations

import argparse
import logging
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from utils import cli
from utils.errors import UsageError

if TYPE_CHECKING:
    from pipeline.assembly import Request
    from pipeline.evaluation import Evaluation, EvaluationSettings
    from utils.data.annotations import AnnotationSet

logger = logging.getLogger("evaluate")

_MAX_FRAMES_KEY = "data.max_frames"
_NUM_DRAWS = 1000
_CLASSES_IN_A_ROW = 5
_NUM_WORST = 12


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    cli.add_config_arguments(parser, stored_in="the checkpoint or score file")
    cli.add_checkpoint_arguments(parser, required=False)
    parser.add_argument(
        "--scores",
        metavar="PATH",
        nargs="+",
        help="in the place of --checkpoint: files, folders or globs of what inference.py "
        "--save-scores wrote",
    )
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
        "--report",
        metavar="DIR",
        type=Path,
        help="folder for a page to look at, index.html, which needs no network",
    )
    parser.add_argument(
        "--tolerance-seconds",
        metavar="S",
        type=float,
        default=0.5,
        help="how far an event's start may be off; its end may be off by that or by half the "
        "annotated event's length, whichever is more (default: %(default)s)",
    )
    parser.add_argument(
        "--slice-by",
        metavar="FIELD",
        nargs="+",
        default=[],
        help="fields of the annotations, of videos or of events: the figures of each value",
    )
    parser.add_argument(
        "--bootstrap",
        metavar="N",
        type=int,
        default=_NUM_DRAWS,
        help="draws for the intervals; 0 leaves them out (default: %(default)s)",
    )
    parser.add_argument(
        "--resample",
        choices=("group", "video"),
        default="group",
        help="what a draw takes whole; videos of one group are not independent "
        "(default: %(default)s)",
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
    _check(arguments)
    from pipeline import assembly
    from utils.atomic_file import check_folder, check_writable, write_json
    from utils.data.annotations import load_annotations

    annotations = load_annotations(
        arguments.annotations, video_dir=arguments.video_dir, named_by="--annotations"
    )
    sources = _score_files(arguments) or [Path(arguments.checkpoint)]
    # That it cannot be written is known before hours of work.
    check_writable(
        arguments.output,
        inputs=(
            Path(arguments.annotations),
            *sources,
            *(video.path for video in annotations.videos),
        ),
    )
    if arguments.report is not None:
        check_folder(arguments.report, remedy="choose another folder for --report")
    request = assembly.Request(
        config_name=arguments.config,
        overrides=arguments.overrides,
        threshold=arguments.threshold,
        candidate_threshold=arguments.candidate_threshold,
    )
    evaluation, identity = _evaluate(arguments, request, annotations, sources)
    content = {
        **evaluation.metrics,
        "annotations": str(arguments.annotations),
        "model": dict(identity),
        "failed": dict(evaluation.failed),
    }
    write_json(content, arguments.output)
    page = None
    if arguments.report is not None:
        from pipeline.evaluation_report import write_report

        page = write_report(
            evaluation, content, arguments.report, num_worst=_NUM_WORST, title=arguments.annotations
        )
    print(*_table(content, evaluation.evidence.labels), sep="\n")
    print(f"metrics: {arguments.output}")
    if page is not None:
        print(f"report: {page}")
    if evaluation.failed:
        logger.error(
            "%d of %d videos could not be used; see above",
            len(evaluation.failed),
            len(annotations.videos),
        )
    return 1 if evaluation.failed else 0


def _check(arguments: argparse.Namespace) -> None:
    tolerance = arguments.tolerance_seconds
    if not (math.isfinite(tolerance) and tolerance >= 0):
        raise UsageError(f"--tolerance-seconds must be 0 or more, got {tolerance:g}")
    if arguments.bootstrap < 0:
        raise UsageError(f"--bootstrap must be 0 or more, got {arguments.bootstrap}")
    if any(given.partition("=")[0].strip() == _MAX_FRAMES_KEY for given in arguments.overrides):
        raise UsageError(
            f"--set {_MAX_FRAMES_KEY}: evaluation watches whole videos, else it would judge what "
            "was never looked at; leave it out"
        )
    if arguments.scores is None and arguments.checkpoint is None:
        raise UsageError("give --checkpoint FILE, or --scores PATH of an earlier run")
    if arguments.scores is not None and arguments.checkpoint is not None:
        raise UsageError(
            "--checkpoint does nothing with --scores, which are those of the model that saved "
            "them; leave one of the two out"
        )


def _score_files(arguments: argparse.Namespace) -> list[Path]:
    if arguments.scores is None:
        return []
    from pipeline.inputs import find_inputs
    from pipeline.score_file import SCORES_SUFFIX

    found = (find_inputs(pattern, suffixes=(SCORES_SUFFIX,)) for pattern in arguments.scores)
    return list(dict.fromkeys(path for inputs in found for path in inputs.paths))


def _evaluate(
    arguments: argparse.Namespace,
    request: Request,
    annotations: AnnotationSet,
    sources: list[Path],
) -> tuple[Evaluation, Mapping[str, Any]]:
    """The evaluation, and who was judged."""
    from tqdm import tqdm

    from pipeline import assembly
    from pipeline.evaluation import EvaluationSettings, evaluate, evaluate_scores

    def settings(point_radius_seconds: float) -> EvaluationSettings:
        return EvaluationSettings(
            point_radius_seconds=point_radius_seconds,
            tolerance_seconds=arguments.tolerance_seconds,
            num_draws=arguments.bootstrap,
            resample=arguments.resample,
            slice_by=tuple(arguments.slice_by),
        )

    def show(name: str) -> None:
        bar.set_description(name)
        bar.update()

    if arguments.scores is not None:
        analysis = assembly.analysis_of_scores(request, sources)
        with tqdm(total=len(annotations.videos), unit="video", dynamic_ncols=True) as bar:
            return (
                evaluate_scores(
                    sources,
                    annotations,
                    analysis.settings,
                    settings=settings(analysis.config.data.point_radius_seconds),
                    on_done=show,
                ),
                analysis.identity,
            )
    cascade, config = assembly.cascade_of_checkpoint(
        request,
        Path(arguments.checkpoint),
        device=arguments.device,
        strict=arguments.strict_loading,
    )
    with tqdm(total=len(annotations.videos), unit="video", dynamic_ncols=True) as bar:
        return (
            evaluate(
                cascade,
                annotations,
                decoder=config.data.decoder,
                settings=settings(config.data.point_radius_seconds),
                on_done=show,
            ),
            cascade.scorer.identity,
        )


_ROWS: tuple[tuple[str, str, str | None], ...] = (
    ("frame AP", "frame_ap", None),
    ("frame AUROC", "frame_auroc", None),
    ("trigger head's frame AP", "frame_ap_trigger_head", None),
    ("event F1", "event_f1", None),
    ("event precision", "event_precision", None),
    ("event recall", "event_recall", None),
    ("event mAP, 0.5 to 4 s", "event_map", None),
    ("segment mAP, tIoU 0.5:0.95", "segment_map", None),
    ("alarm recall", "alarm_recall", None),
    ("false alarms per hour", "false_alarms_per_hour", None),
    ("recall at 1 false alarm per hour", "recall_at_false_alarms_per_hour", "1"),
    ("time to detect, median s", "time_to_detect_seconds", "median"),
    ("time to detect, P95 s", "time_to_detect_seconds", "p95"),
    ("share sent to stage three", "sent_share", None),
    ("recall at 5 % sent", "recall_at_budget", "0.05"),
    ("calibration error", "ece", None),
)
"""Heading, key, and which part of it."""


def _table(metrics: Mapping[str, Any], labels: tuple[str, ...]) -> list[str]:
    """A line for each metric: overall, its interval, and the classes, a few beside each other."""
    width = max(len(heading) for heading, _, _ in _ROWS)
    confidence = metrics["bootstrap"]["confidence"]
    blocks = [labels[i : i + _CLASSES_IN_A_ROW] for i in range(0, len(labels), _CLASSES_IN_A_ROW)]
    lines: list[str] = []
    for number, block in enumerate(blocks):
        first = ("overall", f"{confidence * 100:.0f} % interval") if not number else ()
        widths = [*((9, 18) if first else ()), *(max(9, len(label)) for label in block)]
        names = (*first, *block)
        lines.append(" " * width + _cells(names, widths))
        for heading, key, part in _ROWS:
            entry = metrics[key]
            values = [_text(_part(entry["per_class"][label], part)) for label in block]
            if first:
                interval = _part(entry["interval"]["overall"], part)
                values = [_text(_part(entry["overall"], part)), _range(interval), *values]
            lines.append(f"{heading:<{width}}{_cells(values, widths)}")
        lines.append("")
    counts, num_videos = metrics["alarm_counts"]["overall"], metrics["num_videos"]
    bootstrap = metrics["bootstrap"]
    lines.append(
        f"{num_videos} video{'' if num_videos == 1 else 's'}, "
        f"{metrics['duration_seconds']:.0f} s; {counts['num_references']} annotated events, "
        f"{counts['num_alarms']} alarms, {counts['num_false_alarms']} false; the temporal encoder "
        f"looked at {metrics['contextualized_share']:.0%} of the frames"
    )
    if not bootstrap["num_draws"]:
        lines.append(
            f"intervals of counts alone: {bootstrap['num_units']} {bootstrap['unit']}, "
            "and two or more are needed to draw from"
            if bootstrap["num_units"] < 2
            else "intervals of counts alone: --bootstrap 0"
        )
    return lines


def _cells(values: Any, widths: list[int]) -> str:
    return "".join(f"  {value:>{width}}" for value, width in zip(values, widths, strict=True))


def _part(value: Any, part: str | None) -> Any:
    return value if part is None else value[part]


def _text(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _range(interval: list[float] | None) -> str:
    return "-" if interval is None else f"{interval[0]:.3f} to {interval[1]:.3f}"


if __name__ == "__main__":
    sys.exit(cli.run(main, build_parser()))
