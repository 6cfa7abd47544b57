"""`Orientation`: what a file's display matrix asks a player to do with the stored pixels.

First room of the cascade; `PyAvSource` applies it, and `CheckedSource` asks whether others would.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np

from utils.video.source import Image

if TYPE_CHECKING:
    from av.buffer import Buffer
    from av.video.frame import VideoFrame


@dataclass(frozen=True, slots=True)
class Orientation:
    """How stored pixels become upright ones: transpose, then flip columns, then rows."""

    transpose: bool = False
    flip_columns: bool = False
    flip_rows: bool = False

    @classmethod
    def of(cls, frame: VideoFrame) -> Orientation:
        """From the frame's display matrix, to the nearest quarter turn."""
        # PyAV's `frame.rotation` knows turns only and takes a mirror image for half a turn, so the
        # matrix is read here: (x', y') = (a x + c y, b x + d y) with x to the right and y down.
        # PyAV's own annotation of side_data is wrong: it maps names to buffers.
        side_data = cast("Mapping[str, Buffer]", frame.side_data)
        if "DISPLAYMATRIX" not in side_data:
            return cls()
        matrix = np.frombuffer(bytes(side_data["DISPLAYMATRIX"]), dtype=np.int32)
        a, b, _, c, d = matrix[:5].tolist()
        if abs(a) + abs(d) >= abs(b) + abs(c):
            return cls(flip_columns=a < 0, flip_rows=d < 0)
        return cls(transpose=True, flip_columns=c < 0, flip_rows=b < 0)

    @property
    def rotation(self) -> int:
        """Degrees clockwise; a mirror image counts as mirrored first and turned then."""
        if self.transpose:
            return 90 if self.flip_columns else 270
        return 180 if self.flip_rows else 0

    @property
    def is_mirrored(self) -> bool:
        return (self.transpose + self.flip_columns + self.flip_rows) % 2 == 1

    def apply(self, image: Image) -> Image:
        if self.transpose:
            image = image.transpose(1, 0, 2)
        if self.flip_columns:
            image = image[:, ::-1]
        if self.flip_rows:
            image = image[::-1]
        return np.ascontiguousarray(image)
