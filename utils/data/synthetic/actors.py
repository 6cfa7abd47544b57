"""Drawing people and vehicles onto the large canvas.

A single picture gives nothing away: who stands is drawn in the same strides as who walks, a vehicle
that stands has the wheels at any angle, and no brake light ever shines.
"""

from __future__ import annotations

import functools
import itertools
import math

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from utils.data.synthetic.backdrop import Canvas, Colour, shade, vary
from utils.data.synthetic.script import PERSON_METRES, VEHICLE_METRES, Person, Vehicle, VehicleKind

_STRIDE_METRES = 1.5
_WHEEL_ANGLES = 6
"""Drawings of a vehicle, for wheels with five spokes: one every 12 degrees."""

_COATS: tuple[Colour, ...] = (
    (40, 46, 62), (128, 42, 40), (58, 84, 60), (176, 170, 158), (62, 62, 66), (92, 72, 52),
    (196, 156, 66), (70, 104, 146), (146, 92, 112), (212, 212, 208),
)  # fmt: skip
_TROUSERS: tuple[Colour, ...] = (
    (38, 40, 48), (56, 66, 92), (92, 84, 72), (70, 70, 72), (122, 112, 94),
)  # fmt: skip
_SKINS: tuple[Colour, ...] = ((222, 184, 156), (196, 148, 116), (140, 98, 72), (92, 64, 50))
_HAIRS: tuple[Colour, ...] = ((40, 32, 28), (92, 66, 42), (152, 122, 78), (130, 128, 124))
_PAINTS: tuple[Colour, ...] = (
    (168, 40, 38), (44, 72, 124), (196, 198, 198), (52, 54, 58), (226, 226, 220),
    (124, 128, 132), (56, 92, 74), (190, 150, 60), (108, 132, 156), (104, 60, 48),
)  # fmt: skip


@functools.lru_cache(maxsize=256)
def _soft_ellipse(width: int, height: int, strength: int) -> Image.Image:
    """Mask of a blurred ellipse, for shadows."""
    edge = max(2, height // 2)
    mask = Image.new("L", (width + 2 * edge, height + 2 * edge), 0)
    ImageDraw.Draw(mask).ellipse((edge, edge, edge + width, edge + height), fill=strength)
    return mask.filter(ImageFilter.GaussianBlur(edge / 2))


def draw_shadow(
    image: Image.Image, x: float, y: float, width: float, height: float, *, strength: int
) -> None:
    """Darken a soft ellipse around a pixel; sizes in pixels."""
    mask = _soft_ellipse(max(2, round(width)), max(2, round(height)), strength)
    corner = (round(x - mask.width / 2), round(y - mask.height / 2))
    image.paste((16, 18, 24), corner, mask)


class _Looks:
    """What somebody wears; a function of the person's key."""

    def __init__(self, key: tuple[int, ...]) -> None:
        rng = np.random.default_rng(key)

        def pick(colours: tuple[Colour, ...]) -> Colour:
            return vary(colours[int(rng.integers(len(colours)))], rng, 10)

        self.coat = pick(_COATS)
        self.trousers = pick(_TROUSERS)
        self.skin = pick(_SKINS)
        self.hair = pick(_HAIRS)
        self.tallness = float(rng.uniform(0.93, 1.06))
        self.girth = float(rng.uniform(0.9, 1.2))
        self.has_bag = bool(rng.random() < 0.3)


@functools.lru_cache(maxsize=512)
def _looks(key: tuple[int, ...]) -> _Looks:
    return _Looks(key)


def draw_person(
    image: Image.Image, draw: ImageDraw.ImageDraw, canvas: Canvas, person: Person, time: float
) -> None:
    """Draw ``person`` as they are at ``time`` seconds."""
    camera = canvas.camera
    looks = _looks(person.key)
    metre = camera.metre(person.ground) * canvas.height
    x, foot = canvas.point(person.track.position(time), person.ground)
    tall = PERSON_METRES * metre * looks.tallness
    travelled = person.track.travelled(time) / camera.metre_in_widths(person.ground)
    phase = person.stride_phase + 2 * math.pi * travelled / _STRIDE_METRES
    facing = person.track.facing(time) or person.facing
    strength = 120 if camera.is_sunny else 80
    lean = 0.12 * tall if camera.is_sunny else 0.0
    draw_shadow(image, x + lean, foot, 0.42 * tall, 0.1 * tall, strength=strength)

    # The hip rises and falls twice a stride, as the legs open and close.
    hip_y = foot - 0.48 * tall + 0.012 * tall * math.cos(2 * phase)
    shoulder_y = hip_y - 0.31 * tall
    hip, shoulder = (x, hip_y), (x + facing * 0.015 * tall, shoulder_y)

    def limb(
        origin: tuple[float, float], swing: float, bend: float, upper: float, lower: float
    ) -> list[tuple[float, float]]:
        joint = (
            origin[0] + facing * math.sin(swing) * upper * tall,
            origin[1] + math.cos(swing) * upper * tall,
        )
        end = (
            joint[0] + facing * math.sin(swing + bend) * lower * tall,
            joint[1] + math.cos(swing + bend) * lower * tall,
        )
        return [origin, joint, end]

    def stroke(points: list[tuple[float, float]], colour: Colour, width: float) -> None:
        draw.line(points, fill=colour, width=max(2, round(width)), joint="curve")
        reach = max(1.0, width / 2)
        for px, py in (points[0], points[-1]):
            draw.ellipse((px - reach, py - reach, px + reach, py + reach), fill=colour)

    def leg(turn: float, colour: Colour) -> None:
        swing = 0.5 * math.sin(turn)
        # The knee bends while the leg comes forward.
        bend = -0.15 - 0.75 * max(0.0, math.cos(turn))
        points = limb(hip, swing, bend, 0.245, 0.235)
        stroke(points, colour, 0.075 * tall * looks.girth)
        ankle = points[-1]
        toe = (ankle[0] + facing * 0.065 * tall, ankle[1] + 0.008 * tall)
        stroke([ankle, toe], (36, 34, 34), 0.045 * tall)

    def arm(turn: float, colour: Colour) -> None:
        points = limb(shoulder, 0.5 * math.sin(turn), 0.3, 0.17, 0.16)
        stroke(points, colour, 0.055 * tall * looks.girth)
        hand_x, hand_y = points[-1]
        reach = 0.026 * tall
        draw.ellipse(
            (hand_x - reach, hand_y - reach, hand_x + reach, hand_y + reach), fill=looks.skin
        )

    arm(phase, shade(looks.coat, 0.68))
    leg(phase + math.pi, shade(looks.trousers, 0.75))
    leg(phase, looks.trousers)
    wide = 0.075 * tall * looks.girth
    draw.polygon(
        [
            (shoulder[0] - wide * 1.05, shoulder_y + 0.02 * tall),
            (shoulder[0] + wide * 1.05, shoulder_y + 0.02 * tall),
            (hip[0] + wide, hip_y + 0.04 * tall),
            (hip[0] - wide, hip_y + 0.04 * tall),
        ],
        fill=looks.coat,
    )
    draw.ellipse(
        (shoulder[0] - wide * 1.05, shoulder_y - 0.02 * tall,
         shoulder[0] + wide * 1.05, shoulder_y + 0.06 * tall),
        fill=shade(looks.coat, 1.12),
    )  # fmt: skip
    # Light comes from above and one side: the far edge of the coat is darker.
    draw.line(
        [
            (hip[0] - wide * 0.9, hip_y + 0.03 * tall),
            (shoulder[0] - wide, shoulder_y + 0.03 * tall),
        ],
        fill=shade(looks.coat, 0.72),
        width=max(1, round(0.03 * tall)),
    )
    if looks.has_bag:
        at = hip[0] - facing * wide * 1.2
        draw.rectangle(
            (at - 0.05 * tall, shoulder_y + 0.05 * tall, at + 0.04 * tall, hip_y - 0.04 * tall),
            fill=shade(looks.trousers, 0.8),
        )
    head_x, head_y = shoulder[0] + facing * 0.015 * tall, shoulder_y - 0.085 * tall
    draw.line(
        [(shoulder[0], shoulder_y), (head_x, head_y)],
        fill=looks.skin,
        width=max(2, round(0.05 * tall)),
    )
    reach_x, reach_y = 0.056 * tall, 0.07 * tall
    head = (head_x - reach_x, head_y - reach_y, head_x + reach_x, head_y + reach_y)
    draw.ellipse(head, fill=looks.skin)
    start, end = (150, 330) if facing > 0 else (210, 390)
    draw.chord(head, start, end, fill=looks.hair)
    arm(phase + math.pi, shade(looks.coat, 0.9))


_PROFILES: dict[VehicleKind, tuple[tuple[float, float], ...]] = {
    "hatchback": (
        (0.0, 0.22), (0.01, 0.6), (0.12, 0.98), (0.2, 1.0), (0.55, 1.0), (0.74, 0.62), (0.96, 0.52),
        (1.0, 0.4), (1.0, 0.2),
    ),
    "saloon": (
        (0.0, 0.22), (0.01, 0.58), (0.15, 0.64), (0.3, 0.98), (0.38, 1.0), (0.56, 1.0),
        (0.74, 0.62), (0.96, 0.52), (1.0, 0.4), (1.0, 0.2),
    ),
    "van": (
        (0.0, 0.18), (0.0, 0.95), (0.03, 1.0), (0.7, 1.0), (0.78, 0.94), (0.88, 0.6), (0.98, 0.46),
        (1.0, 0.36), (1.0, 0.18),
    ),
}  # fmt: skip
"""Outlines seen from the side, nose to the right: shares of length and of height above ground."""

_WINDOWS: dict[VehicleKind, tuple[tuple[tuple[float, float], ...], ...]] = {
    "hatchback": (
        ((0.09, 0.64), (0.16, 0.92), (0.34, 0.92), (0.34, 0.64)),
        ((0.37, 0.64), (0.37, 0.92), (0.54, 0.92), (0.68, 0.64)),
    ),
    "saloon": (
        ((0.2, 0.66), (0.32, 0.92), (0.43, 0.92), (0.43, 0.66)),
        ((0.46, 0.66), (0.46, 0.92), (0.55, 0.92), (0.68, 0.66)),
    ),
    "van": (((0.62, 0.6), (0.62, 0.9), (0.74, 0.9), (0.83, 0.6)),),
}
_WHEELS: dict[VehicleKind, tuple[float, float]] = {
    "hatchback": (0.19, 0.8),
    "saloon": (0.2, 0.79),
    "van": (0.19, 0.79),
}


# Three lanes, so three vehicles at a time, each with its wheels in six positions.
@functools.lru_cache(maxsize=24)
def _vehicle_sprite(
    key: tuple[int, ...], kind: VehicleKind, length: int, height: int, facing: int, turn: int
) -> Image.Image:
    """RGBA drawing; the middle of its lower edge is where the vehicle's middle meets the ground."""
    scale = 3
    rng = np.random.default_rng(key)
    paint = vary(_PAINTS[int(rng.integers(len(_PAINTS)))], rng, 12)
    rim = vary((150, 150, 152), rng, 20)
    long, tall = length * scale, height * scale
    # The camera looks down a little: roof and bonnet show, drawn as the profile pushed backwards.
    depth = 0.3 * tall
    aside = 0.04 * long
    image = Image.new("RGBA", (round(long + aside), round(tall + depth)), (0, 0, 0, 0))
    draw = ImageDraw.Draw(image)

    def at(x: float, y: float, back: float = 0.0) -> tuple[float, float]:
        return x * long + back * aside, image.height - y * tall - back * depth

    profile = _PROFILES[kind]
    draw.polygon([at(x, y, 1.0) for x, y in profile], fill=shade(paint, 0.6))
    for (x0, y0), (x1, y1) in itertools.pairwise(profile):
        slope = abs(y1 - y0) * tall / max(abs(x1 - x0) * long, 1e-6)
        # Steep surfaces between bonnet and roof are glass.
        lowest = min(y0, y1)
        is_glass = lowest > 0.55 and x0 > 0.7 if kind == "van" else lowest > 0.5 and slope > 0.4
        top = (62, 74, 84) if is_glass else shade(paint, 1.28 - 0.3 * min(slope, 1.5))
        draw.polygon([at(x0, y0), at(x1, y1), at(x1, y1, 1), at(x0, y0, 1)], fill=top)
    draw.polygon([at(x, y) for x, y in profile], fill=paint)
    # Flanks darken towards the sill.
    for share, tone in ((0.42, 0.9), (0.3, 0.76)):
        draw.polygon(
            [at(0.005, share), at(0.995, share), at(1, 0.19), at(0, 0.19)], fill=shade(paint, tone)
        )
    draw.line([at(0.02, 0.56), at(0.94, 0.52)], fill=shade(paint, 1.25), width=scale)
    for pane in _WINDOWS[kind]:
        draw.polygon([at(x, y) for x, y in pane], fill=(48, 58, 68))
        (x0, y0), (x1, y1), (x2, y2), _ = pane
        draw.polygon([at(x1, y1), at((x1 + x2) / 2, y2), at(x0, y0 + 0.1)], fill=(96, 110, 122))
    seam = shade(paint, 0.62)
    for x in (0.36, 0.68) if kind != "van" else (0.6, 0.85):
        draw.line([at(x, 0.62), at(x, 0.25)], fill=seam, width=scale - 1)
    draw.rectangle((*at(0.0, 0.56), *at(0.025, 0.44)), fill=(150, 34, 30))
    draw.rectangle((*at(0.965, 0.5), *at(0.998, 0.4)), fill=(230, 226, 204))
    draw.rectangle((*at(0.0, 0.26), *at(1.0, 0.18)), fill=shade(paint, 0.5))
    radius = 0.185 * tall if kind == "van" else 0.24 * tall
    for wheel in _WHEELS[kind]:
        cx, cy = at(wheel, 0)[0], image.height - radius
        for reach, colour in ((1.18, (26, 26, 28)), (1.0, (38, 38, 40)), (0.62, rim)):
            far = radius * reach
            bottom = min(cy + far, image.height - 1)
            draw.ellipse((cx - far, cy - far, cx + far, bottom), fill=colour)
        for spoke in range(5):
            angle = 2 * math.pi * (spoke + turn / _WHEEL_ANGLES) / 5
            tip = (cx + 0.6 * radius * math.cos(angle), cy + 0.6 * radius * math.sin(angle))
            draw.line([(cx, cy), tip], fill=(66, 66, 70), width=max(2, round(0.16 * radius)))
    if facing < 0:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return image.reduce(scale)


def draw_vehicle(image: Image.Image, canvas: Canvas, vehicle: Vehicle, time: float) -> None:
    """Draw ``vehicle`` as it is at ``time`` seconds."""
    camera = canvas.camera
    lane = camera.lanes[vehicle.lane]
    metre = camera.metre(lane.ground) * canvas.height
    length, height = (round(metres * metre) for metres in VEHICLE_METRES[vehicle.kind])
    position = vehicle.track.position(time)
    x, ground = canvas.point(position, lane.ground)
    # Rolling without slipping; 0.3 m is the radius of a wheel.
    turns = position / camera.metre_in_widths(lane.ground) / (2 * math.pi * 0.3)
    sprite = _vehicle_sprite(
        vehicle.key, vehicle.kind, length, height, lane.direction,
        math.floor(turns * 5 * _WHEEL_ANGLES) % _WHEEL_ANGLES,
    )  # fmt: skip
    strength = 170 if camera.is_sunny else 130
    aside = 0.06 * length if camera.is_sunny else 0.0
    draw_shadow(
        image, x + aside, ground - 0.06 * height, length * 1.02, height * 0.3, strength=strength
    )
    corner = (round(x - sprite.width / 2), round(ground - sprite.height))
    image.paste(sprite, corner, sprite)
