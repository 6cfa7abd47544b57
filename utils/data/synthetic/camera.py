"""`Camera`: the geometry and temper of one fixed surveillance camera, drawn by lot from a seed.

Between motion and script: it says where the lanes and pavements lie and how large things appear
there. What the picture looks like is `backdrop`'s and `renderer`'s business.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

STYLES = ("street", "park", "shops")
"""What stands behind the road."""


@dataclass(frozen=True)
class Lane:
    """A strip of road on which vehicles drive one way.

    Attributes:
        ground: Where wheels touch, in picture heights from the top.
        direction: 1 to the right, -1 to the left.
    """

    ground: float
    direction: int


@dataclass(frozen=True, kw_only=True)
class Camera:
    """One fixed camera.

    Horizontal positions are in picture widths, vertical ones in picture heights from the top.

    Attributes:
        name: The ``group`` of its videos.
        key: Seeds everything about its looks.
        width: Pixels.
        height: Pixels.
        style: One of `STYLES`.
        is_sunny: Whether hard shadows fall.
        wall_bottom: Where buildings or hedges end and the far pavement begins.
        road_top: Far kerb.
        road_bottom: Near kerb.
        lanes: From far to near.
        slope: Picture heights by which the ground falls over one picture width.
        metre_far: Picture heights of one metre at ``wall_bottom``.
        metre_near: Picture heights of one metre at the bottom of the picture.
    """

    name: str
    key: tuple[int, ...]
    width: int
    height: int
    style: str
    is_sunny: bool
    wall_bottom: float
    road_top: float
    road_bottom: float
    lanes: tuple[Lane, ...]
    slope: float
    metre_far: float
    metre_near: float

    @classmethod
    def draw_by_lot(
        cls, *, seed: int, number: int, town: str = "", width: int = 256, height: int = 144
    ) -> Camera:
        """The ``number``-th camera of a town, named after both; another one is another place."""
        key = (seed, 1, number, *town.encode())
        rng = np.random.default_rng(key)
        wall_bottom = float(rng.uniform(0.31, 0.39))
        road_top = wall_bottom + float(rng.uniform(0.07, 0.10))
        road_bottom = float(rng.uniform(0.73, 0.79))
        num_lanes = 3
        spacing = (road_bottom - road_top) / num_lanes
        right_above = int(rng.choice((-1, 1)))
        directions = (
            right_above,
            right_above if rng.random() < 0.3 else -right_above,
            -right_above,
        )
        lanes = tuple(
            Lane(ground=road_top + spacing * (index + 0.78), direction=direction)
            for index, direction in enumerate(directions)
        )
        zoom = float(rng.uniform(0.92, 1.1))
        return cls(
            name=f"{town}_camera_{number:03d}" if town else f"camera_{number:03d}",
            key=key,
            width=width,
            height=height,
            # In turn, so that a handful of cameras already shows every style.
            style=STYLES[number % len(STYLES)],
            is_sunny=bool(rng.random() < 0.5),
            wall_bottom=wall_bottom,
            road_top=road_top,
            road_bottom=road_bottom,
            lanes=lanes,
            slope=float(rng.uniform(-0.05, 0.05)),
            metre_far=0.112 * zoom,
            metre_near=0.178 * zoom,
        )

    def metre(self, ground: float) -> float:
        """Picture heights of one metre for something that stands at ``ground``."""
        share = (ground - self.wall_bottom) / (1 - self.wall_bottom)
        return self.metre_far + (self.metre_near - self.metre_far) * share

    def metre_in_widths(self, ground: float) -> float:
        """Picture widths of one metre for something that stands at ``ground``."""
        return self.metre(ground) * self.height / self.width

    @property
    def far_pavement(self) -> tuple[float, float]:
        """Range of grounds on which people stand beyond the road."""
        return self.wall_bottom + 0.035, self.road_top - 0.01

    @property
    def near_pavement(self) -> tuple[float, float]:
        """Range of grounds on which people stand this side of the road."""
        return self.road_bottom + 0.06, 0.965
