"""The still picture behind the actors: buildings or trees, pavements, kerbs and the road.

Drawn once for each camera, at `OVERSAMPLING` times the size of the video and with a border for
shake.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from utils.data.synthetic.camera import Camera

OVERSAMPLING = 2
"""Everything is drawn this much larger and averaged down: smooth edges and half-pixel motion."""

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Canvas:
    """How picture coordinates become pixels of the large drawing.

    Attributes:
        camera: Gives size and slope.
        border: Pixels around the picture, of the large drawing.
    """

    camera: Camera
    border: int

    @property
    def width(self) -> int:
        """Pixels across the picture, border left out."""
        return self.camera.width * OVERSAMPLING

    @property
    def height(self) -> int:
        """Pixels down the picture, border left out."""
        return self.camera.height * OVERSAMPLING

    @property
    def size(self) -> tuple[int, int]:
        return self.width + 2 * self.border, self.height + 2 * self.border

    def point(self, x: float, y: float) -> tuple[float, float]:
        """Pixel of a place in picture widths and heights; the slope of the ground is in it."""
        fall = self.camera.slope * (x - 0.5)
        return x * self.width + self.border, (y + fall) * self.height + self.border


def shade(colour: Colour, factor: float) -> Colour:
    """``colour`` made lighter (above 1) or darker."""
    red, green, blue = (min(255, max(0, round(channel * factor))) for channel in colour)
    return red, green, blue


def vary(colour: Colour, rng: np.random.Generator, spread: int) -> Colour:
    """``colour`` with each channel moved by up to ``spread``."""
    moved = np.asarray(colour) + rng.integers(-spread, spread + 1, 3)
    red, green, blue = np.clip(moved, 0, 255).tolist()
    return red, green, blue


def draw_backdrop(canvas: Canvas) -> Image.Image:
    """The scene without actors, RGB of ``canvas.size``; a function of the camera alone."""
    camera = canvas.camera
    rng = np.random.default_rng((*camera.key, 4))
    image = Image.new("RGB", canvas.size, (120, 120, 120))
    painter = _Painter(canvas, image, rng)
    painter.sky()
    if camera.style == "park":
        painter.park()
    else:
        painter.buildings(with_shops=camera.style == "shops")
    painter.far_pavement()
    painter.road()
    painter.near_pavement()
    painter.furniture()
    if camera.is_sunny:
        painter.building_shadow()
    painter.grain()
    return painter.image.filter(ImageFilter.GaussianBlur(0.7))


class _Painter:
    def __init__(self, canvas: Canvas, image: Image.Image, rng: np.random.Generator) -> None:
        self.canvas = canvas
        self.camera = canvas.camera
        self.image = image
        self.rng = rng
        self.draw = ImageDraw.Draw(image)

    def uniform(self, low: float, high: float) -> float:
        return float(self.rng.uniform(low, high))

    def band(self, top: float, bottom: float, colour: Colour) -> None:
        """Fill the picture between two heights, right across the border."""
        self.quad((-0.1, top), (1.1, top), (1.1, bottom), (-0.1, bottom), colour=colour)

    def quad(self, *corners: tuple[float, float], colour: Colour) -> None:
        self.draw.polygon([self.canvas.point(x, y) for x, y in corners], fill=colour)

    def box(self, left: float, top: float, right: float, bottom: float, colour: Colour) -> None:
        self.quad((left, top), (right, top), (right, bottom), (left, bottom), colour=colour)

    def line(self, *points: tuple[float, float], colour: Colour, width: float = 1) -> None:
        self.draw.line(
            [self.canvas.point(x, y) for x, y in points], fill=colour, width=max(1, round(width))
        )

    def sky(self) -> None:
        base = (186, 198, 210) if self.camera.is_sunny else (172, 175, 178)
        self.band(-0.2, self.camera.wall_bottom + 0.02, vary(base, self.rng, 10))

    def buildings(self, *, with_shops: bool) -> None:
        walls: tuple[Colour, ...] = (
            (150, 112, 92), (176, 164, 146), (128, 128, 132), (168, 140, 112),
            (142, 150, 152), (186, 178, 164), (118, 96, 88),
        )  # fmt: skip
        left = -0.1 - self.uniform(0, 0.15)
        while left < 1.1:
            right = left + self.uniform(0.2, 0.42)
            top = self.uniform(-0.25, 0.03)
            self.building(left, right, top, walls[int(self.rng.integers(len(walls)))], with_shops)
            left = right

    def building(
        self, left: float, right: float, top: float, wall: Colour, with_shops: bool
    ) -> None:
        bottom = self.camera.wall_bottom + 0.01
        wall = vary(wall, self.rng, 12)
        self.box(left, top, right, bottom, wall)
        self.box(left, top - 0.012, right, top + 0.008, shade(wall, 0.7))
        self.line((right, top), (right, bottom), colour=shade(wall, 0.6), width=2)
        floor = self.uniform(0.1, 0.13)
        ground_floor = bottom - floor * 1.1
        count = max(2, round((right - left) / self.uniform(0.055, 0.085)))
        step = (right - left) / count
        glass = vary((72, 84, 96), self.rng, 12)
        frame = vary((206, 204, 198), self.rng, 14)
        level = ground_floor - floor
        while level > top - floor * 0.3:
            for column in range(count):
                at = left + step * (column + 0.22)
                self.window(at, level + floor * 0.22, step * 0.56, floor * 0.56, glass, frame)
            self.line((left, level + floor), (right, level + floor), colour=shade(wall, 0.86))
            level -= floor
        if with_shops:
            sign = vary((120, 60, 60), self.rng, 60)
            self.box(left + 0.01, ground_floor + 0.005, right - 0.01, ground_floor + 0.034, sign)
            pane = shade(glass, 1.25)
            self.box(left + 0.015, ground_floor + 0.04, right - 0.015, bottom - 0.012, pane)
            for column in range(1, count):
                at = left + step * column
                self.line((at, ground_floor + 0.04), (at, bottom - 0.012), colour=frame, width=2)
        else:
            self.box(left, bottom - 0.02, right, bottom, shade(wall, 0.75))
            door = int(self.rng.integers(count))
            for column in range(count):
                at = left + step * (column + 0.22)
                if column == door:
                    wood = vary((84, 60, 48), self.rng, 24)
                    self.box(at, ground_floor + 0.03, at + step * 0.5, bottom, wood)
                else:
                    here = ground_floor + floor * 0.25
                    self.window(at, here, step * 0.56, floor * 0.5, glass, frame)

    def window(
        self, left: float, top: float, width: float, height: float, glass: Colour, frame: Colour
    ) -> None:
        pane = shade(glass, self.uniform(0.75, 1.3))
        self.box(left - 0.003, top - 0.005, left + width + 0.003, top + height + 0.006, frame)
        self.box(left, top, left + width, top + height, pane)
        glint = shade(pane, 1.22)
        self.quad((left, top), (left + width * 0.6, top), (left, top + height * 0.7), colour=glint)
        self.line((left + width / 2, top), (left + width / 2, top + height), colour=frame)
        if self.rng.random() < 0.3:
            blind = vary((190, 184, 170), self.rng, 15)
            self.box(left, top, left + width, top + height * self.uniform(0.2, 0.6), blind)

    def park(self) -> None:
        bottom = self.camera.wall_bottom
        self.band(bottom * 0.55, bottom + 0.01, vary((98, 116, 70), self.rng, 12))
        leaves = vary((62, 84, 50), self.rng, 14)
        for depth in range(3):
            tone = shade(leaves, 0.75 + 0.2 * depth)
            for _ in range(26):
                x, y = self.uniform(-0.1, 1.1), bottom * self.uniform(0.0, 0.62 + 0.1 * depth)
                self.foliage(x, y, self.uniform(0.02, 0.055), tone)
        for x in np.arange(-0.1, 1.1, self.uniform(0.11, 0.2)):
            at = float(x) + self.uniform(-0.03, 0.03)
            bark = vary((74, 60, 48), self.rng, 10)
            self.line((at, bottom * 0.3), (at, bottom * 0.93), colour=bark, width=6)
            for _ in range(14):
                self.foliage(
                    at + self.uniform(-0.05, 0.05),
                    bottom * self.uniform(-0.1, 0.5),
                    self.uniform(0.015, 0.04),
                    shade(leaves, self.uniform(0.9, 1.35)),
                )
        hedge = shade(leaves, 0.85)
        self.band(bottom - 0.055, bottom + 0.008, hedge)
        for x in np.arange(-0.1, 1.1, 0.012):
            self.foliage(float(x), bottom - 0.05, 0.009, shade(hedge, self.uniform(0.9, 1.3)))
        if self.rng.random() < 0.6:
            rail = vary((92, 94, 92), self.rng, 12)
            for x in np.arange(-0.1, 1.1, 0.022):
                self.line((float(x), bottom - 0.07), (float(x), bottom + 0.01), colour=rail)
            self.line((-0.1, bottom - 0.065), (1.1, bottom - 0.065), colour=rail, width=2)

    def foliage(self, x: float, y: float, radius: float, colour: Colour) -> None:
        across, down = self.canvas.point(x, y)
        reach = radius * self.canvas.width
        box = (across - reach, down - reach * 0.8, across + reach, down + reach * 0.8)
        self.draw.ellipse(box, fill=vary(colour, self.rng, 6))

    def far_pavement(self) -> None:
        camera = self.camera
        stone = vary((156, 152, 146), self.rng, 10)
        self.band(camera.wall_bottom, camera.road_top, stone)
        for x in np.arange(-0.1, 1.1, 0.035):
            lean = 0.15 * (float(x) - 0.5) * (camera.road_top - camera.wall_bottom)
            ends = (float(x), camera.wall_bottom), (float(x) + lean, camera.road_top - 0.012)
            self.line(*ends, colour=shade(stone, 0.92))
        middle = (camera.wall_bottom + camera.road_top) / 2
        self.line((-0.1, middle), (1.1, middle), colour=shade(stone, 0.92))
        self.kerb(camera.road_top - 0.012, 0.012)

    def kerb(self, top: float, height: float) -> None:
        self.band(top, top + height * 0.5, vary((184, 182, 176), self.rng, 6))
        self.band(top + height * 0.5, top + height, (96, 94, 92))

    def road(self) -> None:
        camera = self.camera
        asphalt = vary((92, 92, 94), self.rng, 12)
        self.band(camera.road_top, camera.road_bottom, asphalt)
        gap = (camera.road_bottom - camera.road_top) / len(camera.lanes)
        for lane in camera.lanes:
            for wheel in (-0.03, 0.0):
                track = lane.ground - 0.01 + wheel
                self.band(track, track + 0.014, shade(asphalt, 0.94))
        for _ in range(4):
            x, y = (
                self.uniform(0, 1),
                self.uniform(camera.road_top + 0.03, camera.road_bottom - 0.05),
            )
            reach = self.uniform(0.03, 0.12)
            patch = shade(asphalt, self.uniform(0.86, 1.08))
            self.quad(
                (x, y), (x + reach, y), (x + reach + 0.01, y + 0.03), (x - 0.01, y + 0.03),
                colour=patch,
            )  # fmt: skip
        paint = vary((196, 194, 184), self.rng, 10)
        dash = self.uniform(0.05, 0.09)
        for index in range(1, len(camera.lanes)):
            y = camera.road_top + gap * index
            turns = camera.lanes[index - 1].direction != camera.lanes[index].direction
            for x in np.arange(-0.1, 1.1, dash * (1 if turns else 2.2)):
                self.box(float(x), y, float(x) + dash, y + 0.008, paint)
        across, down = self.canvas.point(self.uniform(0.1, 0.9), camera.road_top + gap * 1.4)
        self.draw.ellipse((across - 9, down - 4, across + 9, down + 4), fill=shade(asphalt, 0.75))

    def near_pavement(self) -> None:
        camera = self.camera
        self.kerb(camera.road_bottom, 0.018)
        stone = vary((162, 154, 144), self.rng, 14)
        top = camera.road_bottom + 0.018
        self.band(top, 1.2, stone)
        joint = shade(stone, 0.9)
        row, height = top, 0.022
        while row < 1.15:
            self.line((-0.1, row), (1.1, row), colour=joint)
            row += height
            height *= 1.16
        for x in np.arange(-0.6, 1.6, self.uniform(0.05, 0.08)):
            # Joints run towards a point high above the picture.
            reach = 0.5 + (float(x) - 0.5) * 1.35
            self.line((float(x), top), (reach, 1.15), colour=joint)

    def furniture(self) -> None:
        camera = self.camera
        metal = vary((70, 74, 76), self.rng, 12)
        for x in np.arange(self.uniform(0, 0.3), 1.05, self.uniform(0.35, 0.6)):
            at = float(x)
            foot = camera.road_top - 0.02
            self.line((at, -0.1), (at, foot), colour=metal, width=4)
            self.line((at + 0.004, -0.1), (at + 0.004, foot), colour=shade(metal, 1.5))
            self.box(at - 0.006, foot - 0.02, at + 0.006, foot, shade(metal, 0.8))
        if self.rng.random() < 0.6:
            at, foot = self.uniform(0.1, 0.9), camera.wall_bottom + 0.04
            self.box(at, foot - 0.075, at + 0.026, foot, vary((52, 74, 62), self.rng, 16))
            self.box(at - 0.002, foot - 0.08, at + 0.028, foot - 0.068, (44, 46, 46))
        if self.rng.random() < 0.5:
            for x in np.arange(0.04, 1.0, self.uniform(0.11, 0.16)):
                self.box(
                    float(x), camera.road_bottom - 0.035, float(x) + 0.009,
                    camera.road_bottom + 0.026, shade(metal, 0.8),
                )  # fmt: skip

    def building_shadow(self) -> None:
        camera = self.camera
        mask = Image.new("L", self.canvas.size, 0)
        reach = camera.road_top + self.uniform(0.0, 0.1)
        corners = [(-0.1, camera.wall_bottom), (1.1, camera.wall_bottom), (1.1, reach)]
        x = 1.1
        while x > -0.1:
            x -= self.uniform(0.15, 0.4)
            corners.append((x, reach))
            reach = camera.road_top + self.uniform(-0.02, 0.12)
            corners.append((x, reach))
        ImageDraw.Draw(mask).polygon([self.canvas.point(*corner) for corner in corners], fill=95)
        mask = mask.filter(ImageFilter.GaussianBlur(1.5))
        self.image.paste((18, 22, 34), (0, 0), mask)

    def grain(self) -> None:
        """Texture of stone, asphalt and plaster: fine grain over large soft stains."""
        width, height = self.canvas.size
        pixels = np.asarray(self.image, np.float32)
        fine = self.rng.normal(0, 4.0, (height, width, 1)).astype(np.float32)
        stains: NDArray[np.float32] = np.zeros((height, width, 1), np.float32)
        for cells in (6, 18, 50):
            coarse = self.rng.normal(0, 1, (cells * 9 // 16 + 2, cells)).astype(np.float32)
            soft = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
            stains += np.asarray(soft, np.float32)[..., None] * 2.6
        lit = pixels + fine + stains
        self.image = Image.fromarray(_vignette(lit).clip(0, 255).astype(np.uint8))


def _vignette(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    height, width = pixels.shape[:2]
    down = np.linspace(-1, 1, height, dtype=np.float32)[:, None, None]
    across = np.linspace(-1, 1, width, dtype=np.float32)[None, :, None]
    shaded: NDArray[np.float32] = pixels * (1 - 0.1 * (across**2 + down**2))
    return shaded
