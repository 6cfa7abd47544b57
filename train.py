"""Train a trigger model on annotated videos: parse, load the config, build, fit."""

from __future__ import annotations

import argparse
import logging
import sys

from utils import cli

logger = logging.getLogger("train")


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    cli.add_config_arguments(parser)
    parser.add_argument(
        "--resume",
        metavar="PATH|latest",
        help="a checkpoint to go on from, or 'latest': the furthest whole one in "
        "training.checkpoint_dir",
    )
    parser.add_argument(
        "--allow-config-change",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="with --resume: go on though settings or data differ from the checkpoint's, and log "
        "each change",
    )
    cli.add_strict_loading_argument(parser)
    cli.add_device_argument(parser)
    cli.add_common_arguments(parser)
    return parser


def main(arguments: argparse.Namespace) -> int:
    """Train; returns the exit code."""
    from utils.config import load_config

    config = load_config(arguments.config, arguments.overrides)

    # After the config: a typing error in it must not wait for torch.
    from pipeline.training_setup import build_trainer, resume_path
    from utils.device import resolve_device

    device = resolve_device(arguments.device)
    trainer = build_trainer(
        config,
        device,
        resume_from=None if arguments.resume is None else resume_path(arguments.resume, config),
        allow_config_change=arguments.allow_config_change,
        strict_loading=arguments.strict_loading,
    )
    result = trainer.fit()
    progress = result.progress
    if not result.is_main_process:
        # One of several speaks for all.
        return result.exit_code
    if result.exit_code:
        logger.warning("stopped after update %d; go on with: --resume latest", progress.global_step)
    elif result.best_path is not None:
        metric = config.training.best_metric
        print(f"best: {result.best_path} (validation {metric} {progress.best_metric:.4f})")
    print(f"checkpoint: {result.checkpoint_path}")
    return result.exit_code


if __name__ == "__main__":
    sys.exit(cli.run(main, build_parser()))
