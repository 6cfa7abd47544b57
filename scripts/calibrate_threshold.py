"""Choose a checkpoint's thresholds for one wish, so that it holds on new video, and at what cost.

Fits a temperature for each class, so that confidences mean what they say; then sets the gate of the
candidates and a threshold for each class. All of it goes into the checkpoint, and inference.py and
evaluate.py use it. What is promised, and why it holds, stands in docs/operating_points.md. Use
videos that the model was not trained on.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from utils import cli
from utils.errors import UsageError

if TYPE_CHECKING:
    from pipeline.calibration import Calibration, Figures
    from pipeline.calibration_scores import CalibrationScores
    from pipeline.cascade import Cascade
    from pipeline.operating_points import Wish
    from utils.config import Config
    from utils.data.annotations import AnnotationSet

logger = logging.getLogger("calibrate_threshold")

_DECIDED_HERE = (
    "model.trigger_detector.threshold",
    "model.trigger_detector.candidate_threshold",
)
_MAX_FRAMES_KEY = "data.max_frames"


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    cli.add_config_arguments(parser, stored_in="the checkpoint")
    parser.add_argument("--checkpoint", metavar="FILE", required=True, help="what train.py wrote")
    parser.add_argument("--annotations", metavar="FILE", required=True, help="the truth")
    parser.add_argument(
        "--video-dir",
        metavar="DIR",
        help="folder of the videos (default: that of the annotations)",
    )
    wish = parser.add_mutually_exclusive_group(required=True)
    wish.add_argument(
        "--target-recall",
        metavar="SHARE",
        type=float,
        help="find at least so much of the events of each class, as in 0.95",
    )
    wish.add_argument(
        "--max-false-alarms-per-hour",
        metavar="N",
        type=float,
        help="raise at most so many, all classes together",
    )
    wish.add_argument(
        "--max-stage3-fraction",
        metavar="SHARE",
        type=float,
        help="let at most so much of the video lie in events, which stage 3 looks at, as in 0.05",
    )
    parser.add_argument(
        "--confidence",
        metavar="SHARE",
        type=float,
        default=0.95,
        help="how sure the promise must be; less needs less video (default: %(default)s)",
    )
    parser.add_argument(
        "--max-gate-loss",
        metavar="SHARE",
        type=float,
        default=0.02,
        help="of the annotated events, how much the candidates' gate may hide from the temporal "
        "encoder to save its time (default: %(default)s)",
    )
    parser.add_argument(
        "--candidate-threshold",
        metavar="SCORE",
        type=float,
        help="set the gate to this instead",
    )
    parser.add_argument(
        "--tolerance-seconds",
        metavar="S",
        type=float,
        default=0.5,
        help="how far an alarm may lie outside of an annotated event and still be right "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--scores",
        metavar="PATH",
        nargs="+",
        help="scores of the videos, as inference.py --save-scores --candidate-threshold 0 writes "
        "them: files, folders or globs (default: score the videos now)",
    )
    parser.add_argument(
        "--output",
        metavar="FILE",
        type=Path,
        help="write the calibrated checkpoint here and leave the other alone (default: in place)",
    )
    cli.add_strict_loading_argument(parser)
    cli.add_device_argument(parser)
    cli.add_common_arguments(parser)
    return parser


def main(arguments: argparse.Namespace) -> int:
    """Calibrate, print, write; returns 1 where a video could not be used.

    Raises:
        UsageError: A flag or setting does not fit, or the wish cannot be kept.
        VideoTriggerError: Annotations, checkpoint or every video cannot be used.
    """
    _check_arguments(arguments)
    wish = _wish(arguments)
    from pipeline import assembly
    from utils.atomic_file import check_writable
    from utils.data.annotations import load_annotations

    annotations = load_annotations(
        arguments.annotations, video_dir=arguments.video_dir, named_by="--annotations"
    )
    checkpoint = Path(arguments.checkpoint)
    target: Path = arguments.output or checkpoint
    # That it cannot be written is known before hours of work.
    check_writable(
        target,
        inputs=(Path(arguments.annotations), *(video.path for video in annotations.videos)),
    )
    cascade, config = assembly.cascade_of_checkpoint(
        assembly.Request(
            config_name=arguments.config,
            overrides=arguments.overrides,
            candidate_threshold=0.0,
            thumbnails=False,
        ),
        checkpoint,
        device=arguments.device,
        strict=arguments.strict_loading,
    )
    scores = _scores(arguments, checkpoint, cascade, config, annotations)

    from pipeline.calibrated_checkpoint import write_calibration
    from pipeline.calibration import CalibrationSettings, calibrate
    from utils.data.data_hash import data_identity

    calibration = calibrate(
        scores.videos,
        wish,
        CalibrationSettings(
            events=config.events,
            max_gate_loss=arguments.max_gate_loss,
            candidate_threshold=arguments.candidate_threshold,
            least_candidate_threshold=scores.least_candidate_threshold,
            tolerance_seconds=arguments.tolerance_seconds,
            point_radius_seconds=config.data.point_radius_seconds,
        ),
        temperatures=scores.temperatures,
    )
    write_calibration(
        checkpoint,
        target,
        calibration,
        sha256=cascade.scorer.identity["sha256"],
        events=config.events,
        data={"annotations": str(arguments.annotations), **data_identity(annotations)},
    )
    for note in calibration.notes:
        logger.warning("%s", note)
    print(*_lines(calibration), sep="\n")
    print(f"written: {target}")
    if scores.failed:
        logger.error(
            "%d of %d videos could not be used; see above",
            len(scores.failed),
            len(annotations.videos),
        )
    return 1 if scores.failed else 0


def _check_arguments(arguments: argparse.Namespace) -> None:
    """Refuse what could only fail, or mislead, hours later."""
    for given in arguments.overrides:
        key = given.partition("=")[0].strip()
        if any(
            key == name or name.startswith(f"{key}.") or key.startswith(f"{name}.")
            for name in _DECIDED_HERE
        ):
            raise UsageError(f"--set {given}: calibration decides {key}; leave it out")
        if key == _MAX_FRAMES_KEY:
            raise UsageError(
                f"--set {_MAX_FRAMES_KEY}: calibration watches whole videos; leave it out"
            )
    tolerance = arguments.tolerance_seconds
    if not 0 <= tolerance < float("inf"):
        raise UsageError(f"--tolerance-seconds must be 0 or more, got {tolerance:g}")
    if not 0 <= arguments.max_gate_loss < 1:
        raise UsageError(
            f"--max-gate-loss must be at least 0 and below 1, got {arguments.max_gate_loss:g}"
        )
    gate = arguments.candidate_threshold
    if gate is not None and not 0 <= gate <= 1:
        raise UsageError(f"--candidate-threshold must be in [0, 1], got {gate:g}")


def _wish(arguments: argparse.Namespace) -> Wish:
    from pipeline.operating_points import Wish

    if arguments.target_recall is not None:
        return Wish(kind="recall", value=arguments.target_recall, confidence=arguments.confidence)
    if arguments.max_false_alarms_per_hour is not None:
        return Wish(
            kind="false_alarms_per_hour",
            value=arguments.max_false_alarms_per_hour,
            confidence=arguments.confidence,
        )
    return Wish(
        kind="stage3_fraction",
        value=arguments.max_stage3_fraction,
        confidence=arguments.confidence,
    )


def _scores(
    arguments: argparse.Namespace,
    checkpoint: Path,
    cascade: Cascade,
    config: Config,
    annotations: AnnotationSet,
) -> CalibrationScores:
    """Of all annotated videos: read, or made now."""
    from pipeline.calibrated_checkpoint import (
        earlier_identities,
        is_training_data,
        stored_temperatures,
    )
    from pipeline.calibration_scores import read_scores, score_videos
    from pipeline.inputs import find_inputs
    from pipeline.score_file import SCORES_SUFFIX
    from utils.checkpoint import load_checkpoint

    content = load_checkpoint(checkpoint)
    if is_training_data(content, annotations):
        logger.warning(
            "%s: the model was trained on these very annotations, and is surer of them than of new "
            "video: the promise will not hold; calibrate on others",
            arguments.annotations,
        )
    temperatures = stored_temperatures(content, cascade.labels)
    if arguments.scores is not None:
        paths = {
            path
            for pattern in arguments.scores
            for path in find_inputs(pattern, suffixes=(SCORES_SUFFIX,)).paths
        }
        return read_scores(
            sorted(paths),
            annotations,
            cascade.labels,
            identities={
                **earlier_identities(content),
                cascade.scorer.identity["sha256"]: temperatures,
            },
            context_seconds=config.events.context_seconds,
        )
    from tqdm import tqdm

    with tqdm(total=len(annotations.videos), unit="video", dynamic_ncols=True) as bar:

        def show(name: str) -> None:
            bar.set_description(name)
            bar.update()

        return score_videos(
            cascade,
            annotations,
            temperatures=temperatures,
            decoder=config.data.decoder,
            on_done=show,
        )


def _lines(calibration: Calibration) -> Iterator[str]:
    """What was chosen, what it is on these videos, and what may be relied on."""
    videos = f"{calibration.num_videos} video{'' if calibration.num_videos == 1 else 's'}"
    yield f"wish: {calibration.wish}; on {videos}, {calibration.hours:.2f} hours"
    width = max(len(label) for label in (*calibration.thresholds, "overall"))
    yield (
        f"{'':<{width}}  {'threshold':>9}  {'temperature':>11}  {'found':>9}  "
        f"{'recall':>6} {'':<12}  {'false alarms':>12}  {'an hour':>7}"
    )
    for label, figures in calibration.per_class.items():
        yield (
            f"{label:<{width}}  {calibration.thresholds[label]:>9.4f}  "
            f"{calibration.temperatures[label]:>11.3f}  {_cells(figures)}"
        )
    yield f"{'overall':<{width}}  {'':>9}  {'':>11}  {_cells(calibration.overall)}"
    low, high = calibration.stage3_interval
    yield (
        f"stage 3 looks at {calibration.stage3_fraction:.2%} of the video ({low:.2%} to {high:.2%})"
    )
    gate = calibration.gate
    yield (
        f"the temporal encoder looks at {gate.contextualized_share:.1%} of the frames: candidate "
        f"threshold {gate.threshold:.4g}, which hides {gate.num_lost} of {gate.num_events} events"
    )
    before, after = calibration.calibration_error
    yield f"confidences are off by {before:.3f} before and {after:.3f} after the temperature (ECE)"
    confidence = calibration.wish.confidence
    promise = {
        "recall": f"a recall of at least {calibration.promised:.3f} in each class",
        "false_alarms_per_hour": f"at most {calibration.promised:.3g} false alarms an hour",
        "stage3_fraction": f"at most {calibration.promised:.2%} of the video to stage 3",
    }[calibration.wish.kind]
    yield f"promised on new video like this, with {confidence:.3g} confidence: {promise}"


def _cells(figures: Figures) -> str:
    counts = figures.counts
    recall = "-" if figures.recall_interval is None else f"{counts.recall:.3f}"
    rate = "-" if figures.false_alarms_interval is None else f"{counts.false_alarms_per_hour:.3g}"
    found = f"{counts.num_detected}/{counts.num_references}"
    return (
        f"{found:>9}  {recall:>6} {_interval(figures.recall_interval, '.2f'):<12}  "
        f"{counts.num_false_alarms:>12}  {rate:>7} "
        f"{_interval(figures.false_alarms_interval, '.3g')}"
    )


def _interval(interval: tuple[float, float] | None, spec: str) -> str:
    return "" if interval is None else f"({interval[0]:{spec}}-{interval[1]:{spec}})"


if __name__ == "__main__":
    sys.exit(cli.run(main, build_parser()))
