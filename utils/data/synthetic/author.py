"""`write_script`: invents a video of seconds or hours with a given number of events.

Incidents are placed one by one where they fit: a vehicle that stops, people who walk, a crowd that
passes by or gathers. Each is checked by `script.truth` before it is let in, so that no incident
changes another's events.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Literal

import numpy as np

from utils.data.synthetic.camera import Camera
from utils.data.synthetic.motion import Interval, Phase, Track, at_least, union
from utils.data.synthetic.script import (
    CROWD_SIZE,
    CROWDED_SCENE,
    HOLD_SECONDS,
    LABELS,
    ONSET_SPEED_SHARE,
    PERSON_WALKING,
    SLOWEST_SHARE,
    VEHICLE_METRES,
    VEHICLE_STOPPING,
    Conduct,
    Person,
    SceneScript,
    Vehicle,
    truth,
)
from utils.errors import UnknownNameError, UsageError
from utils.registry import suggestion

_Incident = Literal["stop", "walk", "procession", "gathering"]

_YIELDS: dict[_Incident, Counter[str]] = {
    "stop": Counter({VEHICLE_STOPPING: 1}),
    "walk": Counter({PERSON_WALKING: 1}),
    "procession": Counter({PERSON_WALKING: 1, CROWDED_SCENE: 1}),
    "gathering": Counter({PERSON_WALKING: 2, CROWDED_SCENE: 1}),
}
_WEIGHTS: dict[_Incident, float] = {
    "stop": 0.52,
    "walk": 0.24,
    "procession": 0.14,
    "gathering": 0.10,
}
"""How likely each is. Crowds fill much more time than stops do, so they are rarer."""

_MAX_LOOSE_PEOPLE = 3
_MAX_LOOSE_STANDING = 2
_GAP_SECONDS = 1.5
_MARGIN_SECONDS = 0.5
_MIN_EVENT_SECONDS = 1.0
_MIN_SIDESTEP = 0.15
"""Picture widths between the places of vehicles on different lanes."""
_MAX_ATTEMPTS = 60
"""Scripts thrown away before the numbers are said not to fit."""
_MAX_TRIES = 120
"""Places tried for one incident before its script is thrown away."""


def write_script(
    camera: Camera,
    *,
    key: tuple[int, ...],
    duration: float,
    num_events: int,
    num_distractors: int = 0,
    labels: Sequence[str] = LABELS,
    first_incident: int = 0,
) -> SceneScript:
    """Invent a video with exactly ``num_events`` annotated events.

    Args:
        camera: What looks on.
        key: The script is a function of this and of the other arguments.
        duration: Seconds.
        num_events: Over all of ``labels``. A crowd brings *person walking* with it: once if it
            passes by, twice if it gathers and parts again.
        num_distractors: Vehicles that slow down and drive on, or drive through. As many are placed
            as the lanes have room for. Those who stand all along are not counted.
        labels: Which of `LABELS` occur and are annotated.
        first_incident: Turns the kind of the first incident, so that a few short videos in a row
            show every kind.

    Raises:
        UnknownNameError: A label is none of `LABELS`.
        UsageError: The numbers make no sense, or so many events do not fit.
    """
    for label in labels:
        if label not in LABELS:
            raise UnknownNameError(
                f"unknown synthetic class '{label}'; known: {', '.join(LABELS)}"
                f"{suggestion(label, LABELS)}"
            )
    if not labels or len(set(labels)) != len(labels):
        raise UsageError(f"synthetic classes must be given once each, got {list(labels)}")
    if not (math.isfinite(duration) and duration > 0):
        raise UsageError(f"duration must be a positive number of seconds, got {duration}")
    if num_events < 0:
        raise UsageError(f"the number of events cannot be negative, got {num_events}")
    if num_distractors < 0:
        raise UsageError(f"the number of distractors cannot be negative, got {num_distractors}")
    for attempt in range(_MAX_ATTEMPTS):
        author = _Author(camera, (*key, attempt), duration, tuple(labels))
        if author.stage(num_events, num_distractors, first_incident):
            return SceneScript(
                camera=camera,
                key=key,
                duration=duration,
                people=tuple(author.people),
                vehicles=tuple(author.vehicles),
                events=truth(author.people, author.vehicles, duration=duration, labels=labels),
            )
    raise UsageError(
        f"{num_events} events of {', '.join(labels)} do not fit into {duration:g} s; ask for fewer "
        "events or longer videos"
    )


class _Author:
    """Invents incidents one by one and drops those that would spoil earlier ones."""

    def __init__(
        self, camera: Camera, key: tuple[int, ...], duration: float, labels: tuple[str, ...]
    ) -> None:
        self.camera = camera
        self.key = key
        self.duration = duration
        self.labels = labels
        self.rng = np.random.default_rng(key)
        self.people: list[Person] = []
        self.vehicles: list[Vehicle] = []
        self.walks: list[Interval] = []
        self.crowds: list[Interval] = []

    def stage(self, num_events: int, num_distractors: int, first_incident: int) -> bool:
        """Fill the stage; False if what was drawn by lot does not fit."""
        incidents = self.choose_incidents(num_events, first_incident)
        if incidents is None:
            return False
        self.place_bystanders()
        self.park_vehicles()
        for incident in incidents:
            if not any(self.place(incident) for _ in range(_MAX_TRIES)):
                return False
        for _ in range(num_distractors):
            conduct: Conduct = "slows" if self.rng.random() < 0.6 else "passes"
            any(self.place_vehicle(conduct) for _ in range(_MAX_TRIES))
        events = truth(self.people, self.vehicles, duration=self.duration, labels=self.labels)
        return len(events) == num_events

    # Which incidents

    def choose_incidents(self, num_events: int, first: int) -> list[_Incident] | None:
        """Incidents that yield ``num_events``; long ones first, as they are hard to place."""
        costs = {
            name: sum(counts[label] for label in self.labels) for name, counts in _YIELDS.items()
        }
        # Where crowds are no class, walkers come in small groups only.
        if CROWDED_SCENE not in self.labels:
            costs["procession"] = costs["gathering"] = 0
        turn: tuple[_Incident, ...]
        turn = ("stop", "gathering", "stop", "walk", "stop", "procession")
        chosen: list[_Incident] = []
        left = num_events
        while left:
            open_to_choice = [name for name in _WEIGHTS if 0 < costs[name] <= left]
            if not open_to_choice:
                return None
            wanted = turn[first % len(turn)]
            # A wish, which later attempts give up if it is what does not fit.
            if not chosen and wanted in open_to_choice and self.key[-1] < _MAX_ATTEMPTS // 2:
                incident = wanted
            else:
                weights = np.array([_WEIGHTS[name] for name in open_to_choice])
                pick = int(self.rng.choice(len(open_to_choice), p=weights / weights.sum()))
                incident = open_to_choice[pick]
            chosen.append(incident)
            left -= costs[incident]
        order: tuple[_Incident, ...] = ("gathering", "procession", "walk", "stop")
        return sorted(chosen, key=order.index)

    def place(self, incident: _Incident) -> bool:
        if incident == "stop":
            return self.place_vehicle("stops")
        if incident == "walk":
            return self.place_walk()
        return self.place_crowd(gathers=incident == "gathering")

    # People

    def new_person(self, track: Track, ground: float) -> Person:
        return Person(
            key=(*self.key, 2, int(self.rng.integers(2**31))),
            track=track,
            ground=ground,
            stride_phase=self.uniform(0, 2 * math.pi),
            facing=int(self.rng.choice((-1, 1))),
        )

    def uniform(self, low: float, high: float) -> float:
        return float(self.rng.uniform(low, high))

    def some_ground(self) -> float:
        near = self.rng.random() < 0.7
        return self.uniform(*(self.camera.near_pavement if near else self.camera.far_pavement))

    def place_bystanders(self) -> None:
        """People who stand all along."""
        for _ in range(int(self.rng.choice(3, p=(0.35, 0.4, 0.25)))):
            track = Track(-1.0, self.uniform(0.06, 0.94), [Phase(math.inf, 0, 0)])
            self.people.append(self.new_person(track, self.some_ground()))

    def pace(self, ground: float) -> float:
        """Walking speed in picture widths a second for somebody at ``ground``."""
        return self.uniform(1.6, 2.2) * self.camera.metre_in_widths(ground)

    def edge(self, side: int, ground: float) -> float:
        """Where somebody is just out of the picture, on the left (-1) or on the right (1)."""
        margin = 0.5 * self.camera.metre_in_widths(ground)
        return -margin if side < 0 else 1 + margin

    def walk_phase(self, origin: float, goal: float, ground: float) -> Phase:
        speed = math.copysign(self.pace(ground), goal - origin)
        return Phase((goal - origin) / speed, speed, speed)

    def some_beginning(self) -> float:
        """When people might begin to walk: any time, or soon after others, to waste no gap."""
        if self.walks and self.rng.random() < 0.5:
            _, end = self.walks[int(self.rng.integers(len(self.walks)))]
            return end + _GAP_SECONDS + self.uniform(0, 1)
        return self.uniform(0, self.duration)

    def place_walk(self) -> bool:
        """One to three people who walk at the same time, each in a manner of their own."""
        begin = self.some_beginning()
        people = []
        for _ in range(int(self.rng.choice((1, 2, 3), p=(0.6, 0.25, 0.15)))):
            ground = self.some_ground()
            side = int(self.rng.choice((-1, 1)))
            start = begin + self.uniform(0, 0.8)
            spot = self.uniform(0.12, 0.88)
            manner = self.rng.choice(
                ("through", "arrives", "leaves", "moves"), p=(0.4, 0.2, 0.2, 0.2)
            )
            if manner == "through":
                phase = self.walk_phase(self.edge(side, ground), self.edge(-side, ground), ground)
                track = Track(start, self.edge(side, ground), [phase])
            elif manner == "arrives":
                phase = self.walk_phase(self.edge(side, ground), spot, ground)
                track = Track(start, self.edge(side, ground), [phase, Phase(math.inf, 0, 0)])
            else:
                other = self.edge(side, ground) if manner == "leaves" else self.uniform(0.12, 0.88)
                if abs(other - spot) < 0.25:
                    return False
                phases = [Phase(start + 1, 0, 0), self.walk_phase(spot, other, ground)]
                if manner == "moves":
                    phases.append(Phase(math.inf, 0, 0))
                track = Track(-1.0, spot, phases)
            people.append(self.new_person(track, ground))
        return self.admit(people, Counter({PERSON_WALKING: 1}), crowd=False)

    def place_crowd(self, *, gathers: bool) -> bool:
        """Five people or more who pass by together, or come together, stand and part again."""
        begin = self.some_beginning()
        size = int(self.rng.integers(CROWD_SIZE + 1, CROWD_SIZE + 4))
        side = int(self.rng.choice((-1, 1)))
        middle = self.uniform(0.35, 0.65)
        speed = self.uniform(1.8, 2.2) * self.camera.metre_in_widths(
            sum(self.camera.near_pavement) / 2
        )
        stay = self.uniform(2.5, 4.5)
        # Side by side along the pavement and spread in depth, so that a viewer can count them.
        offsets = self.rng.permutation(np.linspace(-0.5, 0.5, size))
        grounds = np.linspace(*self.camera.near_pavement, size)
        people = []
        for offset, ground_here in zip(offsets, grounds, strict=True):
            ground = float(ground_here)
            origin, goal = self.edge(side, ground), self.edge(-side, ground)
            if not gathers:
                pace = speed * self.uniform(0.97, 1.03)
                phase = Phase(abs(goal - origin) / pace, -side * pace, -side * pace)
                start = begin + (offset + 0.5) * 0.3 / speed
                people.append(self.new_person(Track(float(start), origin, [phase]), ground))
                continue
            spot = middle + 0.5 * float(offset) + self.uniform(-0.02, 0.02)
            from_left = spot + self.uniform(-0.15, 0.15) < middle
            origin = self.edge(-1 if from_left else 1, ground)
            comes = self.walk_phase(origin, spot, ground)
            start = begin + self.uniform(0, 1.0)
            leave = begin + 4.5 + stay + self.uniform(0, 0.8)
            goes = self.walk_phase(spot, self.edge(-1 if spot < 0.5 else 1, ground), ground)
            stands = Phase(leave - start - comes.duration, 0, 0)
            people.append(self.new_person(Track(start, origin, [comes, stands, goes]), ground))
        expected = _YIELDS["gathering" if gathers else "procession"]
        return self.admit(people, expected, crowd=True)

    def admit(self, people: list[Person], expected: Counter[str], *, crowd: bool) -> bool:
        """Take in a group whose own events are ``expected``, unless it disturbs what is there."""
        walks = union(span for person in people for span in person.walking())
        first, last = walks[0][0], walks[-1][1]
        if first < _MARGIN_SECONDS or last > self.duration - _MARGIN_SECONDS:
            return False
        if any(_near((first, last), other) for other in self.walks):
            return False
        # Bystanders count towards a crowd. Who never meets this group is not changed by it.
        begin = min(person.track.start for person in people)
        end = max(person.track.end for person in people)
        crew = [one for one in self.people if one.track.start < end and begin < one.track.end]
        crew += people
        around = truth(crew, (), duration=self.duration)
        group = [e for e in around if e.start < last and e.end > first]
        if Counter(event.label for event in group) != expected:
            return False
        if any(event.end - event.start < _MIN_EVENT_SECONDS for event in group):
            return False
        if any(
            one.label == two.label and two.start - one.end < _MIN_EVENT_SECONDS
            for index, one in enumerate(group)
            for two in group[index + 1 :]
        ):
            return False
        crowds = [*self.crowds, (first, last)] if crowd else self.crowds
        visible = [span for person in crew for span in person.visible()]
        standing = [span for person in crew for span in person.standing()]
        for crowded in (
            at_least(visible, _MAX_LOOSE_PEOPLE + 1),
            at_least(standing, _MAX_LOOSE_STANDING + 1),
        ):
            if not all(any(_within(span, crowd) for crowd in crowds) for span in crowded):
                return False
        self.people += people
        self.walks.append((first, last))
        self.crowds = crowds
        return True

    # Vehicles

    def park_vehicles(self) -> None:
        """Vehicles that stand from before the first frame; some of them pull out."""
        is_long = self.duration > 60
        for number in range(int(self.rng.choice(3, p=(0.25, 0.5, 0.25)))):
            pulls_out = self.rng.random() < 0.35 or (is_long and number > 0)
            any(
                self.place_vehicle("pulls out" if pulls_out and self.duration > 6 else "parked")
                for _ in range(_MAX_TRIES)
            )

    def place_vehicle(self, conduct: Conduct) -> bool:
        """One vehicle that does ``conduct``; False if its lane is taken then."""
        lane_index = int(self.rng.integers(len(self.camera.lanes)))
        lane = self.camera.lanes[lane_index]
        kinds = tuple(VEHICLE_METRES)
        kind = kinds[int(self.rng.integers(len(kinds)))]
        half = VEHICLE_METRES[kind][0] / 2 * self.camera.metre_in_widths(lane.ground) + 0.03
        speed = self.uniform(0.28, 0.42)
        # All of them draw how they would stop, so that those that stop, slow down or stand
        # do so at the same places.
        braking = self.uniform(1.4, 1.9)
        braking_path = speed * braking / 2
        stop = self.uniform(braking_path + 0.04, 0.82)
        speeding_up = self.uniform(1.2, 2.0)

        def cruise(distance: float) -> Phase:
            return Phase(distance / speed, speed, speed)

        pull_out = [Phase(speeding_up, 0, speed)]
        pull_out += [cruise(max(1 + half - stop - speed * speeding_up / 2, 0.01))]
        origin, start = -half, self.uniform(-2.0, self.duration)
        if conduct == "passes":
            phases = [cruise(1 + 2 * half)]
        elif conduct == "slows":
            slow = speed * self.uniform(SLOWEST_SHARE, ONSET_SPEED_SHARE)
            # The same deceleration as in a stop, broken off.
            slowing = Phase(braking * (1 - slow / speed), speed, slow)
            creeping = Phase(self.uniform(0.2, 1.0), slow, slow)
            quickening = Phase(speeding_up * (1 - slow / speed), slow, speed)
            phases = [cruise(stop - braking_path + half), slowing, creeping, quickening]
            rest = 1 + 2 * half - sum(phase.displacement for phase in phases)
            phases.append(cruise(max(rest, 0.01)))
        elif conduct == "stops":
            phases = [cruise(stop - braking_path + half), Phase(braking, speed, 0)]
            stands_at = start + sum(phase.duration for phase in phases)
            if self.duration - stands_at > 20 or self.rng.random() < 0.4:
                standing = self.uniform(HOLD_SECONDS + 1, HOLD_SECONDS + 8)
                phases += [Phase(standing, 0, 0), *pull_out]
            else:
                phases.append(Phase(math.inf, 0, 0))
        else:
            origin, start = stop, -1.0
            if conduct == "parked":
                phases = [Phase(math.inf, 0, 0)]
            else:
                phases = [Phase(1 + self.uniform(1, min(self.duration, 180) - 3), 0, 0), *pull_out]
        if lane.direction < 0:
            origin = 1 - origin
            phases = [
                Phase(phase.duration, -phase.start_velocity, -phase.end_velocity)
                for phase in phases
            ]
        vehicle = Vehicle(
            key=(*self.key, 3, int(self.rng.integers(2**31))),
            track=Track(start, origin, phases),
            lane=lane_index,
            kind=kind,
            conduct=conduct,
            place=None if conduct == "passes" else stop if lane.direction > 0 else 1 - stop,
        )
        return self.admit_vehicle(vehicle)

    def admit_vehicle(self, vehicle: Vehicle) -> bool:
        """Take in a vehicle unless its lane is taken or its event comes too near another."""
        for start, end in vehicle.stopping():
            if start < _MARGIN_SECONDS or end > self.duration - _MARGIN_SECONDS:
                return False
            if any(
                _near((start, end), span) for other in self.vehicles for span in other.stopping()
            ):
                return False
        for other in self.vehicles:
            if vehicle.track.start >= other.track.end or other.track.start >= vehicle.track.end:
                continue
            # One vehicle to a lane at a time: they neither meet nor overtake.
            if other.lane == vehicle.lane:
                return False
            # Nor does one come to stand right behind another, where nobody would see it do so.
            if (
                vehicle.place is not None
                and other.place is not None
                and abs(vehicle.place - other.place) < _MIN_SIDESTEP
            ):
                return False
        self.vehicles.append(vehicle)
        return True


def _near(one: Interval, other: Interval) -> bool:
    return one[0] < other[1] + _GAP_SECONDS and other[0] < one[1] + _GAP_SECONDS


def _within(inner: Interval, outer: Interval) -> bool:
    return outer[0] - 1e-6 <= inner[0] and inner[1] <= outer[1] + 1e-6
