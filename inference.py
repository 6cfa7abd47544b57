"""Run a trained checkpoint over videos: events as JSON, a timeline picture, a list on screen."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from utils.cli import (
    add_checkpoint_arguments,
    add_common_arguments,
    add_config_arguments,
    add_device_argument,
    run,
)
from utils.errors import UsageError


def build_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    flag = argparse.BooleanOptionalAction
    parser = argparse.ArgumentParser(
        prog="inference.py",
        description="Find the events of videos with a trained checkpoint.",
        epilog="Exit code: 0, 1 if a video failed, 2 for wrong usage, 130 or 143 if interrupted.",
    )
    add_config_arguments(parser, stored_in="the checkpoint or score file")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--video", metavar="PATH", help="a file, a folder, or a glob in quotes")
    source.add_argument(
        "--from-scores",
        metavar="PATH",
        help="score files of an earlier run, likewise: another threshold without decoding again",
    )
    add_checkpoint_arguments(parser, required=False)
    parser.add_argument(
        "--output",
        metavar="FILE",
        type=Path,
        default=Path("outputs/analysis.json"),
        help="the report; pictures and scores go beside it (default: %(default)s)",
    )
    parser.add_argument("--save-scores", action=flag, help="keep every frame's scores")
    parser.add_argument("--thumbnails", action=flag, help="a picture of each event")
    parser.add_argument(
        "--review-dir",
        metavar="DIR",
        type=Path,
        help="keep near misses, which peak just under the threshold, as clips for a person to "
        "judge; scripts/preprocess_data.py --add-reviewed takes the verdicts",
    )
    add_device_argument(parser)
    add_common_arguments(parser)
    return parser


def analyse_videos(arguments: argparse.Namespace) -> int:
    """Wire the run; the parts live in `pipeline`.

    Raises:
        UsageError: Flags do not fit each other, or a setting cannot be used.
        VideoTriggerError: The checkpoint or the only video cannot be used.
    """
    is_replay = arguments.from_scores is not None
    if not is_replay and arguments.checkpoint is None:
        raise UsageError("--video needs --checkpoint FILE, such as checkpoints/final_checkpoint.pt")
    if is_replay and arguments.checkpoint is not None:
        raise UsageError(
            "--checkpoint does nothing with --from-scores, whose scores are those of the model "
            "that saved them; leave one of the two out"
        )
    if is_replay and arguments.save_scores:
        raise UsageError("--save-scores needs --video; with --from-scores they are saved already")
    if is_replay and arguments.review_dir is not None:
        raise UsageError("--review-dir needs --video, to cut clips from; leave one of the two out")
    from pipeline import assembly, batch, console, inputs, report, score_file

    found = inputs.find_inputs(
        arguments.from_scores if is_replay else arguments.video,
        suffixes=(score_file.SCORES_SUFFIX,) if is_replay else inputs.VIDEO_SUFFIXES,
    )
    request = assembly.Request(
        config_name=arguments.config,
        overrides=arguments.overrides,
        threshold=arguments.threshold,
        candidate_threshold=arguments.candidate_threshold,
        thumbnails=arguments.thumbnails,
    )
    # Opened first: that the report cannot be written is known before hours of work.
    output = arguments.output
    with report.OutputFiles(output, is_single=found.is_single, inputs=found.paths) as files:
        analysis = (
            assembly.analysis_of_scores(request, found.paths)
            if is_replay
            else assembly.analysis_of_checkpoint(
                request,
                Path(arguments.checkpoint),
                device=arguments.device,
                strict=arguments.strict_loading,
            )
        )
        save_scores = arguments.save_scores
        if save_scores is None:
            save_scores = analysis.config.inference.save_scores
        outcome = batch.analyse(
            analysis,
            found,
            files,
            save_scores=save_scores and not is_replay,
            progress=console.ProgressBar(),
            review_dir=arguments.review_dir,
        )
    print(*console.result_lines(outcome, output), sep="\n")
    return 1 if outcome.num_failed else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run(analyse_videos, build_parser(), argv)


if __name__ == "__main__":
    sys.exit(main())
