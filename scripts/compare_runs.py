"""Compare training runs: what differs in config, code, versions and data, and what came out.

A run is a folder in training.log_dir, or a checkpoint. Prints a table; writes the same as JSON and
the curves of loss and metrics as a picture where asked to.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from utils import cli
from utils.errors import UsageError


def build_parser() -> argparse.ArgumentParser:
    """What the command understands."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "runs", metavar="RUN", type=Path, nargs="+", help="two or more folders or checkpoints"
    )
    parser.add_argument("--output", metavar="FILE", type=Path, help="the comparison, as JSON")
    parser.add_argument("--plot", metavar="FILE", type=Path, help="the curves, as a PNG")
    cli.add_common_arguments(parser)
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Compare.

    Raises:
        UsageError: There are not two runs, one of them is none, or a file cannot be written.
        TrainingError: A file of a run is damaged.
        CheckpointError: A checkpoint cannot be read.
    """
    from utils.atomic_file import check_writable, write_json
    from utils.training.run_comparison import compare, read_run, table_lines

    if len(arguments.runs) < 2:
        raise UsageError(f"only one run, {arguments.runs[0]}; name another one to compare it with")
    if arguments.plot is not None and arguments.plot.suffix.lower() != ".png":
        raise UsageError(f"--plot {arguments.plot}: the picture is a PNG; let its name end in .png")
    runs = [read_run(path) for path in arguments.runs]
    records = [file for path in arguments.runs if path.is_dir() for file in path.iterdir()]
    for path in (arguments.output, arguments.plot):
        if path is not None:
            check_writable(path, inputs=[*arguments.runs, *records])
    comparison = compare(runs)
    if arguments.plot is not None:
        from utils.training.run_curves import draw_curves

        draw_curves(runs, arguments.plot)
    if arguments.output is not None:
        write_json(comparison, arguments.output)
    for line in table_lines(comparison):
        print(line)
    for what, path in (("comparison", arguments.output), ("curves", arguments.plot)):
        if path is not None:
            print(f"{what}: {path}")


def command(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return cli.run(main, build_parser(), argv)


if __name__ == "__main__":
    sys.exit(command())
