"""Decoders that get stuck, die or eat memory, for tests of what watches over them.

They are loaded in the process of `IsolatedPyAvSource`. Each behaves for three frames where it says
nothing else, except that the path says otherwise: a file named ``at_once`` has none.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from utils.errors import VideoDecodeError
from utils.video.source import (
    DecodedFrame,
    DecodeLoss,
    Image,
    Skipping,
    VideoInfo,
    VideoSource,
)


class Frame(DecodedFrame):
    def __init__(self, index: int) -> None:
        self.frame_index, self.timestamp = index, index * 0.5

    def rgb(self, *, short_side: int | None = None) -> Image:
        return np.full((4, 6, 3), self.frame_index, np.uint8)


class Good(VideoSource):
    num_good_frames = 3

    def __init__(self, path: str, *, num_threads: int | None = None) -> None:
        self.num_threads = num_threads
        self.info = VideoInfo(
            path=path,
            codec="none",
            width=6,
            height=4,
            rotation=0,
            source_fps=2.0,
            duration_seconds=10.0,
        )
        self.loss, self.skipping = DecodeLoss(), Skipping()
        if "at_once" in path:
            self.misbehave()

    def misbehave(self) -> None:
        """What goes wrong after the good frames."""

    def frames(self, start_seconds: float = 0.0) -> Iterator[DecodedFrame]:
        for index in range(self.num_good_frames):
            if index * 0.5 >= start_seconds:
                yield Frame(index)
        self.misbehave()

    def close(self) -> None:
        pass


class Stuck(Good):
    def misbehave(self) -> None:
        time.sleep(600)


class Crashing(Good):
    def misbehave(self) -> None:
        os.kill(os.getpid(), signal.SIGSEGV)


class CrashingLate(Crashing):
    num_good_frames = 20


class CrashingBehind(Good):
    """Dies of what its threads do ahead of the frames that it has given."""

    def frames(self, start_seconds: float = 0.0) -> Iterator[DecodedFrame]:
        for frame in super().frames(start_seconds):
            yield frame
            if frame.frame_index == 1 and self.num_threads != 1:
                threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGSEGV)).start()
                time.sleep(600)


class CrashingForGood(Crashing):
    """Lives once for each file; from then on it dies before the first frame."""

    def __init__(self, path: str, *, num_threads: int | None = None) -> None:
        super().__init__(path, num_threads=num_threads)
        with Path(f"{path}.opened").open("a") as file:
            file.write("x")
        if Path(f"{path}.opened").stat().st_size > 1:
            self.misbehave()


class Endless(Good):
    num_good_frames = 10_000


class Refusing(Good):
    """Raises where it is asked to begin."""

    def sparse_frames(
        self, start_seconds: float = 0.0, *, max_time_error_seconds: float
    ) -> Iterator[DecodedFrame]:
        raise VideoDecodeError("video.mp4", "it is gone")


class CrashingWithoutLength(Crashing):
    def __init__(self, path: str, *, num_threads: int | None = None) -> None:
        super().__init__(path, num_threads=num_threads)
        self.info = replace(self.info, duration_seconds=None)


class Leaving(Good):
    def misbehave(self) -> None:
        sys.exit(3)


class Hungry(Good):
    def misbehave(self) -> None:
        # As much as a header asks for that speaks of 100,000 x 100,000 pixels.
        np.empty((100_000, 100_000, 3), np.uint8)


class Babbling(Good):
    """Writes where only answers belong."""

    def misbehave(self) -> None:
        print("libfoo: warning: the header is odd", flush=True)


class Lying(Good):
    """Was taken over and answers what is no answer."""

    answer = b"\xff" * 8

    def misbehave(self) -> None:
        for descriptor in range(3, 20):
            try:
                os.write(descriptor, self.answer)
            except OSError:
                continue
        time.sleep(600)


class LyingPolitely(Lying):
    answer = b'\0\0\0\x10{"num_bytes": 0}'
