"""Decoders that get stuck, die or eat memory, for tests of what watches over them.

They are loaded in the process of `IsolatedPyAvSource`. Each behaves for three frames, except that
the path says otherwise: a file named ``at_once`` has none.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator

import numpy as np

from utils.video.source import (
    DecodedFrame,
    DecodeLoss,
    Image,
    Skipping,
    VideoInfo,
    VideoSource,
)

NUM_GOOD_FRAMES = 3


class Frame(DecodedFrame):
    def __init__(self, index: int) -> None:
        self.frame_index, self.timestamp = index, index * 0.5

    def rgb(self, *, short_side: int | None = None) -> Image:
        return np.full((4, 6, 3), self.frame_index, np.uint8)


class Good(VideoSource):
    def __init__(self, path: str) -> None:
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
        for index in range(NUM_GOOD_FRAMES):
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

    def misbehave(self) -> None:
        for descriptor in range(3, 20):
            try:
                os.write(descriptor, b"\xff" * 8)
            except OSError:
                continue
        time.sleep(600)
