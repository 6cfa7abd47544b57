"""Commands: exit codes, the one error line, what goes to stdout and what to stderr."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from utils import cli
from utils.errors import CheckpointError, UnknownNameError, UsageError, VideoNotFoundError


@pytest.fixture
def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="command")
    cli.add_common_arguments(made)
    cli.add_config_arguments(made)
    cli.add_device_argument(made)
    return made


def failing(error: BaseException) -> Callable[[argparse.Namespace], int]:
    def main(arguments: argparse.Namespace) -> int:
        raise error

    return main


def run_command(root: Path, body: str, *, shell: str = "{}") -> subprocess.CompletedProcess[str]:
    """A command of its own whose ``main`` has ``body``."""
    code = (
        "import argparse, logging, os, sys\nfrom utils import cli\n"
        "parser = argparse.ArgumentParser()\ncli.add_common_arguments(parser)\n"
        f"def main(arguments):\n{textwrap.indent(textwrap.dedent(body).strip(), '    ')}\n"
        "sys.exit(cli.run(main, parser))\n"
    )
    return subprocess.run(
        ["bash", "-c", shell.format('"$0" -c "$1"'), sys.executable, code],
        capture_output=True,
        text=True,
        cwd=root,
        # With a buffer, as stdout has for a user: what is in it is written at the very end.
        env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
        check=False,
    )


@pytest.mark.parametrize(("returned", "code"), [(0, 0), (None, 0), (1, 1), (130, 130)])
def test_the_exit_code_is_what_main_returns(
    parser: argparse.ArgumentParser, returned: int | None, code: int
) -> None:
    assert cli.run(lambda arguments: returned, parser, []) == code


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UsageError("no such thing"), 2, "error: no such thing"),
        (UnknownNameError("unknown x"), 2, "error: unknown x"),
        (CheckpointError("x.pt: cut\n  off"), 1, "error: x.pt: cut off"),
        (VideoNotFoundError("a  b.mp4", "no such file"), 1, "error: a  b.mp4: no such file"),
    ],
)
def test_an_error_is_one_line_on_stderr(
    parser: argparse.ArgumentParser,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    code: int,
    line: str,
) -> None:
    assert cli.run(failing(error), parser, []) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == f"{line}\n"


def test_verbose_gives_the_traceback_before_the_line(
    parser: argparse.ArgumentParser, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(failing(UsageError("no such thing")), parser, ["--verbose"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1] == "error: no such thing"
    assert "Traceback (most recent call last):" in lines
    assert logging.getLogger().level == logging.DEBUG
    assert not logging.getLogger("PIL.Image").isEnabledFor(logging.DEBUG)


def test_a_bug_keeps_its_traceback(parser: argparse.ArgumentParser) -> None:
    with pytest.raises(ZeroDivisionError, match="bug"):
        cli.run(failing(ZeroDivisionError("bug")), parser, [])


def test_ctrl_c(parser: argparse.ArgumentParser, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(failing(KeyboardInterrupt()), parser, []) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_sigterm(parser: argparse.ArgumentParser, capsys: pytest.CaptureFixture[str]) -> None:
    """It cleans up like Ctrl-C, and what the signal did before the command it does after it."""
    cleaned: list[str] = []
    before = signal.getsignal(signal.SIGTERM)

    def main(arguments: argparse.Namespace) -> int:
        try:
            signal.raise_signal(signal.SIGTERM)
        except KeyboardInterrupt:
            cleaned.append("up")
            raise
        return 0

    assert cli.run(main, parser, []) == 143
    assert cleaned == ["up"]
    assert capsys.readouterr().err == "terminated\n"
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_sigterm_ends_a_forked_worker_at_once(root: Path) -> None:
    body = """
        at_work, tell = os.pipe()
        child = os.fork()
        if not child:
            os.write(tell, b"x")
            time.sleep(20)
            os._exit(0)
        os.read(at_work, 1)
        os.kill(child, signal.SIGTERM)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        """
    done = run_command(root, f"import signal, time\n{textwrap.dedent(body).strip()}")
    assert (done.returncode, done.stdout, done.stderr) == (0, "-15\n", "")


def test_wrong_arguments_exit_with_2(
    parser: argparse.ArgumentParser, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.run(lambda arguments: 0, parser, ["--no-such-flag"])
    assert caught.value.code == 2
    assert "unrecognized arguments: --no-such-flag" in capsys.readouterr().err


def test_shared_arguments(parser: argparse.ArgumentParser) -> None:
    default = parser.parse_args([])
    assert default.config == "configs/config.yaml"
    assert (default.overrides, default.device, default.verbose) == ([], None, False)
    given = parser.parse_args(
        ["--set", "a.b=1", "--set", "c.d=x y", "--device", "cuda:1", "--config", "demo"]
    )
    assert given.overrides == ["a.b=1", "c.d=x y"]
    assert (given.device, given.config) == ("cuda:1", "demo")
    # A default list that is appended to would carry over.
    assert parser.parse_args([]).overrides == []


def test_a_command_whose_config_is_stored_has_no_default_one() -> None:
    made = argparse.ArgumentParser(prog="command")
    cli.add_config_arguments(made, stored_in="the checkpoint")
    assert made.parse_args([]).config is None
    assert "(default: the config stored in the checkpoint)" in " ".join(made.format_help().split())


def test_results_go_to_stdout_and_the_log_to_stderr(root: Path) -> None:
    done = run_command(root, "logging.getLogger('x').info('working')\nprint('result')")
    assert (done.returncode, done.stdout, done.stderr) == (0, "result\n", "working\n")


@pytest.mark.parametrize(
    "body",
    ["print('result')", "for _ in range(100_000): print('result')", "print('x' * 1_000_000)"],
    ids=["at exit", "many lines", "one long line"],
)
def test_a_reader_of_stdout_that_leaves(root: Path, body: str) -> None:
    # It has long left when the first byte comes.
    done = run_command(
        root, f"import time\ntime.sleep(0.2)\n{body}", shell="{} | true; exit ${{PIPESTATUS[0]}}"
    )
    assert (done.returncode, done.stderr) == (141, "")


def test_another_broken_pipe_is_a_bug_and_shown(root: Path) -> None:
    done = run_command(root, "read, write = os.pipe()\nos.close(read)\nos.write(write, b'x')")
    assert done.returncode == 1
    assert "BrokenPipeError" in done.stderr


def test_a_file_name_that_is_no_text_can_be_printed(root: Path) -> None:
    done = run_command(root, r"print(os.fsdecode(b'v\xff.mp4'))")
    assert (done.returncode, done.stdout, done.stderr) == (0, "v\\udcff.mp4\n", "")
