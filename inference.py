"""Run a trained checkpoint over videos: events as JSON, a timeline picture, a list on screen."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from utils.cli import add_common_arguments, add_config_arguments, add_device_argument, run
from utils.errors import UsageError


def build_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    flag = argparse.BooleanOptionalAction
    parser = argparse.ArgumentParser(
        prog="inference.py",
        description="Find the events of videos with a trained checkpoint.",
        epilog="Exit code: 0, 1 if a video failed, 2 for wrong usage, 130 if interrupted.",
    )
    add_config_arguments(parser)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--video", metavar="PATH", help="a file, a folder, or a glob in quotes")
    source.add_argument(
        "--from-scores",
        metavar="PATH",
        help="score files of an earlier run, likewise: another threshold without decoding again",
    )
    parser.add_argument("--checkpoint", metavar="FILE", help="what train.py wrote")
    parser.add_argument(
        "--output",
        metavar="FILE",
        type=Path,
        default=Path("outputs/analysis.json"),
        help="the report; pictures and scores go beside it (default: %(default)s)",
    )
    for name, use in (("", "there is an event"), ("candidate-", "the temporal encoder looks")):
        parser.add_argument(
            f"--{name}threshold",
            type=float,
            metavar="SCORE",
            help=f"from which score on {use} (default: the checkpoint's)",
        )
    parser.add_argument(
        "--strict-loading",
        action=flag,
        default=False,
        help="refuse a checkpoint with tensors that the model has no use for",
    )
    parser.add_argument("--save-scores", action=flag, help="keep every frame's scores")
    parser.add_argument("--thumbnails", action=flag, help="a picture of each event")
    add_device_argument(parser)
    add_common_arguments(parser)
    return parser


def analyse_videos(arguments: argparse.Namespace) -> int:
    """Wire the run; the parts live in `pipeline`."""
    is_replay = arguments.from_scores is not None
    if not is_replay and arguments.checkpoint is None:
        raise UsageError("--video needs --checkpoint FILE, such as checkpoints/final_checkpoint.pt")
    if is_replay and arguments.save_scores:
        raise UsageError("--save-scores needs --video; with --from-scores they are saved already")
    from pipeline import assembly, batch, console, inputs, report, score_file, settings

    config = settings.load_inference_config(arguments.config, arguments.overrides)
    found = inputs.find_inputs(
        arguments.from_scores if is_replay else arguments.video,
        suffixes=(score_file.SCORES_SUFFIX,) if is_replay else inputs.VIDEO_SUFFIXES,
    )
    request = assembly.Request(
        config=config,
        overrides=arguments.overrides,
        threshold=arguments.threshold,
        candidate_threshold=arguments.candidate_threshold,
        thumbnails=_flag_or(arguments.thumbnails, config.inference.thumbnails),
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
        outcome = batch.analyse(
            analysis,
            found,
            files,
            config=report.config_entry(
                analysis.settings, analysis.sampling, describer=config.model.llm.describer
            ),
            save_scores=not is_replay
            and _flag_or(arguments.save_scores, config.inference.save_scores),
            progress=console.ProgressBar(),
        )
    print(*console.result_lines(outcome, output), sep="\n")
    return 1 if outcome.num_failed else 0


def _flag_or(flag: bool | None, default: bool) -> bool:
    return default if flag is None else flag


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run(analyse_videos, build_parser(), argv)


if __name__ == "__main__":
    sys.exit(main())
