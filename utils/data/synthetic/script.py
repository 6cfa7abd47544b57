"""`SceneScript`: who moves where and when in one video, and the events that follow from it.

Events are not noted down while incidents are invented (`author`): they are read off the finished
tracks by `truth`, so that what is annotated is what is drawn. What the labels mean, exactly:

* *person walking*: from the moment at which somebody begins to walk or walks into the picture until
  nobody in the picture walks any more. Several walkers make one event as long as at least one
  of them walks, and people in a crowd count like everybody else.
* *vehicle stopping*: from the moment at which a braking vehicle has lost half of its speed until
  `HOLD_SECONDS` after it stands. Until half of the speed is lost it might as well just slow down,
  as the distractors do: no viewer could tell, and so neither must a causal model.
* *crowded scene*: at least `CROWD_SIZE` people are in the picture, walking or standing.

Somebody is in the picture while the middle of the body is. Hidden behind a vehicle is still in it.

Distractors, which only time tells apart: vehicles that brake the same way at the same places but
keep `SLOWEST_SHARE` of their speed or more and drive on, drive through, are parked all along, or
pull out; people who stand all along, frozen in the same stride as walkers; two or three people who
are no crowd.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from utils.data.synthetic.camera import Camera
from utils.data.synthetic.motion import Interval, Track, at_least, union

PERSON_WALKING = "person walking"
VEHICLE_STOPPING = "vehicle stopping"
CROWDED_SCENE = "crowded scene"
LABELS = (PERSON_WALKING, VEHICLE_STOPPING, CROWDED_SCENE)

CROWD_SIZE = 5
ONSET_SPEED_SHARE = 0.5
"""A vehicle that has less than this share of its speed left is stopping."""
HOLD_SECONDS = 1.5
"""How long after standstill *vehicle stopping* lasts."""
SLOWEST_SHARE = 0.35
"""Vehicles that slow down and drive on keep at least this share of their speed."""

VehicleKind = Literal["hatchback", "saloon", "van"]
VEHICLE_METRES: dict[VehicleKind, tuple[float, float]] = {
    "hatchback": (2.7, 1.15),
    "saloon": (3.1, 1.1),
    "van": (3.2, 1.45),
}
"""Length and height. Shorter than real ones: a lens that shows a whole street squeezes it, too."""

PERSON_METRES = 1.7

Conduct = Literal["stops", "slows", "passes", "parked", "pulls out"]


@dataclass(frozen=True, kw_only=True)
class Person:
    """Somebody on a pavement.

    Attributes:
        key: Seeds clothes and build.
        track: Where the middle of the body is.
        ground: Where the feet are, in picture heights.
        stride_phase: Radians; where in the stride the track begins.
        facing: 1 or -1; where somebody who never moves looks.
    """

    key: tuple[int, ...]
    track: Track
    ground: float
    stride_phase: float
    facing: int

    def visible(self) -> list[Interval]:
        """When this person is in the picture."""
        inside = (self.track.inside(index) for index in range(len(self.track.phases)))
        return union(interval for interval in inside if interval)

    def walking(self) -> list[Interval]:
        """When this person walks in the picture."""
        inside = (
            self.track.inside(index)
            for index, phase in enumerate(self.track.phases)
            if not phase.is_still
        )
        return union(interval for interval in inside if interval)

    def standing(self) -> list[Interval]:
        """When this person stands in the picture."""
        inside = (
            self.track.inside(index)
            for index, phase in enumerate(self.track.phases)
            if phase.is_still
        )
        return union(interval for interval in inside if interval)


@dataclass(frozen=True, kw_only=True)
class Vehicle:
    """A vehicle on one lane.

    Attributes:
        key: Seeds colour and trim.
        track: Where its middle is.
        lane: Index into the camera's lanes.
        kind: Body shape.
        conduct: What it does, in a word.
        place: Where it stands or, if it only slows down, would come to stand; None if it drives
            through.
    """

    key: tuple[int, ...]
    track: Track
    lane: int
    kind: VehicleKind
    conduct: Conduct
    place: float | None

    def stopping(self) -> list[Interval]:
        """When this vehicle is stopping, as the label means it."""
        found = []
        for start, phase in zip(self.track.starts, self.track.phases, strict=True):
            if phase.start_velocity and not phase.end_velocity:
                onset = start + phase.duration * (1 - ONSET_SPEED_SHARE)
                found.append((onset, start + phase.duration + HOLD_SECONDS))
        return union(found)


@dataclass(frozen=True)
class ScriptEvent:
    """One annotated event: label, and ``[start, end)`` in seconds."""

    label: str
    start: float
    end: float


def truth(
    people: Iterable[Person],
    vehicles: Iterable[Vehicle],
    *,
    duration: float,
    labels: Sequence[str] = LABELS,
) -> tuple[ScriptEvent, ...]:
    """The events that these tracks amount to within ``[0, duration)``, by start."""
    people = tuple(people)
    intervals = {
        PERSON_WALKING: union(span for person in people for span in person.walking()),
        VEHICLE_STOPPING: union(span for vehicle in vehicles for span in vehicle.stopping()),
        CROWDED_SCENE: at_least([span for one in people for span in one.visible()], CROWD_SIZE),
    }
    events = [
        ScriptEvent(label, max(start, 0.0), min(end, duration))
        for label in labels
        for start, end in intervals[label]
        if start < duration and end > 0
    ]
    return tuple(sorted(events, key=lambda event: (event.start, labels.index(event.label))))


@dataclass(frozen=True, kw_only=True)
class SceneScript:
    """One video before it is drawn.

    Attributes:
        camera: What looks on.
        key: Seeds noise, shake and light.
        duration: Seconds.
        people: By no particular order.
        vehicles: Likewise.
        events: The truth, by start.
    """

    camera: Camera
    key: tuple[int, ...]
    duration: float
    people: tuple[Person, ...]
    vehicles: tuple[Vehicle, ...]
    events: tuple[ScriptEvent, ...]
