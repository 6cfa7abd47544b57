"""`DecordSource`: decord, read from the first frame to the last.

First room of the cascade. decord repeats pictures in place of damaged ones, loses frames at the end
once it has skipped some, and knows neither edit lists nor AV1; `CheckedSource` and a strict setting
turn each of these into an error.
"""

from __future__ import annotations

from collections.abc import Iterator

import decord
import numpy as np

from utils.video.decoders.checked import CheckedSource, first_line
from utils.video.source import Image

STRICTEST = 1e-9
"""As a part of all frames: the first picture that decord repeats in place of a damaged one is an
error. Its own 0 stands for "never"."""


class DecordSource(CheckedSource):
    """A video read by decord; a start behind the first frame is reached by decoding up to it."""

    name = "decord"
    refused_formats = frozenset({"mpegts", "gif"})
    refused_codecs = frozenset({"av1"})
    honours_edit_lists = False

    def _images(self, first_index: int, num_frames: int) -> Iterator[Image]:
        try:
            reader = decord.VideoReader(
                self._path, ctx=decord.cpu(0), num_threads=0, fault_tol=STRICTEST
            )
        except (decord.DECORDError, RuntimeError, AssertionError) as error:
            raise self._refusal(f"it cannot open it ({first_line(error)})") from error
        if len(reader) != num_frames:
            raise self._refusal(f"it counts {len(reader)} frames where there are {num_frames}")
        # From the first frame: decord's own skipping loses as many frames at the end.
        for index in range(num_frames):
            try:
                image: Image = reader.next().asnumpy()
            except StopIteration:
                return
            except (decord.DECORDError, decord.DECORDLimitReachedError) as error:
                raise self._broken(index, f"broke off ({first_line(error)})") from error
            if index >= first_index:
                yield np.ascontiguousarray(image)
