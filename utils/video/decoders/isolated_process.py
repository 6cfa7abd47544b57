"""`DecoderProcess`: the process behind `IsolatedPyAvSource`, and the wait for its answers.

First room of the cascade. Every answer says which question it is to. A question for frames has many
answers: they are sent as soon as they are there, ahead of whoever will ask for them, and are put by
where they arrive before the answer that is waited for. So a process that dies takes none of the
frames with it that it had given out.
"""

from __future__ import annotations

import contextlib
import io
import os
import selectors
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, cast

from utils.errors import UsageError
from utils.video.decoders.isolated_worker import (
    OUT_OF_MEMORY,
    ProtocolError,
    read_message,
    write_message,
)

START_SECONDS = 60.0
"""The longest wait for the process itself, before it looks at the file."""

MAX_WAIT_SECONDS = 0.5
"""Of a wait that is longer than it was to be, no more than this counts."""

ENDING_SECONDS = 2.0
"""How long a process that closed its pipe, or was killed, may take to end."""

PIPE_BYTES = 1 << 20
"""The most that Linux gives without privileges; a picture then passes in few steps."""

READ_BYTES = 1 << 16
"""Of small messages, several at once."""

MAX_WORDS = 500
"""Numbers that one question may carry beside what it asks. It then fits into any pipe, and is
written at once even where nobody reads."""

_ONE_THREAD = dict.fromkeys(
    ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"), "1"
)
"""What NumPy does on many threads is not done there, and each of them takes address space."""

_ROOT = str(Path(__file__).resolve().parents[3])


class ProcessGoneError(Exception):
    """The process ended or was ended; the message says how, as an end to "the decoder ..."."""


class _Patience:
    """How long to wait for one message, without the time in which nobody ran.

    A container that is paused, a stopped job and a machine that sleeps stop both sides. Who wakes
    first must not take that for a stall of the other.
    """

    def __init__(self, seconds: float) -> None:
        self._left = seconds

    def wait(self, selector: selectors.BaseSelector) -> None:
        """Wait until there is something to read.

        Raises:
            TimeoutError: There is nothing, and the time is used up.
        """
        while True:
            step = max(0.0, min(self._left, MAX_WAIT_SECONDS))
            began = time.monotonic()
            is_ready = bool(selector.select(step))
            self._left -= min(time.monotonic() - began, step)
            if is_ready:
                return
            if step < MAX_WAIT_SECONDS:
                raise TimeoutError


class DecoderProcess:
    """The other process. It belongs to the process that started it, and to one thread there.

    Args:
        arguments: For the worker: ``target``, ``options``, ``path`` and ``memory_limit_bytes``.
        stall_seconds: The longest wait for one answer.

    Attributes:
        why_gone: How it ended; None while it runs.
        released: Frames of the worker that nobody needs; the next question takes word of them.
        stopped: Likewise questions whose further answers nobody needs. Both may be appended to by
            the garbage collector, in the midst of another question.
    """

    def __init__(self, arguments: dict[str, Any], *, stall_seconds: float) -> None:
        self._stall_seconds = stall_seconds
        self._owner = os.getpid()
        self.why_gone: str | None = None
        self.released: list[int] = []
        self.stopped: list[int] = []
        self._num_questions = 0
        self._arrived: dict[int, deque[dict[str, Any]]] = {}
        self._buffer = bytearray()
        search = [_ROOT, os.environ.get("PYTHONPATH", "")]
        self._process = subprocess.Popen(
            # Without -P a folder `utils` where the caller happens to be would be taken for ours.
            [sys.executable, "-P", "-m", "utils.video.decoders.isolated_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **_ONE_THREAD, "PYTHONPATH": os.pathsep.join(filter(None, search))},
            bufsize=0,
            # Ctrl-C and Ctrl-Z go to every process of the terminal's group. Out of it, this one is
            # neither killed in the midst of a file, whose end would then pass for damaged, nor
            # stopped so long that it seems stuck.
            process_group=0,
        )
        self._selector = selectors.DefaultSelector()
        self._answers = cast("io.FileIO", self._process.stdout)
        self._requests = cast("io.FileIO", self._process.stdin)
        _widen(self._answers)
        self._selector.register(self._answers, selectors.EVENT_READ)
        self._first = {**arguments, "parent": self._owner}

    def open(self) -> dict[str, Any]:
        """The answer to the first question: what was opened, or why it could not be.

        Raises:
            ProcessGoneError: As `ask`.
        """
        # Twice: the start of Python on a busy machine is no sign of a bad file.
        self.ask(self._first, wait_seconds=max(START_SECONDS, self._stall_seconds))
        return self.ask({})[0]

    def ask(
        self, request: dict[str, Any], *, wait_seconds: float | None = None
    ) -> tuple[dict[str, Any], bytearray]:
        """Send a question that has one answer, and wait for it.

        Raises:
            UsageError: The process was started by another one than this.
            ProcessGoneError: There is no process, or it gave no answer in time and was ended.
        """
        number = self.send(request)
        return self._wait_for(number, wait_seconds or self._stall_seconds)

    def send(self, request: dict[str, Any]) -> int:
        """Send a question, and the words of what is over; returns its number.

        Where there is no process any more, that is seen when the answer is waited for: answers that
        were given before may still be on their way.

        Raises:
            UsageError: As `ask`.
        """
        if os.getpid() != self._owner:
            raise UsageError(
                "a video that another process opened cannot be read here; open it in this one"
            )
        self._num_questions += 1
        over = {"release": _drained(self.released), "stop": _drained(self.stopped)}
        for number in over["stop"]:
            for answer in self._arrived.pop(number, ()):
                self._put_by(number, answer)
        if self.why_gone is None:
            with self._account_for_its_end(), contextlib.suppress(BrokenPipeError):
                write_message(
                    self._requests.write, {**request, **over, "number": self._num_questions}
                )
        return self._num_questions

    def expect(self, number: int) -> None:
        """Keep the answers to question ``number`` that arrive before they are waited for."""
        self._arrived[number] = deque()

    def next_answer(self, number: int) -> dict[str, Any]:
        """The next answer to question ``number``, which is expected.

        Raises:
            ProcessGoneError: As `ask`.
        """
        if self._arrived[number]:
            return self._arrived[number].popleft()
        return self._wait_for(number, self._stall_seconds)[0]

    def end(self) -> None:
        """Kill the process and close the pipes; harmless where that was done before."""
        if self._process.poll() is None:
            self._process.kill()
        # One that hangs in the kernel, on a dead network drive, dies only when that comes back.
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(ENDING_SECONDS)
        self._selector.close()
        self._answers.close()
        self._requests.close()

    def _wait_for(self, number: int, wait_seconds: float) -> tuple[dict[str, Any], bytearray]:
        while self.why_gone is None:
            # Anew for each message: as long as there are some, it makes progress.
            patience = _Patience(wait_seconds)
            with self._account_for_its_end(wait_seconds):
                header, payload = read_message(partial(self._receive, patience=patience))
                to = header.get("to")
                if not isinstance(to, int):
                    raise ProtocolError("it is to no question")
                if to == number:
                    return header, payload
                self._put_by(to, header)
        raise ProcessGoneError(self.why_gone)

    @contextlib.contextmanager
    def _account_for_its_end(self, wait_seconds: float = 0.0) -> Iterator[None]:
        """Set ``why_gone`` where talking to it fails in one of the ways that tell of its end."""
        try:
            yield
        except TimeoutError:
            self.end()
            self.why_gone = f"made no progress for {wait_seconds:g} s and was stopped"
        except EOFError:
            self.why_gone = self._how_it_ended()
        except ProtocolError as error:
            self.end()
            self.why_gone = f"gave an answer that makes no sense ({error}) and was stopped"
        except BaseException:
            # Such as Ctrl-C: nobody knows any more where in the pipe the next message begins.
            self.end()
            self.why_gone = "was stopped because reading from it was interrupted"
            raise

    def _put_by(self, number: int, answer: dict[str, Any]) -> None:
        """Keep an answer for later, or let go of its frame where nobody will ask for it."""
        if number in self._arrived:
            self._arrived[number].append(answer)
        elif answer.get("frame") is not None:
            self.released.append(answer["frame"])

    def _receive(self, size: int, *, patience: _Patience) -> bytearray:
        data = bytearray(size)
        view = memoryview(data)
        while view:
            if self._buffer:
                taken = self._buffer[: len(view)]
                del self._buffer[: len(taken)]
                view[: len(taken)] = taken
                view = view[len(taken) :]
                continue
            patience.wait(self._selector)
            if len(view) >= READ_BYTES:
                # Pixels: to where they shall be, without a way round.
                count = self._answers.readinto(view)
                view = view[count:]
            else:
                chunk = self._answers.read(READ_BYTES)
                count = len(chunk)
                self._buffer += chunk
            if not count:
                raise EOFError
        return data

    def _how_it_ended(self) -> str:
        # Its end of the pipe is closed a moment before it has an exit code.
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(ENDING_SECONDS)
        code = self._process.returncode
        self.end()
        if code is None:
            return "closed its pipe without an answer and was stopped"
        if code == OUT_OF_MEMORY:
            return "ran out of the memory that it may take"
        if code >= 0:
            return f"ended by itself with exit code {code}"
        try:
            return f"was killed by {signal.Signals(-code).name}"
        except ValueError:
            return f"was killed by signal {-code}"


def _widen(pipe: io.FileIO) -> None:
    """Let a picture pass in few steps, where the system has such a thing."""
    import fcntl

    request = getattr(fcntl, "F_SETPIPE_SZ", None)
    if request is not None:
        # Refused to a user who has many wide pipes already: then it is slower, and as right.
        with contextlib.suppress(OSError):
            fcntl.fcntl(pipe, request, PIPE_BYTES)


def _drained(numbers: list[int]) -> list[int]:
    """Take what is in the list, or much of it; others may append to it meanwhile."""
    return [numbers.pop() for _ in range(min(len(numbers), MAX_WORDS))]
