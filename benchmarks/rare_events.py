"""Rare events: a threshold calibrated on one half of the video, and what it does on the other.

Draws hours of street scenes with a handful of events an hour among distractors, scores them with
a checkpoint, and calibrates on each half in turn for several wishes. What was promised and the
intervals that were printed are held against the other half, which no threshold has seen. By default
it takes the model of ``make demo``. ``python benchmarks/rare_events.py --help`` lists what can be
changed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

if TYPE_CHECKING:
    from pipeline.calibration import Calibration
    from pipeline.calibration_scores import CalibrationScores
    from pipeline.operating_points import Wish
    from utils.config.schema import EventsConfig
    from utils.evaluation.scored_video import ScoredVideo

HALVES = ("val", "test")
"""The splits of the data set, which share no camera."""


def main() -> int:
    """Draw, score, calibrate on each half, print the tables and the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--checkpoint",
        type=Path,
        default=ROOT / "demo" / "checkpoints" / "best_checkpoint.pt",
        help="what is calibrated (default: that of make demo)",
    )
    parser.add_argument("--hours", type=float, default=3.0, help="of video, both halves together")
    parser.add_argument("--minutes", type=float, default=10.0, help="of each video, a camera each")
    parser.add_argument(
        "--events-per-hour", type=float, default=12.0, help="over all classes together"
    )
    parser.add_argument(
        "--distractors-per-minute", type=float, default=4.0, help="that look much like events"
    )
    parser.add_argument(
        "--max-false-alarms-per-hour",
        type=float,
        nargs="+",
        default=[5.0, 10.0],
        help="wishes; half the hours must support them",
    )
    parser.add_argument("--target-recall", type=float, nargs="+", default=[0.8], help="wishes")
    parser.add_argument("--seed", type=int, default=2024, help="another seed, other videos")
    parser.add_argument("--num-workers", type=int, default=0, help="that draw; 0: one a core")
    parser.add_argument("--data", type=Path, help="keep the videos here, and find them there again")
    arguments = parser.parse_args()
    if not arguments.checkpoint.is_file():
        parser.error(f"{arguments.checkpoint}: no such file; run `make demo`, or name another")
    num_videos = round(arguments.hours * 60 / arguments.minutes / 2)
    if num_videos < 1:
        parser.error("--hours must hold at least two videos of --minutes")

    from pipeline.operating_points import Wish

    wishes = [
        *(
            Wish(kind="false_alarms_per_hour", value=value)
            for value in arguments.max_false_alarms_per_hour
        ),
        *(Wish(kind="recall", value=value) for value in arguments.target_recall),
    ]
    print(f"machine: {machine()}")
    started = time.perf_counter()
    with _folder(arguments.data) as folder:
        labels, halves, events = scored_halves(arguments, folder, num_videos)
    drawn = time.perf_counter()
    result: dict[str, Any] = {
        "machine": machine(),
        "hours": round(sum(hours(scores.videos) for scores in halves.values()), 2),
        "videos": 2 * num_videos,
        "events": sum(
            len(video.references) for scores in halves.values() for video in scores.videos
        ),
    }
    for first, second in (HALVES, HALVES[::-1]):
        for wish in wishes:
            name = f"{first}_to_{second}_{wish.kind}_{wish.value:g}"
            result[name] = compare(halves[first], halves[second], wish, events, labels)
    result["at_one_false_alarm_an_hour"] = at_one_false_alarm(halves, events, labels)
    result["seconds"] = {
        "drawing_and_scoring": round(drawn - started),
        "calibrating": round(time.perf_counter() - drawn),
    }
    print("RESULT " + json.dumps(result))
    return 0


def machine() -> str:
    """Processor and number of cores, as the system calls them."""
    name = platform.processor() or platform.machine()
    cpus = Path("/proc/cpuinfo")
    lines = cpus.read_text(encoding="utf-8").splitlines() if cpus.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{models[0] if models else name}, {os.cpu_count()} cores, {platform.system()}"


@contextmanager
def _folder(given: Path | None) -> Iterator[Path]:
    if given is not None:
        yield given
        return
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def scored_halves(
    arguments: argparse.Namespace, folder: Path, num_videos: int
) -> tuple[tuple[str, ...], dict[str, CalibrationScores], EventsConfig]:
    """Labels of the model, scores of all frames of each half, and the rules that make events."""
    from tqdm import tqdm

    from pipeline import assembly
    from pipeline.calibrated_checkpoint import stored_temperatures
    from pipeline.calibration_scores import score_videos
    from utils.checkpoint import load_checkpoint
    from utils.data.annotations import load_annotations

    cascade, config = assembly.cascade_of_checkpoint(
        assembly.Request(candidate_threshold=0.0, thumbnails=False),
        arguments.checkpoint,
        device="cpu",
        strict=False,
    )
    if not all((folder / half / "annotations.json").is_file() for half in HALVES):
        draw(arguments, folder, num_videos, cascade.labels)
    temperatures = stored_temperatures(load_checkpoint(arguments.checkpoint), cascade.labels)
    halves = {}
    for half in HALVES:
        annotations = load_annotations(folder / half / "annotations.json")
        bar = tqdm(total=len(annotations.videos), desc=f"scoring {half}", disable=None)
        with bar:
            halves[half] = score_videos(
                cascade,
                annotations,
                temperatures=temperatures,
                # Our own files: no need of a process of its own.
                decoder="pyav",
                on_done=partial(_advance, bar),
            )
    return cascade.labels, halves, config.events


def _advance(bar: Any, _: str) -> None:
    bar.update()


def draw(
    arguments: argparse.Namespace, folder: Path, num_videos: int, labels: Sequence[str]
) -> None:
    """The data set, as the command makes it."""
    subprocess.run(  # noqa: S603 (a program of our own)
        [sys.executable, str(ROOT / "scripts" / "make_synthetic_dataset.py")]
        + ["--output", str(folder), "--num-train", "0"]
        + ["--num-val", str(num_videos), "--num-test", str(num_videos)]
        + ["--duration", str(60 * arguments.minutes), "--seed", str(arguments.seed)]
        + ["--events-per-hour", str(arguments.events_per_hour)]
        + ["--distractors-per-minute", str(arguments.distractors_per_minute)]
        + ["--num-workers", str(arguments.num_workers), "--classes", *labels],
        check=True,
    )


def hours(videos: Sequence[ScoredVideo]) -> float:
    """Of video."""
    return sum(video.duration_seconds for video in videos) / 3600


def compare(
    first: CalibrationScores,
    second: CalibrationScores,
    wish: Wish,
    events: EventsConfig,
    labels: Sequence[str],
) -> dict[str, Any]:
    """Calibrate on one half, count on the other."""
    from pipeline.calibration import CalibrationSettings, calibrate
    from utils.errors import UsageError
    from utils.evaluation.alarms import alarm_counts, over_classes

    settings = CalibrationSettings(events=events)
    try:
        calibration = calibrate(first.videos, wish, settings, temperatures=first.temperatures)
    except UsageError as error:
        print(f"\n{error}")
        return {"refused": str(error)}
    unseen = operated(second, calibration, events)
    counts = {
        label: alarm_counts(unseen, label, calibration.thresholds[label], settings.rules)
        for label in labels
    }
    overall = over_classes(counts)
    print(f"\n{wish}; calibrated on {hours(first.videos):.2f} hours")
    figures = {
        "promised": round(calibration.promised, 3),
        "false_alarms_an_hour": round(overall.false_alarms_per_hour, 3),
        "recall": round(overall.recall, 3),
        "found": f"{overall.num_detected}/{overall.num_references}",
        "is_kept": is_kept(calibration, counts),
    }
    said = calibration.overall
    rows = (
        (
            "false alarms an hour",
            (said.counts.false_alarms_per_hour, said.false_alarms_interval),
            (overall.false_alarms_per_hour, overall.false_alarms_interval(wish.confidence)),
        ),
        (
            "recall",
            (said.counts.recall, said.recall_interval),
            (overall.recall, overall.recall_interval(wish.confidence)),
        ),
    )
    print(
        f"{'':<22}{'calibrated':>11}  {'interval':<18}{'other half':>11}  {'its own interval':<18}"
    )
    for name, (here, printed), (there, own) in rows:
        assert printed is not None
        assert own is not None
        # Both are of the same true figure, and each half is a sample with luck of its own.
        do_agree = printed[0] <= own[1] and own[0] <= printed[1]
        print(
            f"{name:<22}{here:>11.3f}  {_words(printed):<18}{there:>11.3f}  {_words(own):<18}"
            f"{'agree' if do_agree else 'DISAGREE'}"
        )
        figures[f"{name.replace(' ', '_')}_intervals_agree"] = do_agree
    print(f"promised {calibration.promised:.3f}: {figures['is_kept']}")
    return figures


def _words(interval: tuple[float, float]) -> str:
    return f"{interval[0]:.3f} to {interval[1]:.3f}"


def operated(
    scores: CalibrationScores, calibration: Calibration, events: EventsConfig
) -> list[ScoredVideo]:
    """What the cascade sees of the videos at the operating point."""
    from pipeline.calibration import rescaled
    from pipeline.candidate_gate import gated

    return [
        gated(
            rescaled(video, scores.temperatures, calibration.temperatures),
            calibration.gate.threshold,
            context_seconds=events.context_seconds,
        )
        for video in scores.videos
    ]


def is_kept(calibration: Calibration, counts: Mapping[str, Any]) -> str:
    """Whether the other half bears the promise out: it is a sample, with luck of its own."""
    from pipeline.promises import share_upper_bound
    from utils.evaluation.alarms import over_classes
    from utils.evaluation.intervals import poisson_interval

    confidence = calibration.wish.confidence
    if calibration.wish.kind == "recall":
        if all(own.recall >= calibration.promised for own in counts.values()):
            return "kept"
        highest = min(
            share_upper_bound(own.num_detected, own.num_references, confidence=confidence)
            for own in counts.values()
        )
        return "kept, but for chance" if highest >= calibration.promised else "BROKEN"
    overall = over_classes(counts)
    if overall.false_alarms_per_hour <= calibration.promised:
        return "kept"
    lowest, _ = poisson_interval(
        overall.num_false_alarms, overall.quiet_hours, confidence=confidence
    )
    return "kept, but for chance" if lowest <= calibration.promised else "BROKEN"


def at_one_false_alarm(
    halves: Mapping[str, CalibrationScores], events: EventsConfig, labels: Sequence[str]
) -> dict[str, Any]:
    """Recall where all video together has one false alarm an hour, by class and in all.

    The threshold is chosen with the truth in sight: what the model could do, not a promise.
    """
    from pipeline.calibration import CalibrationSettings
    from utils.evaluation.sweeps import ThresholdSweep

    rules = CalibrationSettings(events=events).rules
    videos = [video for scores in halves.values() for video in scores.videos]
    print("\nrecall at one false alarm an hour, with the truth in sight")
    figures = {}
    for name, some in (*((label, [label]) for label in labels), ("one threshold for all", labels)):
        recall = ThresholdSweep(videos, some, rules).alarm_curve().recall_at(1.0)
        figures[name] = round(recall, 3)
        print(f"{name:<22}{recall:>11.3f}")
    return figures


if __name__ == "__main__":
    sys.exit(main())
