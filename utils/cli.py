"""What every command shares: logs on stderr, one ``error:`` line, exit codes, common arguments."""

from __future__ import annotations

import argparse
import io
import logging
import os
import re
import sys
from collections.abc import Callable, Sequence

from utils.errors import VideoTriggerError

EXIT_INTERRUPTED = 130
"""What a shell reports for a command that SIGINT ended: 128 + 2."""
EXIT_NO_READER = 141
"""What a shell reports for a command that SIGPIPE ended: 128 + 13."""


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what every command understands: ``--verbose``."""
    parser.add_argument(
        "--verbose",
        action="store_true",
        help="debug messages, and the whole traceback of an error",
    )


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--config`` and ``--set``."""
    parser.add_argument(
        "--config",
        metavar="NAME",
        default="configs/config.yaml",
        help="a YAML file, or the name of one in configs/ (default: %(default)s)",
    )
    parser.add_argument(
        "--set",
        metavar="section.key=value",
        dest="overrides",
        action="append",
        default=[],
        help="override one key of the config; may be given again",
    )


def add_device_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--device``, which `resolve_device` reads."""
    parser.add_argument(
        "--device",
        metavar="DEVICE",
        default=None,
        help="cpu, cuda or cuda:N (default: cuda where there is one, else cpu)",
    )


def set_up_logging(verbose: bool) -> None:
    """Log to stderr; stdout is the command's result."""
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.DEBUG if verbose else logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s" if verbose else "%(message)s",
        force=True,
    )
    if verbose:
        # Their debug output drowns ours.
        for name in ("matplotlib", "PIL", "h5py", "asyncio", "filelock", "urllib3", "httpcore"):
            logging.getLogger(name).setLevel(logging.INFO)


def run(
    main: Callable[[argparse.Namespace], int | None],
    parser: argparse.ArgumentParser,
    argv: Sequence[str] | None = None,
) -> int:
    """Parse ``argv``, run ``main`` and return the exit code.

    A ``VideoTriggerError`` becomes one ``error:`` line on stderr and its exit code; with
    ``--verbose`` the traceback comes first. Any other exception is a bug and keeps its traceback.
    """
    arguments = parser.parse_args(argv)
    verbose = bool(getattr(arguments, "verbose", False))
    set_up_logging(verbose)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A file name need not be text, and must not end the command that reports on it.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        exit_code = main(arguments) or 0
        sys.stdout.flush()
        return exit_code
    except VideoTriggerError as error:
        if verbose:
            logging.getLogger(__name__).exception("traceback of the error below")
        print(f"error: {_one_line(str(error))}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        if _stdout_has_reader():
            raise
        # The reader of stdout (head, say) went away; Python would complain again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_NO_READER
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED


def _one_line(text: str) -> str:
    # Spaces stay as they are: they may be those of a file name.
    return re.sub(r"\s*\n\s*", " ", text.strip())


def _stdout_has_reader() -> bool:
    """Whether stdout can still be written; a pipe can also break towards another process."""
    try:
        print(flush=True)
    except BrokenPipeError:
        return False
    return True
