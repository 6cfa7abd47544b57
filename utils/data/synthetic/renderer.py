"""`Renderer`: any moment of a script as a picture, with the faults of a real camera.

Frame ``i`` is a function of the script and ``i`` alone: frames may be drawn in any order, and a
part of an hour costs no more than that part.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import ImageDraw

from utils.data.synthetic.actors import draw_person, draw_vehicle
from utils.data.synthetic.backdrop import OVERSAMPLING, Canvas, draw_backdrop
from utils.data.synthetic.script import Person, SceneScript, Vehicle

_BORDER = 8
_BUCKET_SECONDS = 10.0
_OFF_STAGE = 0.3
"""Picture widths beyond the edge within which an actor may still show."""


class Renderer:
    """Draws the frames of one script.

    Args:
        script: What happens.
        fps: Frames a second; frame ``i`` shows the moment ``i / fps``.
    """

    def __init__(self, script: SceneScript, *, fps: float) -> None:
        if not fps > 0:
            raise ValueError(f"fps must be positive, got {fps}")
        self.script = script
        self.fps = fps
        self.canvas = Canvas(script.camera, _BORDER)
        self._backdrop = draw_backdrop(self.canvas)
        self._weather = _Weather(script.key)
        height, width = script.camera.height, script.camera.width
        # Fresh noise for each frame would cost more than all drawing; a random window of a larger
        # sheet, at random upright or turned round, looks the same.
        rng = np.random.default_rng((*script.camera.key, 5))
        self._sigma = float(rng.uniform(2.5, 4.5))
        self._saturation = float(rng.uniform(0.5, 0.85))
        self._sheet = rng.normal(0, self._sigma, (height + 64, width + 64, 3)).astype(np.float32)
        self._actors: dict[int, list[Person | Vehicle]] = defaultdict(list)
        cast: tuple[Person | Vehicle, ...] = (*script.people, *script.vehicles)
        for actor in cast:
            first = math.floor(max(actor.track.start, 0) / _BUCKET_SECONDS)
            last = math.floor(min(actor.track.end, script.duration) / _BUCKET_SECONDS)
            for bucket in range(first, last + 1):
                self._actors[bucket].append(actor)

    @property
    def num_frames(self) -> int:
        return max(1, round(self.script.duration * self.fps))

    def frames(self) -> Iterator[NDArray[np.uint8]]:
        """All frames in order."""
        return (self.frame(index) for index in range(self.num_frames))

    def frame(self, index: int) -> NDArray[np.uint8]:
        """Frame ``index``, ``(H, W, 3)`` RGB.

        Raises:
            IndexError: There is no such frame.
        """
        if not 0 <= index < self.num_frames:
            raise IndexError(f"frame {index} of a video of {self.num_frames} frames")
        time = index / self.fps
        image = self._backdrop.copy()
        draw = ImageDraw.Draw(image)
        for actor in self._on_stage(time):
            if isinstance(actor, Person):
                draw_person(image, draw, self.canvas, actor, time)
            else:
                draw_vehicle(image, self.canvas, actor, time)
        rng = np.random.default_rng((*self.script.key, 6, index))
        right, down = self._weather.shake(time, rng)
        left, top = _BORDER + right, _BORDER + down
        box = (left, top, left + self.canvas.width, top + self.canvas.height)
        pixels = np.asarray(image.reduce(OVERSAMPLING, box=box), np.float32)
        # Cheap sensors mix the colours: no picture from a street is as bright as its paints.
        grey = pixels.mean(axis=2, keepdims=True)
        pixels = (grey + self._saturation * (pixels - grey)) * self._weather.light(time)
        pixels += self._noise(rng)
        # Half is added because the cast rounds down.
        np.clip(pixels + 0.5, 0, 255, out=pixels)
        frame: NDArray[np.uint8] = pixels.astype(np.uint8)
        return frame

    def _on_stage(self, time: float) -> list[Person | Vehicle]:
        """Who may show at ``time``, far before near."""
        here = [
            actor
            for actor in self._actors.get(math.floor(time / _BUCKET_SECONDS), ())
            if actor.track.start <= time < actor.track.end
            and -_OFF_STAGE < actor.track.position(time) < 1 + _OFF_STAGE
        ]
        return sorted(here, key=lambda actor: (self._ground(actor), actor.key))

    def _ground(self, actor: Person | Vehicle) -> float:
        if isinstance(actor, Person):
            return actor.ground
        return self.script.camera.lanes[actor.lane].ground

    def _noise(self, rng: np.random.Generator) -> NDArray[np.float32]:
        height, width = self.script.camera.height, self.script.camera.width
        top, left, flip, mirror = rng.integers((64, 64, 2, 2)).tolist()
        window = self._sheet[top : top + height, left : left + width]
        return window[:: 1 - 2 * flip, :: 1 - 2 * mirror]


class _Weather:
    """Slow changes of light, and wind that shakes the mast: waves drawn by lot."""

    def __init__(self, key: tuple[int, ...]) -> None:
        rng = np.random.default_rng((*key, 7))
        self._periods = rng.uniform((9.0, 25.0, 60.0), (20.0, 60.0, 200.0))
        self._phases = rng.uniform(0, 2 * np.pi, 3)
        self._depth = rng.uniform(0.01, 0.035, 3)
        self._tint = rng.uniform(0.95, 1.05, 3) * rng.uniform(0.9, 1.18)
        self._warmth = rng.uniform(-0.02, 0.02)
        self._sway_periods = rng.uniform((0.7, 0.5), (2.5, 2.0))
        self._sway_phases = rng.uniform(0, 2 * np.pi, 2)
        self._sway = float(rng.uniform(0.0, 0.6))

    def light(self, time: float) -> NDArray[np.float32]:
        """Gain of red, green and blue."""
        waves = np.sin(2 * np.pi * time / self._periods + self._phases)
        level = 1 + float(self._depth @ waves)
        warmth = self._warmth * float(waves[1])
        gain: NDArray[np.float32] = (
            self._tint * level * np.array((1 + warmth, 1.0, 1 - warmth))
        ).astype(np.float32)
        return gain

    def shake(self, time: float, rng: np.random.Generator) -> tuple[int, int]:
        """Displacement to the right and down, in pixels of the large canvas."""
        sway = self._sway * np.sin(2 * np.pi * time / self._sway_periods + self._sway_phases)
        right, down = np.clip(np.rint(sway + rng.normal(0, 0.12, 2)), -_BORDER, _BORDER)
        return int(right), int(down)
