"""`IsolatedPyAvSource`: the default decoder in a process of its own, for files not to be trusted.

First room of the cascade. A decoder that loops, dies or eats memory takes its process with it and
no more: the process is watched, ended where it makes no progress, and what is missing is reported
like the cut end of a file. Frames stay in the other process until their pixels are asked for.

It shares user and file system with the caller: this keeps accidents apart, it is no sandbox against
an attack on the decoder.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import selectors
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import IO, Any, ClassVar

import numpy as np

import utils.errors
from utils.errors import UsageError, VideoDecodeError, VideoError
from utils.video.decoders.isolated_worker import (
    OUT_OF_MEMORY,
    ProtocolError,
    read_message,
    write_message,
)
from utils.video.source import (
    DecodedFrame,
    DecodeLoss,
    Image,
    Skipping,
    VideoInfo,
    VideoSource,
    check_time_error,
)

STALL_SECONDS = 30.0
"""The longest wait for one frame. Disks that spin up and servers take 10 s and more."""

START_SECONDS = 60.0
"""The longest wait for the process itself, before it looks at the file."""

MEMORY_LIMIT_BYTES = 8 * 1024**3
"""Address space of the process. HEVC of 7680 x 4320 pixels and 10 bits takes half of it where
FFmpeg runs 16 threads, the most that it starts by itself."""

ENDING_SECONDS = 2.0
"""How long a process that closed its pipe may take to end."""

PIPE_BYTES = 1 << 20
"""The most that Linux gives without privileges; a picture then passes in few steps."""

_ROOT = str(Path(__file__).resolve().parents[3])


class _WorkerGoneError(Exception):
    """The process ended or was ended; the message says how, as an end to "the decoder ..."."""


class _Worker:
    """The other process, and the wait for its answers."""

    def __init__(self, arguments: dict[str, Any], *, stall_seconds: float) -> None:
        self._stall_seconds = stall_seconds
        self.why_gone: str | None = None
        search = [_ROOT, os.environ.get("PYTHONPATH", "")]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "utils.video.decoders.isolated_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, search))},
            bufsize=0,
            # Ctrl-C and Ctrl-Z go to every process of the terminal's group. Out of it, this one is
            # neither killed in the midst of a file, whose end would then pass for damaged, nor
            # stopped so long that it seems stuck.
            process_group=0,
        )
        self._selector = selectors.DefaultSelector()
        assert self._process.stdout is not None
        assert self._process.stdin is not None
        self._answers, self._requests = self._process.stdout, self._process.stdin
        _widen(self._answers)
        self._selector.register(self._answers, selectors.EVENT_READ)
        self._first = arguments

    def open(self) -> dict[str, Any]:
        """The answer to the first request: what was opened, or why it could not be.

        Raises:
            _WorkerGoneError: As `ask`.
        """
        # Twice: the start of Python on a busy machine is no sign of a bad file.
        self.ask(self._first, wait_seconds=max(START_SECONDS, self._stall_seconds))
        return self.ask({})[0]

    def ask(
        self, request: dict[str, Any], *, wait_seconds: float | None = None
    ) -> tuple[dict[str, Any], bytes]:
        """Send a request and wait for the answer, ``stall_seconds`` unless told otherwise.

        Raises:
            _WorkerGoneError: There is no process, or it gave no answer in time and was ended.
        """
        if self.why_gone is not None:
            raise _WorkerGoneError(self.why_gone)
        wait_seconds = wait_seconds or self._stall_seconds
        deadline = time.monotonic() + wait_seconds
        try:
            write_message(self._requests.write, request)
            return read_message(lambda size: self._receive(size, deadline))
        except TimeoutError:
            self.end()
            self.why_gone = f"made no progress for {wait_seconds:g} s and was stopped"
        except (EOFError, BrokenPipeError):
            self.why_gone = self._how_it_ended()
        except ProtocolError as error:
            self.end()
            self.why_gone = f"gave an answer that makes no sense ({error}) and was stopped"
        raise _WorkerGoneError(self.why_gone)

    def end(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._selector.close()
        self._answers.close()
        self._requests.close()

    def _receive(self, size: int, deadline: float) -> bytes:
        chunks = []
        while size:
            if not self._selector.select(max(0.0, deadline - time.monotonic())):
                raise TimeoutError
            chunk = self._answers.read(min(size, 1 << 20))
            if not chunk:
                raise EOFError
            chunks.append(chunk)
            size -= len(chunk)
        return b"".join(chunks)

    def _how_it_ended(self) -> str:
        # Its end of the pipe is closed a moment before it has an exit code.
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(ENDING_SECONDS)
        self.end()
        code = self._process.returncode
        if code == OUT_OF_MEMORY:
            return "ran out of the memory that it may take"
        if code >= 0:
            return f"ended by itself with exit code {code}"
        try:
            return f"was killed by {signal.Signals(-code).name}"
        except ValueError:
            return f"was killed by signal {-code}"


def _widen(pipe: IO[bytes]) -> None:
    """Let a picture pass in few steps, where the system has such a thing."""
    import fcntl

    request = getattr(fcntl, "F_SETPIPE_SZ", None)
    if request is not None:
        # Refused to a user who has many wide pipes already: then it is slower, and as right.
        with contextlib.suppress(OSError):
            fcntl.fcntl(pipe, request, PIPE_BYTES)


class _IsolatedFrame(DecodedFrame):
    """A frame that lies in the other process."""

    def __init__(
        self, source: IsolatedPyAvSource, key: int, *, frame_index: int, timestamp: float
    ) -> None:
        self._source = source
        self._finalizer = weakref.finalize(self, source._released.append, key)
        self._finalizer.atexit = False
        self._key = key
        self.frame_index = frame_index
        self.timestamp = timestamp

    def rgb(self, *, short_side: int | None = None) -> Image:
        return self._source._to_rgb(self._key, self.timestamp, short_side)


class IsolatedPyAvSource(VideoSource):
    """As `PyAvSource`, in a process of its own.

    Should that process stall or die once frames were given out, the frames end there; ``loss`` says
    where and why, and counts what is missing up to the end that the container claims.

    Args:
        path: File or URL.
        stall_seconds: The longest wait for one answer; then the process is ended.
        memory_limit_bytes: Address space of the process; without effect on macOS, which has no
            such limit.

    Raises:
        UsageError: ``stall_seconds`` is out of range, or the system is neither Linux nor macOS.
        VideoError: As `PyAvSource`; and `VideoDecodeError` where the process stalls or dies before
            the first frame.
    """

    target: ClassVar[str] = "utils.video.decoders.pyav:PyAvSource"
    """What decodes in the other process, as ``module:attribute``."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        stall_seconds: float = STALL_SECONDS,
        memory_limit_bytes: int = MEMORY_LIMIT_BYTES,
    ) -> None:
        if os.name != "posix":
            raise UsageError(
                "decoder 'pyav_isolated' needs Linux or macOS; choose another, such as 'pyav' "
                "(data.decoder)"
            )
        if not (math.isfinite(stall_seconds) and stall_seconds > 0):
            raise UsageError(f"stall_seconds must be above 0, got {stall_seconds}")
        self._path = os.fspath(path)
        self._stall_seconds = stall_seconds
        self._memory_limit_bytes = memory_limit_bytes
        # Frames and readings that nobody needs any more; the next question takes word of them.
        self._released: list[int] = []
        self._stopped: list[int] = []
        self._is_closed = False
        self._running: weakref.WeakSet[Generator[DecodedFrame]] = weakref.WeakSet()
        self._num_readings = 0
        self.loss, self.skipping = DecodeLoss(), Skipping()
        self._worker = _Worker(
            {
                "target": self.target,
                "path": self._path,
                "memory_limit_bytes": memory_limit_bytes,
                "parent": os.getpid(),
            },
            stall_seconds=stall_seconds,
        )
        self._close_worker = weakref.finalize(self, self._worker.end)
        try:
            answer = self._worker.open()
            self._raise_error(answer)
            self.info = VideoInfo(**answer["info"])
        except _WorkerGoneError as gone:
            self.close()
            raise VideoDecodeError(
                self._path, f"the decoder {gone} before the first frame; the file is damaged"
            ) from None
        except VideoError:
            self.close()
            raise

    def frames(self, start_seconds: float = 0.0) -> Iterator[DecodedFrame]:
        return self._start(start_seconds, None)

    def sparse_frames(
        self, start_seconds: float = 0.0, *, max_time_error_seconds: float
    ) -> Iterator[DecodedFrame]:
        check_time_error(max_time_error_seconds)
        return self._start(start_seconds, max_time_error_seconds)

    def close(self) -> None:
        self._is_closed = True
        for generator in list(self._running):
            generator.close()
        self._close_worker()

    def _start(
        self, start_seconds: float, max_time_error_seconds: float | None
    ) -> Iterator[DecodedFrame]:
        if self._is_closed:
            raise UsageError(f"{self._path}: the source is closed; open it again to read on")
        if not math.isfinite(start_seconds):
            raise UsageError(f"start_seconds must be a finite number, got {start_seconds}")
        self.loss, self.skipping = DecodeLoss(), Skipping()
        self._num_readings += 1
        request = {
            "do": "start",
            "reading": self._num_readings,
            "start_seconds": start_seconds,
            "max_time_error_seconds": max_time_error_seconds,
        }
        generator = self._read(request, self.loss, self.skipping)
        self._running.add(generator)
        return generator

    def _read(
        self, request: dict[str, Any], loss: DecodeLoss, skipping: Skipping
    ) -> Generator[DecodedFrame]:
        reading = request["reading"]
        last: float | None = None
        try:
            self._ask(request)
            while True:
                answer = self._ask({"do": "next", "reading": reading})
                _copy(answer["loss"], loss)
                _copy(answer["skipping"], skipping)
                self._raise_error(answer)
                if answer["frame"] is None:
                    return
                last = answer["timestamp"]
                yield _IsolatedFrame(
                    self,
                    answer["frame"],
                    frame_index=answer["frame_index"],
                    timestamp=answer["timestamp"],
                )
        except _WorkerGoneError as gone:
            if last is None:
                raise VideoDecodeError(
                    self._path,
                    f"the decoder {gone} before a frame at or after "
                    f"{request['start_seconds']:.3f} s",
                ) from None
            self._account_for_the_rest(loss, last, str(gone))
        finally:
            # Not asked for here: the garbage collector may be closing this in the midst of another
            # question.
            self._stopped.append(reading)

    def _account_for_the_rest(self, loss: DecodeLoss, last: float, why: str) -> None:
        note = f"the decoder {why} after {last:.3f} s"
        claimed = self.info.duration_seconds
        if claimed is not None:
            step = 1 / self.info.source_fps if self.info.source_fps else 0.0
            missing = max(0.0, claimed - last - step)
            loss.lost_seconds += missing
            note += f": {missing:.2f} s at the end are missing"
        loss.notes.append(note)

    def _to_rgb(self, key: int, timestamp: float, short_side: int | None) -> Image:
        if self._is_closed:
            raise UsageError(f"{self._path}: the source is closed; take pixels before that")
        try:
            header, pixels = self._worker.ask(
                self._with_what_is_over({"do": "rgb", "frame": key, "short_side": short_side})
            )
        except _WorkerGoneError as gone:
            return self._to_rgb_again(timestamp, short_side, str(gone))
        return np.frombuffer(bytearray(pixels), np.uint8).reshape(header["shape"])

    def _to_rgb_again(self, timestamp: float, short_side: int | None, why: str) -> Image:
        """The pixels of a frame whose process is gone, from a new one that reads up to there."""
        with type(self)(
            self._path,
            stall_seconds=self._stall_seconds,
            memory_limit_bytes=self._memory_limit_bytes,
        ) as again:
            for frame in again.frames(timestamp):
                if frame.timestamp == timestamp and again._worker.why_gone is None:
                    return frame.rgb(short_side=short_side)
                break
        raise VideoDecodeError(
            self._path, f"the decoder {why}; its frame at {timestamp:.3f} s went with it"
        )

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        return self._worker.ask(self._with_what_is_over(request))[0]

    def _with_what_is_over(self, request: dict[str, Any]) -> dict[str, Any]:
        return {**request, "release": _drained(self._released), "stop": _drained(self._stopped)}

    def _raise_error(self, answer: dict[str, Any]) -> None:
        """Raise what the decoder raised in the other process."""
        if "error" in answer:
            kind: Callable[[str, str], VideoError] = getattr(utils.errors, answer["error"])
            raise kind(self._path, answer["reason"])


def _drained(keys: list[int]) -> list[int]:
    """What is in the list, which is empty then; others may append to it meanwhile."""
    return [keys.pop() for _ in range(len(keys))]


def _copy(fields: dict[str, Any], record: Any) -> None:
    for field in dataclasses.fields(record):
        value = fields[field.name]
        if isinstance(value, list):
            getattr(record, field.name)[:] = value
        else:
            setattr(record, field.name, value)
