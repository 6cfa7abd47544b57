"""Judge a recipe by cross-validation: train on all groups of cameras but some, measure these.

Each group of the annotations is measured once for every seed, by a model that never saw it, with
the cascade as inference.py runs it. Prints a table; writes the same as JSON where asked to.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from utils import cli
from utils.errors import UsageError

if TYPE_CHECKING:
    from pipeline.cross_validation import FoldResult

logger = logging.getLogger("cross_validate")

_HEADINGS = ("frame AP", "trigger head AP", "frame AUROC", "event F1", "false alarms/h")
"""Of `pipeline.cross_validation.METRICS`."""


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    cli.add_config_arguments(parser)
    parser.add_argument(
        "--annotations",
        metavar="FILE",
        nargs="+",
        type=Path,
        help="all annotations (default: data.train_annotations and data.val_annotations)",
    )
    parser.add_argument(
        "--folds",
        metavar="N",
        type=int,
        help="parts of about the same content (default: a group each)",
    )
    parser.add_argument(
        "--seeds",
        metavar="SEED",
        nargs="+",
        type=int,
        help="a training each for every fold (default: training.seed)",
    )
    parser.add_argument("--output", metavar="FILE", type=Path, help="all figures, as JSON")
    cli.add_device_argument(parser)
    cli.add_common_arguments(parser)
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Cross-validate.

    Raises:
        UsageError: A flag does not fit, or the output cannot be written.
        VideoTriggerError: Config, annotations, weights or every video cannot be used.
    """
    from utils.config import load_config

    config = load_config(arguments.config, arguments.overrides)
    seeds = arguments.seeds or [config.training.seed]
    if len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise UsageError(
            f"--seeds {' '.join(map(str, seeds))}: give each seed once, and none below 0"
        )
    given = arguments.annotations or [
        Path(path)
        for path in (config.data.train_annotations, config.data.val_annotations)
        if path is not None
    ]
    if not given:
        raise UsageError("there is nothing to validate on; give --annotations FILE")

    from pipeline.cross_validation import METRICS, cross_validate, folds_of, pooled, summarize
    from utils.atomic_file import check_writable, write_json
    from utils.data.annotations import load_annotations
    from utils.device import resolve_device

    annotations = pooled([load_annotations(path, named_by="--annotations") for path in given])
    if arguments.output is not None:
        videos = (video.path for video in annotations.videos)
        check_writable(arguments.output, inputs=(*given, *videos))
    num_trainings = len(folds_of(annotations, arguments.folds)) * len(seeds)
    results: list[FoldResult] = []
    for result in cross_validate(
        config,
        annotations,
        num_folds=arguments.folds,
        seeds=seeds,
        device=resolve_device(arguments.device),
    ):
        results.append(result)
        logger.info("%d of %d: %s", len(results), num_trainings, _line(result))
    summaries = {name: summarize(results, name) for name in METRICS}
    if arguments.output is not None:
        content = {
            "summary": {name: vars(summary) for name, summary in summaries.items()},
            "folds": [result.to_plain() for result in results],
            "config": config.to_plain(),
        }
        write_json(content, arguments.output)
    print(f"{'':26}" + "".join(f"  {heading:>15}" for heading in _HEADINGS))
    for result in results:
        print(_line(result))
    for heading, part in (
        ("mean", "mean"),
        ("deviation over folds", "fold_deviation"),
        ("deviation over seeds", "seed_deviation"),
    ):
        values = [getattr(summaries[name], part) for name in METRICS]
        print(f"{heading:<26}" + _cells(values))
    if arguments.output is not None:
        print(f"figures: {arguments.output}")


def _line(result: FoldResult) -> str:
    groups = ", ".join(Path(group).name for group in result.groups)
    name = f"seed {result.seed}, {groups}"
    return f"{name if len(name) <= 26 else name[:23] + '...':<26}" + _cells(
        list(result.metrics.values())
    )


def _cells(values: Sequence[float | None]) -> str:
    return "".join(f"  {'-' if value is None else f'{value:.3f}':>15}" for value in values)


if __name__ == "__main__":
    sys.exit(cli.run(main, build_parser()))
