"""The other side of `IsolatedPyAvSource`: answers requests on stdin until there are no more.

A message is the length of its header (4 bytes, big-endian), a JSON object, and as many bytes more
as the object's ``num_bytes`` says. Not pickle: the reader would run whatever a decoder that was
taken over writes.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, BinaryIO

from utils.errors import VideoError

if TYPE_CHECKING:
    from utils.video.source import DecodedFrame, DecodeLoss, Skipping, VideoSource

MAX_HEADER_BYTES = 1 << 20
MAX_PIXEL_BYTES = 1 << 31
OUT_OF_MEMORY = 12
"""Exit code; the number of ENOMEM."""

MIN_FREE_PICTURES = 2
"""Where there is no memory for so many in RGB, a decoder fails for want of it."""

_ORPHAN_POLL_SECONDS = 1.0


class ProtocolError(Exception):
    """A message that this protocol does not have."""


def write_message(
    write: Callable[[memoryview], int | None],
    header: dict[str, Any],
    payload: bytes | memoryview = b"",
) -> None:
    """Send one message through ``write``, which may take a part of what it is given."""
    text = json.dumps({**header, "num_bytes": len(payload)}).encode()
    for view in (memoryview(len(text).to_bytes(4, "big") + text), memoryview(payload)):
        num_written = 0
        while num_written < len(view):
            num_written += write(view[num_written:]) or 0


def read_message(
    read: Callable[[int], bytes | bytearray],
) -> tuple[dict[str, Any], bytearray]:
    """One message; ``read`` gives exactly as many bytes as it is asked for.

    Raises:
        ProtocolError: The message is none of ours, or larger than any can be.
    """
    length = int.from_bytes(read(4), "big")
    if length > MAX_HEADER_BYTES:
        raise ProtocolError(f"a header of {length} bytes")
    try:
        header = json.loads(read(length))
        num_bytes = header["num_bytes"]
        is_possible = 0 <= num_bytes <= MAX_PIXEL_BYTES
    except (ValueError, KeyError, TypeError) as error:
        raise ProtocolError(f"a header that is no JSON object with num_bytes: {error}") from error
    if not is_possible:
        raise ProtocolError(f"{num_bytes} bytes of pixels")
    payload = read(num_bytes) if num_bytes else bytearray()
    return header, payload if isinstance(payload, bytearray) else bytearray(payload)


class _Server:
    """One open video, its readings, and the frames that the other side still holds."""

    def __init__(self, source: VideoSource) -> None:
        self._source = source
        # By the number of the question that began them.
        self._readings: dict[int, Iterator[DecodedFrame]] = {}
        self._accounts: dict[int, tuple[DecodeLoss, Skipping]] = {}
        self._frames: dict[int, DecodedFrame] = {}
        self._num_frames = 0
        self._num_refused = 0

    def answers(
        self, request: dict[str, Any]
    ) -> Iterator[tuple[dict[str, Any], bytes | memoryview]]:
        """All answers to one question, each as soon as it is there."""
        for key in request["release"]:
            self._frames.pop(key, None)
        for key in request["stop"]:
            self._end_reading(key)
        if request["do"] == "rgb":
            image = self._frames[request["frame"]].rgb(short_side=request["short_side"])
            yield {"to": request["number"], "shape": image.shape}, image.data.cast("B")
            return
        reading = request.get("reading", request["number"])
        if request["do"] == "start":
            yield from self._start(reading, request)
        for _ in range(request["count"]):
            # It may have come to its end with some of the frames still asked for.
            if reading in self._readings:
                yield self._next(reading), b""

    def _start(
        self, reading: int, request: dict[str, Any]
    ) -> Iterator[tuple[dict[str, Any], bytes | memoryview]]:
        start, max_error = request["start_seconds"], request["max_time_error_seconds"]
        try:
            self._readings[reading] = (
                self._source.frames(start)
                if max_error is None
                else self._source.sparse_frames(start, max_time_error_seconds=max_error)
            )
        except VideoError as error:
            yield {"to": reading, "frame": None, **_described(error)}, b""
            return
        self._accounts[reading] = (self._source.loss, self._source.skipping)

    def _next(self, reading: int) -> dict[str, Any]:
        result: dict[str, Any] = {"to": reading, "frame": None}
        try:
            frame = next(self._readings[reading], None)
        except VideoError as error:
            result.update(_described(error))
            frame = None
        if frame is not None:
            self._num_frames += 1
            self._frames[self._num_frames] = frame
            result.update(
                frame=self._num_frames, frame_index=frame.frame_index, timestamp=frame.timestamp
            )
        loss, skipping = self._accounts[reading]
        self._tell_damage_from_want_of_memory(loss)
        result.update(loss=vars(loss), skipping=vars(skipping))
        if frame is None:
            self._end_reading(reading)
        return result

    def _tell_damage_from_want_of_memory(self, loss: DecodeLoss) -> None:
        """Raise `MemoryError` where a packet was refused and there is no room for a picture.

        FFmpeg says of both that the data are invalid.
        """
        if loss.num_corrupt_packets > self._num_refused:
            bytearray(MIN_FREE_PICTURES * 3 * self._source.info.width * self._source.info.height)
        self._num_refused = loss.num_corrupt_packets

    def _end_reading(self, reading: int) -> None:
        self._readings.pop(reading, None)
        self._accounts.pop(reading, None)


def _described(error: VideoError) -> dict[str, str]:
    return {"error": type(error).__name__, "reason": error.reason}


def main() -> None:
    """Serve stdin until it ends."""
    # Whatever prints to stdout would be taken for an answer.
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    requests = sys.stdin.buffer
    first, _ = read_message(lambda size: _read_exactly(requests, size))
    threading.Thread(target=_end_with, args=(first["parent"],), daemon=True).start()
    _limit_memory(first["memory_limit_bytes"])
    module, _, attribute = first["target"].partition(":")
    decoder = getattr(importlib.import_module(module), attribute)
    write_message(answers.write, {"to": first["number"]})
    second, _ = read_message(lambda size: _read_exactly(requests, size))
    try:
        source = decoder(first["path"], **first["options"])
    except VideoError as error:
        write_message(answers.write, {"to": second["number"], "info": None, **_described(error)})
        return
    write_message(answers.write, {"to": second["number"], "info": dataclasses.asdict(source.info)})
    server = _Server(source)
    while True:
        try:
            request, _ = read_message(lambda size: _read_exactly(requests, size))
        except EOFError:
            return
        for header, payload in server.answers(request):
            write_message(answers.write, header, payload)


def _read_exactly(file: BinaryIO, size: int) -> bytes:
    data = file.read(size)
    if len(data) != size:
        raise EOFError
    return data


def _limit_memory(num_bytes: int) -> None:
    if sys.platform == "darwin":
        # Its kernel refuses any limit on address space.
        return
    import resource

    # What the file asks for, such as 100,000 x 100,000 pixels, fails here instead of swapping.
    resource.setrlimit(resource.RLIMIT_AS, (num_bytes, num_bytes))


def _end_with(parent: int) -> None:
    """End the process when the one that started it has gone while the decoder was stuck."""
    while os.getppid() == parent:
        time.sleep(_ORPHAN_POLL_SECONDS)
    os._exit(1)


if __name__ == "__main__":
    try:
        main()
    except MemoryError:
        sys.exit(OUT_OF_MEMORY)
