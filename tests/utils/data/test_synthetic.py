"""The synthetic data set: truth against positions, pixels against the seed, files against truth."""

from __future__ import annotations

import bisect
import dataclasses
import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.data.annotations import load_annotations
from utils.data.synthetic.author import write_script
from utils.data.synthetic.camera import STYLES, Camera
from utils.data.synthetic.motion import Phase, Track, at_least, union
from utils.data.synthetic.renderer import Renderer
from utils.data.synthetic.script import (
    CROWD_SIZE,
    CROWDED_SCENE,
    HOLD_SECONDS,
    LABELS,
    PERSON_WALKING,
    SLOWEST_SHARE,
    VEHICLE_STOPPING,
    Person,
    SceneScript,
    Vehicle,
)
from utils.data.synthetic.writer import (
    VIDEOS_PER_CAMERA,
    SyntheticSettings,
    VideoJob,
    encode_video,
    write_dataset,
)
from utils.errors import UnknownNameError, UsageError

STEP = 0.02
"""Seconds between the moments at which truth is recomputed."""


def make_script(
    seed: int, *, duration: float = 20.0, num_events: int = 4, labels: tuple[str, ...] = LABELS
) -> SceneScript:
    return write_script(
        Camera.draw_by_lot(seed=seed, number=seed),
        key=(seed, 2),
        duration=duration,
        num_events=num_events,
        # Twelve a minute.
        num_distractors=round(duration / 5),
        labels=labels,
        first_incident=seed,
    )


def positions(actor: Person | Vehicle, times: np.ndarray) -> np.ndarray:
    """``(T,)`` picture widths; NaN where the actor does not exist."""
    return np.array(
        [
            actor.track.position(time) if actor.track.start <= time < actor.track.end else np.nan
            for time in times
        ]
    )


def speeds(vehicle: Vehicle, times: np.ndarray) -> np.ndarray:
    """``(T,)`` from differences of positions, not from what the track says of itself."""
    after, before = positions(vehicle, times + STEP / 2), positions(vehicle, times - STEP / 2)
    return np.abs(after - before) / STEP


def covered(script: SceneScript, label: str, times: np.ndarray) -> np.ndarray:
    """``(T,)`` whether an event of ``label`` is on."""
    on = np.zeros(len(times), bool)
    for event in script.events:
        if event.label == label:
            on |= (times >= event.start) & (times < event.end)
    return on


def away_from_boundaries(script: SceneScript, times: np.ndarray) -> np.ndarray:
    """``(T,)`` whether no event begins or ends within a step."""
    edges = np.array([edge for event in script.events for edge in (event.start, event.end)])
    if not len(edges):
        return np.ones(len(times), bool)
    return np.abs(times[:, None] - edges[None]).min(axis=1) > STEP


seeds = st.integers(0, 2000)


class TestMotion:
    phases = st.lists(
        st.builds(
            Phase,
            st.floats(0.05, 5),
            st.floats(0, 1, allow_subnormal=False),
            st.floats(0, 1, allow_subnormal=False),
        ),
        min_size=1,
        max_size=5,
    )

    @given(phases, st.floats(-3, 3), st.floats(0, 1))
    @settings(deadline=None, max_examples=40)
    def test_position_is_the_integral_of_velocity(
        self, phases: list[Phase], start: float, share: float
    ) -> None:
        track = Track(start, 0.25, phases)
        time = start + share * (track.end - start)
        # The sum over many small steps, each at its middle.
        steps = np.linspace(start, time, 4001)
        middles = (steps[1:] + steps[:-1]) / 2
        travelled = sum(self.velocity(track, float(t)) for t in middles) * (time - start) / 4000
        assert track.position(time) - 0.25 == pytest.approx(travelled, abs=0.01)
        assert track.travelled(time) == pytest.approx(track.position(time) - 0.25)

    @staticmethod
    def velocity(track: Track, time: float) -> float:
        index = max(bisect.bisect_right(track.starts, time) - 1, 0)
        phase = track.phases[index]
        share = (time - track.starts[index]) / phase.duration
        return phase.start_velocity + (phase.end_velocity - phase.start_velocity) * share

    def test_travelled_counts_both_ways_and_facing_follows(self) -> None:
        track = Track(0, 0.5, [Phase(1, 0.2, 0.2), Phase(1, 0, 0), Phase(2, -0.2, -0.2)])
        assert track.position(4) == pytest.approx(0.3)
        assert track.travelled(4) == pytest.approx(0.6)
        assert [track.facing(time) for time in (0.5, 1.5, 2.5)] == [1, 1, -1]
        assert Track(0, 0.5, [Phase(math.inf, 0, 0)]).facing(3) == 0

    def test_inside_finds_the_edges(self) -> None:
        track = Track(1, -0.1, [Phase(12, 0.1, 0.1), Phase(math.inf, 0, 0)])
        assert track.inside(0) == pytest.approx((2.0, 12.0))
        assert track.inside(1) is None

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ((0, 0.1, 0.1), "positive duration, got 0"),
            ((1, 0.1, -0.1), "does not turn round"),
            ((math.inf, 0.1, 0), "only standing still can last for ever"),
        ],
    )
    def test_impossible_phases(self, arguments: tuple[float, float, float], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            Phase(*arguments)

    spans = st.lists(
        st.tuples(st.integers(0, 20), st.integers(1, 10)).map(lambda p: (p[0], p[0] + p[1])),
        max_size=8,
    )

    @given(spans, st.integers(1, 5))
    @settings(deadline=None, max_examples=60)
    def test_at_least_counts_like_a_grid(self, spans: list[tuple[int, int]], count: int) -> None:
        moments = np.arange(0, 32) + 0.5
        levels = sum((np.array([a <= t < b for t in moments]) for a, b in spans), moments * 0)
        found = at_least(spans, count)
        inside = np.array([any(a <= t < b for a, b in found) for t in moments])
        assert (inside == (levels >= count)).all()
        assert at_least(spans, 1) == union(spans)
        assert all(one[1] < two[0] for one, two in itertools.pairwise(found))


class TestTruth:
    @given(seeds)
    @settings(deadline=None, max_examples=12)
    def test_people_agree_with_their_positions(self, seed: int) -> None:
        script = make_script(seed)
        times = np.arange(STEP, script.duration - STEP, STEP)
        count = np.zeros(len(times), int)
        someone_walks = np.zeros(len(times), bool)
        for person in script.people:
            here = positions(person, times)
            inside = (here >= 0) & (here < 1)
            moved = np.abs(positions(person, times + STEP / 4) - here) > 1e-6
            count += inside
            someone_walks |= inside & moved
        clear = away_from_boundaries(script, times)
        assert (covered(script, CROWDED_SCENE, times) == (count >= CROWD_SIZE))[clear].all()
        assert (covered(script, PERSON_WALKING, times) == someone_walks)[clear].all()

    @given(seeds)
    @settings(deadline=None, max_examples=12)
    def test_vehicles_agree_with_their_speeds(self, seed: int) -> None:
        script = make_script(seed)
        times = np.arange(STEP, script.duration - STEP, STEP)
        stopping = np.zeros(len(times), bool)
        for vehicle in script.vehicles:
            speed = speeds(vehicle, times)
            # Standing after having moved: how long ago was the last movement?
            last_moved = -math.inf
            top = 0.0
            for index, (time, now) in enumerate(zip(times, speed, strict=True)):
                if np.isnan(now):
                    continue
                top = max(top, now)
                slower = index and speed[index - 1] > now + 1e-6
                if now > 1e-6:
                    last_moved = time
                    halved = vehicle.conduct == "stops" and slower and now < top / 2
                    stopping[index] |= halved
                else:
                    stopping[index] |= time - last_moved < HOLD_SECONDS
        # Differences blur by a step, so boundaries are left out by two.
        clear = away_from_boundaries(script, times)
        clear &= np.roll(clear, 1) & np.roll(clear, -1)
        agreed = covered(script, VEHICLE_STOPPING, times) == stopping
        # Of a vehicle that drives in while it brakes, its speed before is not to be seen.
        assert agreed[clear].mean() > 0.99

    @given(seeds)
    @settings(deadline=None, max_examples=12)
    def test_each_conduct_is_what_it_says(self, seed: int) -> None:
        script = make_script(seed)
        for vehicle in script.vehicles:
            end = min(vehicle.track.end, script.duration + 30)
            times = np.arange(max(vehicle.track.start, -5) + STEP, end - STEP, STEP)
            speed = speeds(vehicle, times)
            if vehicle.conduct == "parked":
                assert (speed == 0).all()
            elif vehicle.conduct == "passes":
                assert np.ptp(speed) < 1e-6
            elif vehicle.conduct == "slows":
                assert speed.min() >= SLOWEST_SHARE * speed.max() - 1e-6
                assert speed.min() < 0.55 * speed.max()
            elif vehicle.conduct == "pulls out":
                assert speed[0] == 0
                assert not vehicle.stopping()
            else:
                ((start, stop),) = vehicle.stopping()
                during = speeds(vehicle, np.arange(start, stop, STEP))
                assert during[0] == pytest.approx(speed.max() / 2, rel=0.05)
                assert (np.diff(during) <= 1e-9).all()
                assert during[-1] == 0
                assert 2.0 <= stop - start <= 4.0
                assert 0 < vehicle.track.position(start) < 1

    @given(seeds, st.integers(0, 5))
    @settings(deadline=None, max_examples=25)
    def test_events_are_as_many_as_asked_and_crisp(self, seed: int, num_events: int) -> None:
        script = make_script(seed, num_events=num_events)
        assert len(script.events) == num_events
        assert list(script.events) == sorted(script.events, key=lambda event: event.start)
        for event in script.events:
            assert 0 < event.start < event.end < script.duration
            assert event.end - event.start >= 1.0
        for label in LABELS:
            own = [event for event in script.events if event.label == label]
            assert all(b.start - a.end >= 1.0 for a, b in itertools.pairwise(own))

    @given(seeds)
    @settings(deadline=None, max_examples=12)
    def test_lanes_hold_one_vehicle_at_a_time(self, seed: int) -> None:
        vehicles = make_script(seed).vehicles
        for index, one in enumerate(vehicles):
            for two in vehicles[index + 1 :]:
                apart = one.track.end <= two.track.start or two.track.end <= one.track.start
                assert apart or one.lane != two.lane

    def test_stops_and_distractors_share_their_places(self) -> None:
        places: dict[str, list[float]] = {"stops": [], "slows": [], "parked": []}
        for seed in range(150):
            for vehicle in make_script(seed).vehicles:
                if vehicle.conduct in places:
                    assert vehicle.place is not None
                    places[vehicle.conduct].append(vehicle.place)
        for other in ("slows", "parked"):
            # Largest distance of the two distribution functions; 1.63 is its 1 % quantile
            # (Kolmogorov and Smirnov), with some room.
            grid = np.linspace(0, 1, 101)
            one, two = (np.sort(places[name]) for name in ("stops", other))
            gap = np.abs(
                np.searchsorted(one, grid) / len(one) - np.searchsorted(two, grid) / len(two)
            ).max()
            assert gap < 2 * math.sqrt(1 / len(one) + 1 / len(two))

    def test_an_hour_with_three_events(self) -> None:
        script = make_script(3, duration=3600, num_events=3)
        assert len(script.events) == 3
        assert max(event.end for event in script.events) <= 3600
        assert sum(vehicle.conduct == "slows" for vehicle in script.vehicles) > 100

    def test_a_few_videos_in_a_row_show_every_kind(self) -> None:
        counts = Counter(
            event.label for seed in range(4) for event in make_script(seed, num_events=3).events
        )
        assert set(counts) == set(LABELS)

    @pytest.mark.parametrize("label", LABELS)
    def test_one_class_alone(self, label: str) -> None:
        script = make_script(5, num_events=2, duration=40, labels=(label,))
        assert [event.label for event in script.events] == [label, label]

    def test_only_what_is_annotated_happens(self) -> None:
        script = make_script(5, num_events=2, labels=(VEHICLE_STOPPING,))
        assert all(not person.walking() for person in script.people)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"num_events": 40}, "40 events of .* do not fit into 20 s; ask for fewer"),
            ({"num_events": -1}, "cannot be negative, got -1"),
            ({"duration": 0.0}, "duration must be a positive number of seconds, got 0.0"),
            ({"labels": ()}, r"must be given once each, got \[\]"),
        ],
    )
    def test_impossible_scripts(self, arguments: dict[str, object], message: str) -> None:
        with pytest.raises(UsageError, match=message):
            make_script(0, **arguments)  # type: ignore[arg-type]

    def test_unknown_label(self) -> None:
        with pytest.raises(UnknownNameError, match=r"'person walkin'.*did you mean 'person walk"):
            make_script(0, labels=("person walkin",))


class TestRenderer:
    def test_same_seed_same_pixels_in_any_order(self) -> None:
        first, second = (Renderer(make_script(7), fps=12.5) for _ in range(2))
        forwards = [first.frame(index) for index in range(100, 110)]
        backwards = [second.frame(index) for index in range(109, 99, -1)][::-1]
        assert all((a == b).all() for a, b in zip(forwards, backwards, strict=True))
        assert forwards[0].shape == (144, 256, 3)
        assert forwards[0].dtype == np.uint8

    def test_another_seed_another_picture(self) -> None:
        one, two = (Renderer(make_script(seed), fps=12.5).frame(50) for seed in (1, 2))
        assert np.abs(one.astype(int) - two.astype(int)).mean() > 5

    def test_same_camera_another_video(self) -> None:
        script = make_script(1)
        other = dataclasses.replace(script, key=(99, 2))
        one, two = (Renderer(s, fps=12.5).frame(50) for s in (script, other))
        assert (one != two).any()

    def test_late_in_a_long_video(self) -> None:
        renderer = Renderer(make_script(1, duration=3600, num_events=3), fps=12.5)
        assert renderer.num_frames == 45000
        assert renderer.frame(44_999).std() > 10

    def test_frames_outside_are_refused(self) -> None:
        renderer = Renderer(make_script(1), fps=12.5)
        with pytest.raises(IndexError, match="frame 250 of a video of 250 frames"):
            renderer.frame(250)
        with pytest.raises(ValueError, match="fps must be positive, got 0"):
            Renderer(make_script(1), fps=0)

    @pytest.mark.parametrize("number", range(len(STYLES)))
    def test_what_moves_is_where_the_script_says(self, number: int) -> None:
        camera = Camera.draw_by_lot(seed=0, number=number)
        lane = camera.lanes[1]
        passing = Vehicle(
            key=(1,), track=Track(0, 0.1, [Phase(4, 0.2, 0.2)]), lane=1, kind="van",
            conduct="passes", place=None,
        )  # fmt: skip
        empty = SceneScript(camera=camera, key=(3,), duration=4, people=(), vehicles=(), events=())
        full = dataclasses.replace(empty, vehicles=(passing,))
        for index in (0, 20, 40):
            with_it, without = (
                Renderer(script, fps=12.5).frame(index).astype(int) for script in (full, empty)
            )
            rows, columns = np.nonzero(np.abs(with_it - without).max(axis=2) > 20)
            middle = (columns.min() + columns.max()) / 2 / camera.width
            assert middle == pytest.approx(passing.track.position(index / 12.5), abs=0.04)
            assert rows.max() / camera.height == pytest.approx(lane.ground, abs=0.06)

    def test_one_picture_does_not_tell_a_parked_vehicle_from_one_that_stopped(self) -> None:
        camera = Camera.draw_by_lot(seed=0, number=0)
        braking = Track(0, 0.2, [Phase(2, 0.3, 0), Phase(math.inf, 0, 0)])
        parked = Track(-1, braking.position(3), [Phase(math.inf, 0, 0)])
        pictures = [
            Renderer(
                SceneScript(
                    camera=camera, key=(3,), duration=6, people=(), events=(),
                    vehicles=(
                        Vehicle(key=(1,), track=track, lane=0, kind="saloon", conduct="stops",
                                place=0.5),
                    ),
                ),
                fps=10,
            ).frame(30)
            for track in (braking, parked)
        ]  # fmt: skip
        assert (pictures[0] == pictures[1]).all()

    def test_one_picture_does_not_tell_a_walker_from_a_bystander(self) -> None:
        camera = Camera.draw_by_lot(seed=0, number=1)
        walks = Person(
            key=(1,), track=Track(1, 0.3, [Phase(5, 0.1, 0.1)]), ground=0.9, stride_phase=0.7,
            facing=-1,
        )  # fmt: skip
        stands = dataclasses.replace(walks, track=Track(-1, 0.3, [Phase(math.inf, 0, 0)]), facing=1)
        frames = []
        for person in (walks, stands):
            script = SceneScript(
                camera=camera, key=(3,), duration=6, people=(person,), vehicles=(), events=()
            )
            renderer = Renderer(script, fps=10)
            frames.append((renderer.frame(10), renderer.frame(14)))
        (walk_start, walk_later), (stand_start, stand_later) = frames
        assert (walk_start == stand_start).all()
        assert (walk_later != stand_later).any()


def tiny(**changes: object) -> SyntheticSettings:
    values: dict[str, object] = {
        "num_videos": {"train": 3, "val": 1, "test": 1},
        "duration": 6.0,
        "width": 64,
        "height": 36,
        "events_per_minute": 10.0,
        "labels": (VEHICLE_STOPPING,),
    }
    return SyntheticSettings(**{**values, **changes})  # type: ignore[arg-type]


class TestWriter:
    def test_files_and_annotations(self, tmp_path: Path) -> None:
        ticks: list[int] = []
        made = tiny()
        summaries = write_dataset(tmp_path, made, on_frames=ticks.append)
        assert sum(ticks) == len(ticks) == made.total_frames == 5 * 75
        assert [summary.split for summary in summaries] == ["train", "val", "test"]
        groups: list[set[str | None]] = []
        for summary in summaries:
            annotations = load_annotations(summary.annotations_path)
            assert annotations.labels == (VEHICLE_STOPPING,)
            assert len(annotations.videos) == summary.num_videos
            total = sum(len(video.events) for video in annotations.videos)
            assert {VEHICLE_STOPPING: total} == summary.num_events
            for index, video in enumerate(annotations.videos):
                script = made.script(summary.split, index)
                assert video.duration == script.duration == 6.0
                assert [(e.start, e.end) for e in video.events] == [
                    (round(e.start, 3), round(e.end, 3)) for e in script.events
                ]
                assert sorted(p.name for p in video.path.parent.glob(".*")) == []
            groups.append({video.group for video in annotations.videos})
        assert groups[0] == {f"train_camera_{index // VIDEOS_PER_CAMERA:03d}" for index in range(3)}
        assert len(set.union(*groups)) == sum(len(names) for names in groups)

    def test_videos_show_what_was_drawn_when_it_was_drawn(self, tmp_path: Path) -> None:
        made = tiny(num_videos={"val": 1}, width=128, height=72)
        write_dataset(tmp_path, made)
        renderer = Renderer(made.script("val", 0), fps=12.5)
        with av.open(str(tmp_path / "val/video_000.mp4")) as container:
            decoded = list(container.decode(video=0))
        assert len(decoded) == 75
        for index, frame in enumerate(decoded):
            assert frame.time == pytest.approx(index / 12.5)
            error = frame.to_ndarray(format="rgb24").astype(int) - renderer.frame(index)
            assert np.abs(error).mean() < 6

    def test_same_seed_same_bytes(self, tmp_path: Path) -> None:
        made = tiny(num_videos={"train": 1})
        for name in ("one", "two"):
            write_dataset(tmp_path / name, made)
        write_dataset(tmp_path / "other", tiny(num_videos={"train": 1}, seed=1))
        one, two, other = (
            (tmp_path / name / "train/video_000.mp4").read_bytes()
            for name in ("one", "two", "other")
        )
        assert one == two
        assert one != other

    @given(st.integers(1, 40), st.floats(0, 30), st.floats(1, 100))
    @settings(deadline=None, max_examples=30)
    def test_rare_events_are_spread_over_the_videos(
        self, num_videos: int, rate: float, duration: float
    ) -> None:
        made = tiny(duration=duration, events_per_minute=rate)
        counts = [made.num_events(index) for index in range(num_videos)]
        exact = rate / 60 * float(made.num_frames / made.rate)
        assert sum(counts) == pytest.approx(exact * num_videos, abs=0.5 + 1e-6)
        assert max(counts) - min(counts) <= 1

    def test_existing_files_are_not_replaced_unasked(self, tmp_path: Path) -> None:
        made = tiny(num_videos={"val": 1})
        write_dataset(tmp_path, made)
        with pytest.raises(UsageError, match=r"annotations\.json exists already.*--overwrite"):
            write_dataset(tmp_path, made)

    def test_overwriting_touches_nothing_foreign(self, tmp_path: Path) -> None:
        write_dataset(tmp_path, tiny(num_videos={"val": 2}))
        foreign = [tmp_path / "val/notes.txt", tmp_path / "val/video_007.mp4"]
        for path in foreign:
            path.write_text("mine")
        write_dataset(tmp_path, tiny(num_videos={"val": 1}, seed=4), overwrite=True)
        names = {path.name for path in (tmp_path / "val").iterdir()}
        assert names == {"annotations.json", "video_000.mp4", "notes.txt", "video_007.mp4"}
        assert all(path.read_text() == "mine" for path in foreign)

    def test_foreign_videos_are_not_replaced(self, tmp_path: Path) -> None:
        made = tiny(num_videos={"train": 1, "val": 2})
        write_dataset(tmp_path, tiny(num_videos={"train": 1}))
        path = tmp_path / "val/video_001.mp4"
        path.parent.mkdir()
        path.write_text("mine")
        with pytest.raises(UsageError, match=r"video_001\.mp4 was not written by this command"):
            write_dataset(tmp_path, made, overwrite=True)
        assert path.read_text() == "mine"
        # The refusal comes before anything of the other split is touched.
        assert (tmp_path / "train/annotations.json").exists()

    @pytest.mark.parametrize(
        "content", ['{"labels": ["a"], "videos": [{"video": "a.mp4", "events": []}]}', "[]"]
    )
    def test_foreign_annotations_are_not_replaced(self, tmp_path: Path, content: str) -> None:
        path = tmp_path / "val/annotations.json"
        path.parent.mkdir()
        path.write_text(content)
        with pytest.raises(UsageError, match="not written by this command and is not replaced"):
            write_dataset(tmp_path, tiny(num_videos={"val": 1}), overwrite=True)
        assert path.read_text() == content

    def test_who_draws_changes_nothing(self, tmp_path: Path) -> None:
        made = tiny(num_videos={"train": 2, "val": 1})
        write_dataset(tmp_path / "one", made)
        ticks: list[int] = []

        def backwards(draw: Callable[[VideoJob], int], jobs: Sequence[VideoJob]) -> Iterator[int]:
            return map(draw, reversed(jobs))

        write_dataset(tmp_path / "other", made, run_jobs=backwards, on_frames=ticks.append)
        assert ticks == [75, 75, 75]
        files = sorted(
            path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*.*")
        )
        assert len(files) == 5
        for file in files:
            assert (tmp_path / "one" / file).read_bytes() == (
                tmp_path / "other" / file
            ).read_bytes()

    def test_rates_hold_over_a_split(self) -> None:
        """Also where a video has room for less than one: it is drawn for some of them."""
        made = tiny(
            num_videos={"train": 40},
            duration=10.0,
            events_per_minute=2.0,
            distractors_per_minute=3.0,
        )
        scripts = [made.script("train", index) for index in range(40)]
        assert sum(len(script.events) for script in scripts) == 40 * 10 * 2 / 60 // 1 == 13
        conducts = Counter(vehicle.conduct for script in scripts for vehicle in script.vehicles)
        # 20, as far as there is room.
        assert 18 <= conducts["slows"] + conducts["passes"] <= 40 * 10 * 3 / 60

    def test_an_interrupted_run_does_not_look_whole(self, tmp_path: Path) -> None:
        made = tiny(num_videos={"val": 2})
        write_dataset(tmp_path, made)
        left = iter(range(100))

        def interrupt(count: int) -> None:
            if next(left) == 90:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            write_dataset(tmp_path, made, overwrite=True, on_frames=interrupt)
        names = {path.name for path in (tmp_path / "val").iterdir()}
        assert names == {"video_000.mp4", "video_001.mp4"}
        write_dataset(tmp_path, made, overwrite=True)
        assert (tmp_path / "val/annotations.json").exists()

    def test_a_folder_that_cannot_be_written(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(UsageError, match="file: cannot be written"):
            write_dataset(tmp_path / "file", tiny(num_videos={"val": 1}))

    def test_no_frames_no_video(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="at least one frame"):
            encode_video([], tmp_path / "a.mp4", rate=tiny().rate)
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"num_videos": {"val": 0}}, "no videos were asked for"),
            ({"num_videos": {"dev": 1}}, "unknown split 'dev'; known: train, val, test"),
            ({"num_videos": {"val": -2}}, "number of val videos cannot be negative, got -2"),
            ({"seed": -1}, "seed cannot be negative, got -1"),
            ({"fps": 0.0}, "fps must be between 1 and 120, got 0"),
            ({"duration": 0.01}, "duration must be at least one frame, got 0.01 s"),
            ({"width": 65}, "even numbers from 64x36 to 4096x4096, got 65x36"),
            ({"events_per_minute": -3.0}, "rate of events cannot be negative, got -3"),
        ],
    )
    def test_impossible_settings(self, changes: dict[str, object], message: str) -> None:
        with pytest.raises(UsageError, match=message):
            tiny(**changes)
