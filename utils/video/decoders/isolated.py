"""`IsolatedPyAvSource`: the default decoder in a process of its own, for files not to be trusted.

First room of the cascade. A decoder that loops, dies or eats memory takes its process with it and
no more: the process is watched, ended where it makes no progress, and what is missing is reported
like the cut end of a file. Frames stay in the other process until their pixels are asked for.

It shares user and file system with the caller: this keeps accidents apart, it is no sandbox against
an attack on the decoder.
"""

from __future__ import annotations

import math
import os
import weakref
from collections.abc import Callable, Generator, Iterator
from typing import Any, ClassVar

import numpy as np

import utils.errors
from utils.errors import UsageError, VideoDecodeError, VideoError
from utils.video.decoders.isolated_process import DecoderProcess, ProcessGoneError
from utils.video.source import (
    DecodedFrame,
    DecodeLoss,
    Image,
    Skipping,
    VideoInfo,
    VideoSource,
    check_num_threads,
    check_time_error,
)

STALL_SECONDS = 30.0
"""The longest wait for one frame. Disks that spin up and servers take 10 s and more."""

MEMORY_LIMIT_BYTES = 8 * 1024**3
"""Address space of the process. HEVC of 7680 x 4320 pixels and 10 bits takes half of it where
FFmpeg runs 16 threads, the most that it starts by itself."""

MAX_FRAMES_AHEAD = 8
"""Frames that are decoded before anyone asks for them, so that neither process waits for the other.
The first ones are asked for one by one: many look at no more."""

MAX_BYTES_AHEAD = 64 * 1024**2
"""Of RGB; bounds the frames ahead where they are large."""


class _IsolatedFrame(DecodedFrame):
    """A frame that lies in the other process."""

    def __init__(
        self,
        source: IsolatedPyAvSource,
        process: DecoderProcess,
        key: int,
        *,
        frame_index: int,
        timestamp: float,
    ) -> None:
        self._source = source
        self._process = process
        self._finalizer = weakref.finalize(self, process.released.append, key)
        self._finalizer.atexit = False
        self._key = key
        self.frame_index = frame_index
        self.timestamp = timestamp

    def rgb(self, *, short_side: int | None = None) -> Image:
        return self._source._to_rgb(self._process, self._key, self.timestamp, short_side)


class IsolatedPyAvSource(VideoSource):
    """As `PyAvSource`, in a process of its own.

    Should that process stall or die once frames were given out, the frames end there; ``loss`` says
    where and why, and counts what is missing up to the end that the container claims. The next call
    of ``frames`` starts a new process.

    Args:
        path: File or URL.
        stall_seconds: The longest wait for one answer; then the process is ended.
        memory_limit_bytes: Address space of the process; without effect on macOS, which has no
            such limit.
        num_threads: As `PyAvSource`.

    Raises:
        UsageError: ``stall_seconds`` or ``num_threads`` is out of range, or the system is neither
            Linux nor macOS.
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
        num_threads: int | None = None,
    ) -> None:
        if os.name != "posix":
            raise UsageError(
                "decoder 'pyav_isolated' needs Linux or macOS; choose another, such as 'pyav' "
                "(data.decoder)"
            )
        if not (math.isfinite(stall_seconds) and stall_seconds > 0):
            raise UsageError(f"stall_seconds must be above 0, got {stall_seconds}")
        check_num_threads(num_threads)
        self._path = os.fspath(path)
        self._stall_seconds = stall_seconds
        self._memory_limit_bytes = memory_limit_bytes
        self._num_threads = num_threads
        self._is_closed = False
        self._running: weakref.WeakSet[Generator[DecodedFrame]] = weakref.WeakSet()
        self._is_beyond_recall = False
        self.loss, self.skipping = DecodeLoss(), Skipping()
        self._start_process()

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
        self._end_process()

    def _start_process(self) -> None:
        self._process = DecoderProcess(
            {
                "target": self.target,
                "path": self._path,
                "options": {} if self._num_threads is None else {"num_threads": self._num_threads},
                "memory_limit_bytes": self._memory_limit_bytes,
            },
            stall_seconds=self._stall_seconds,
        )
        self._end_process = weakref.finalize(self, self._process.end)
        try:
            answer = self._process.open()
            self._raise_error(answer)
            self.info = VideoInfo(**answer["info"])
        except ProcessGoneError as gone:
            self._end_process()
            raise VideoDecodeError(
                self._path,
                f"the decoder {gone} before the first frame; copy or convert the file anew, or "
                "leave it out",
            ) from None
        except VideoError:
            self._end_process()
            raise

    def _start(
        self, start_seconds: float, max_time_error_seconds: float | None
    ) -> Iterator[DecodedFrame]:
        if self._is_closed:
            raise UsageError(f"{self._path}: the source is closed; open it again to read on")
        if not math.isfinite(start_seconds):
            raise UsageError(f"start_seconds must be a finite number, got {start_seconds}")
        self.loss, self.skipping, self.gave_up = DecodeLoss(), Skipping(), False
        generator = self._read(start_seconds, max_time_error_seconds, self.loss, self.skipping)
        self._running.add(generator)
        return generator

    def _read(
        self,
        start_seconds: float,
        max_time_error_seconds: float | None,
        loss: DecodeLoss,
        skipping: Skipping,
    ) -> Generator[DecodedFrame]:
        if self._process.why_gone is not None:
            self._end_process()
            self._start_process()
        process = self._process
        reading = process.send(
            {
                "do": "start",
                "start_seconds": start_seconds,
                "max_time_error_seconds": max_time_error_seconds,
                "count": 1,
            }
        )
        process.expect(reading)
        num_ahead, num_due = 1, 1
        last: float | None = None
        try:
            while True:
                if num_due <= num_ahead // 2:
                    num_ahead = min(2 * num_ahead, self._max_frames_ahead())
                    process.send({"do": "more", "reading": reading, "count": num_ahead - num_due})
                    num_due = num_ahead
                answer = process.next_answer(reading)
                num_due -= 1
                _copy(answer.get("loss", {}), loss)
                _copy(answer.get("skipping", {}), skipping)
                self._raise_error(answer)
                if answer["frame"] is None:
                    return
                last = answer["timestamp"]
                yield _IsolatedFrame(
                    self,
                    process,
                    answer["frame"],
                    frame_index=answer["frame_index"],
                    timestamp=answer["timestamp"],
                )
        except ProcessGoneError as gone:
            if last is None:
                raise VideoDecodeError(
                    self._path,
                    f"the decoder {gone} before a frame at or after {start_seconds:.3f} s",
                ) from None
            self._account_for_the_rest(loss, last, str(gone))
        finally:
            # Only noted: the garbage collector may be closing this in the midst of a question.
            process.stopped.append(reading)

    def _max_frames_ahead(self) -> int:
        picture_bytes = 3 * self.info.width * self.info.height
        return max(1, min(MAX_FRAMES_AHEAD, MAX_BYTES_AHEAD // picture_bytes))

    def _account_for_the_rest(self, loss: DecodeLoss, last: float, why: str) -> None:
        if loss is self.loss:
            self.gave_up = True
        note = f"the decoder {why} after {last:.3f} s"
        claimed = self.info.duration_seconds
        if claimed is not None:
            step = 1 / self.info.source_fps if self.info.source_fps else 0.0
            missing = max(0.0, claimed - last - step)
            loss.lost_seconds += missing
            note += f": {missing:.2f} s at the end are missing"
        loss.notes.append(note)

    def _to_rgb(
        self, process: DecoderProcess, key: int, timestamp: float, short_side: int | None
    ) -> Image:
        if self._is_closed:
            raise UsageError(f"{self._path}: the source is closed; take pixels before that")
        try:
            header, pixels = process.ask({"do": "rgb", "frame": key, "short_side": short_side})
        except ProcessGoneError as gone:
            return self._to_rgb_again(timestamp, short_side, str(gone))
        return np.frombuffer(pixels, np.uint8).reshape(header["shape"])

    def _to_rgb_again(self, timestamp: float, short_side: int | None, why: str) -> Image:
        """The pixels of a frame whose process is gone, from a new one that reads up to there.

        On one thread: others would already be at work on what follows, which may be what the first
        process died of.
        """
        lost = VideoDecodeError(
            self._path, f"the decoder {why}; its frame at {timestamp:.3f} s went with it"
        )
        if self._is_beyond_recall:
            raise lost
        try:
            with type(self)(
                self._path,
                stall_seconds=self._stall_seconds,
                memory_limit_bytes=self._memory_limit_bytes,
                num_threads=1,
            ) as again:
                again._is_beyond_recall = True
                frame = next(again.frames(timestamp), None)
                if frame is not None and frame.timestamp == timestamp:
                    return frame.rgb(short_side=short_side)
        except VideoError as error:
            # It would end like this for every frame that is left, each after another stall.
            self._is_beyond_recall = True
            raise lost from error
        raise lost

    def _raise_error(self, answer: dict[str, Any]) -> None:
        """Raise what the decoder raised in the other process."""
        if "error" in answer:
            kind: Callable[[str, str], VideoError] = getattr(utils.errors, answer["error"])
            raise kind(self._path, answer["reason"])


def _copy(fields: dict[str, Any], record: DecodeLoss | Skipping) -> None:
    for name, value in fields.items():
        if isinstance(value, list):
            getattr(record, name)[:] = value
        else:
            setattr(record, name, value)
