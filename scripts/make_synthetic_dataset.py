"""Make a synthetic data set: street scenes with exact labels, for demos and benchmarks.

Writes ``OUTPUT/{train,val,test}/video_NNN.mp4`` and an ``annotations.json`` beside them. No camera
is in two splits. The same arguments give the same files.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from utils.cli import add_common_arguments, run
from utils.errors import UsageError


def build_parser() -> argparse.ArgumentParser:
    """What the command understands."""
    parser = argparse.ArgumentParser(
        description="Draw street videos in which people walk, vehicles stop and crowds gather, "
        "among distractors that only time tells apart, and write them with their annotations.",
    )
    parser.add_argument("--output", metavar="DIR", required=True, help="folder for the splits")
    parser.add_argument(
        "--num-train", metavar="N", type=int, default=24, help="videos (default: %(default)s)"
    )
    parser.add_argument(
        "--num-val", metavar="N", type=int, default=6, help="videos (default: %(default)s)"
    )
    parser.add_argument(
        "--num-test", metavar="N", type=int, default=6, help="videos (default: %(default)s)"
    )
    parser.add_argument(
        "--duration",
        metavar="SECONDS",
        type=float,
        default=20.0,
        help="of each video (default: %(default)s)",
    )
    parser.add_argument(
        "--seed", metavar="N", type=int, default=0, help="another seed, another set (default: 0)"
    )
    parser.add_argument(
        "--fps",
        metavar="N",
        type=float,
        default=12.5,
        help="frames a second (default: %(default)s)",
    )
    parser.add_argument(
        "--size",
        metavar="WxH",
        default="256x144",
        help="pixels, even numbers (default: %(default)s)",
    )
    rate = parser.add_mutually_exclusive_group()
    rate.add_argument(
        "--events-per-minute",
        metavar="R",
        type=float,
        default=None,
        help="annotated events, over all classes (default: 4 for each class)",
    )
    rate.add_argument(
        "--events-per-hour", metavar="R", type=float, default=None, help="for rare events"
    )
    parser.add_argument(
        "--distractors-per-minute",
        metavar="R",
        type=float,
        default=12.0,
        help="vehicles that slow down and drive on, or drive through; as many as there is room for "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--classes",
        metavar="NAME",
        nargs="+",
        default=None,
        help="of 'person walking', 'vehicle stopping' and 'crowded scene' (default: all)",
    )
    parser.add_argument(
        "--num-workers",
        metavar="N",
        type=int,
        default=0,
        help="processes that draw videos, one each; 0: one a core (default: %(default)s)",
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace the files of an earlier run; others are never touched",
    )
    add_common_arguments(parser)
    return parser


def main(arguments: argparse.Namespace) -> int:
    """Write the data set and print where it is and what is in it."""
    from tqdm import tqdm

    from pipeline.executor import map_in_processes
    from utils.data.synthetic.script import LABELS
    from utils.data.synthetic.writer import SyntheticSettings, VideoJob, write_dataset

    size = re.fullmatch(r"(\d+)x(\d+)", arguments.size)
    if size is None:
        raise UsageError(f"--size must look like 256x144, got '{arguments.size}'")
    labels = tuple(arguments.classes or LABELS)
    events_per_minute = 4.0 * len(labels)
    if arguments.events_per_minute is not None:
        events_per_minute = arguments.events_per_minute
    elif arguments.events_per_hour is not None:
        events_per_minute = arguments.events_per_hour / 60
    settings = SyntheticSettings(
        num_videos={
            "train": arguments.num_train,
            "val": arguments.num_val,
            "test": arguments.num_test,
        },
        duration=arguments.duration,
        seed=arguments.seed,
        fps=arguments.fps,
        width=int(size[1]),
        height=int(size[2]),
        events_per_minute=events_per_minute,
        distractors_per_minute=arguments.distractors_per_minute,
        labels=labels,
    )
    if arguments.num_workers < 0:
        raise UsageError(f"--num-workers cannot be negative, got {arguments.num_workers}")
    num_workers = min(
        arguments.num_workers or os.cpu_count() or 1, sum(settings.num_videos.values())
    )

    def in_processes(draw: Callable[[VideoJob], int], jobs: Sequence[VideoJob]) -> Iterator[int]:
        return map_in_processes(draw, jobs, num_workers=num_workers)

    with tqdm(total=settings.total_frames, unit="frame", desc="drawing", disable=None) as bar:
        summaries = write_dataset(
            arguments.output,
            settings,
            overwrite=arguments.overwrite,
            # A single one is drawn here, where the bar moves with every frame.
            run_jobs=None if num_workers == 1 else in_processes,
            on_frames=bar.update,
        )
    for summary in summaries:
        counts = ", ".join(f"{count} {label}" for label, count in summary.num_events.items())
        vehicles = ", ".join(f"{count} {name}" for name, count in sorted(summary.conducts.items()))
        print(
            f"{summary.annotations_path}: {summary.num_videos} videos, "
            f"{summary.duration_seconds:g} s\n"
            f"  events: {counts}\n"
            f"  vehicles: {vehicles or 'none'}"
        )
    return 0


def command(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run(main, build_parser(), argv)


if __name__ == "__main__":
    sys.exit(command())
