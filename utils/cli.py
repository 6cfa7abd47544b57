"""What every command shares: logs on stderr, one ``error:`` line, exit codes, common arguments."""

from __future__ import annotations

import argparse
import io
import logging
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

from utils.errors import VideoTriggerError

EXIT_INTERRUPTED = 130
"""What a shell reports for a command that SIGINT ended: 128 + 2."""
EXIT_TERMINATED = 143
"""What a shell reports for a command that SIGTERM ended: 128 + 15."""
EXIT_NO_READER = 141
"""What a shell reports for a command that SIGPIPE ended: 128 + 13."""


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what every command understands: ``--verbose``."""
    parser.add_argument(
        "--verbose",
        action="store_true",
        help="debug messages, and the whole traceback of an error",
    )


def add_config_arguments(parser: argparse.ArgumentParser, *, stored_in: str | None = None) -> None:
    """Add ``--config`` and ``--set``.

    Args:
        parser: Of the command.
        stored_in: What brings a config of its own along, which is used where none is named:
            ``arguments.config`` is None then. By default it is ``configs/config.yaml``.
    """
    default = "configs/config.yaml"
    parser.add_argument(
        "--config",
        metavar="NAME",
        default=default if stored_in is None else None,
        help="a YAML file, or the name of one in configs/ (default: "
        f"{default if stored_in is None else f'the config stored in {stored_in}'})",
    )
    parser.add_argument(
        "--set",
        metavar="section.key=value",
        dest="overrides",
        action="append",
        default=[],
        help="override one key of the config; may be given again",
    )


def add_checkpoint_arguments(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """Add ``--checkpoint`` and what decides how it is run.

    Args:
        parser: Of the command.
        required: Whether the command can do nothing without a checkpoint.
    """
    parser.add_argument(
        "--checkpoint", metavar="FILE", required=required, help="what train.py wrote"
    )
    for name, use in (("", "there is an event"), ("candidate-", "the temporal encoder looks")):
        parser.add_argument(
            f"--{name}threshold",
            type=float,
            metavar="SCORE",
            help=f"from which score on {use} (default: the checkpoint's)",
        )
    add_strict_loading_argument(parser)


def add_strict_loading_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--strict-loading``; what the model lacks is refused with and without it."""
    parser.add_argument(
        "--strict-loading",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="refuse a checkpoint with tensors that the model has no use for",
    )


def add_device_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--device``, which `resolve_device` reads."""
    parser.add_argument(
        "--device",
        metavar="DEVICE",
        default=None,
        help="cpu, cuda or cuda:N (default: cuda where there is one, else cpu)",
    )


class Terminated(KeyboardInterrupt):
    """SIGTERM came: what cleans up after Ctrl-C cleans up after it, too."""


def _terminate_like_ctrl_c() -> Any:
    """Let SIGTERM raise `Terminated` in this process; returns the handler until now."""
    process = os.getpid()

    def terminate(number: int, frame: FrameType | None) -> None:
        if os.getpid() != process:
            # A forked worker inherits the handler. It has nothing to clean up, and its parent
            # looks at how it ended.
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        raise Terminated

    return signal.signal(signal.SIGTERM, terminate)


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
    Inside ``main`` SIGTERM raises `Terminated`.
    """
    arguments = parser.parse_args(argv)
    verbose = bool(getattr(arguments, "verbose", False))
    set_up_logging(verbose)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A file name need not be text, and must not end the command that reports on it.
        sys.stdout.reconfigure(errors="backslashreplace")
    previous = _terminate_like_ctrl_c()
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
    except Terminated:
        print("terminated", file=sys.stderr)
        return EXIT_TERMINATED
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    finally:
        # None stands for a handler that is not Python's.
        signal.signal(signal.SIGTERM, signal.SIG_DFL if previous is None else previous)


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
