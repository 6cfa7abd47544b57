"""The cascade: chunk invariance, bounded memory, holes, failing describers, replay."""

from __future__ import annotations

import dataclasses
import threading
import tracemalloc
from contextlib import closing
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.cascade import Cascade, VideoResult
from pipeline.describers.base import Describer, EventContext
from pipeline.describers.template import TemplateDescriber
from pipeline.replay import Replay
from pipeline.run_records import CascadeSettings
from pipeline.score_file import SavedScores, ScoreWriter
from pipeline.scorers.base import FrameScorer
from pipeline.scorers.checkpoint import CheckpointScorer
from pipeline.video_run import thumbnail
from utils.config.schema import EventsConfig
from utils.errors import CheckpointError, EmptyVideoError, UsageError, VideoDecodeError
from utils.events.records import Event, FrameScore
from utils.video.source import VideoSource

SETTINGS = CascadeSettings(threshold=0.6, candidate_threshold=0.5)

COLORS = st.lists(
    st.tuples(st.sampled_from([0, 100, 140, 200, 255]), st.sampled_from([0, 120, 160, 255])),
    min_size=1,
    max_size=40,
)


def run_source(
    scorer: FrameScorer, source: VideoSource, run_settings: CascadeSettings
) -> tuple[list[Event], list[FrameScore], Any]:
    scores: list[FrameScore] = []
    cascade = Cascade(scorer, TemplateDescriber(), run_settings)
    run = cascade.stream(source, observe=scores.append)
    events = [described.event for described in run]
    return events, scores, run.totals


def assert_same_scores(first: list[FrameScore], second: list[FrameScore]) -> None:
    assert [score.timestamp for score in first] == [score.timestamp for score in second]
    for one, other in zip(first, second, strict=True):
        np.testing.assert_allclose(one.trigger, other.trigger, atol=1e-5)
        assert (one.temporal is None) == (other.temporal is None), one.timestamp
        if one.temporal is not None and other.temporal is not None:
            np.testing.assert_allclose(one.temporal, other.temporal, atol=1e-5)


def assert_same_events(first: list[Event], second: list[Event]) -> None:
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        assert dataclasses.replace(one, confidence=0) == dataclasses.replace(other, confidence=0)
        assert one.confidence == pytest.approx(other.confidence, abs=1e-5)


@pytest.mark.parametrize("causal", [False, True])
@settings(deadline=None, max_examples=25)
@given(colors=COLORS, batch_size=st.integers(1, 50), context=st.sampled_from([0.0, 0.4, 2.0]))
def test_chunks_of_any_size_give_the_same(
    helpers: ModuleType,
    causal: bool,
    colors: list[tuple[int, int]],
    batch_size: int,
    context: float,
) -> None:
    results = []
    for size in (batch_size, len(colors)):
        run_settings = dataclasses.replace(
            SETTINGS, batch_size=size, events=EventsConfig(context_seconds=context)
        )
        source = helpers.MemorySource(colors)
        results.append(run_source(helpers.FakeScorer(causal=causal), source, run_settings))
    (events, scores, totals), (whole_events, whole_scores, whole_totals) = results
    assert len(scores) == len(colors)
    assert_same_scores(scores, whole_scores)
    assert_same_events(events, whole_events)
    assert totals.num_candidates == whole_totals.num_candidates
    assert totals.num_windows == whole_totals.num_windows


@pytest.mark.parametrize("causal", [False, True])
def test_real_model_on_a_real_file_in_chunks(
    helpers: ModuleType, video: Path, tmp_path: Path, causal: bool
) -> None:
    path = helpers.write_checkpoint(tmp_path / "c.pt", video, causal=causal)
    scorer = CheckpointScorer.load(path)
    results: list[tuple[list[Event], list[FrameScore], Any]] = []
    for size in (1, 3, 16, 1000):
        with VideoSource.open(video) as source:
            results.append(
                run_source(scorer, source, dataclasses.replace(SETTINGS, batch_size=size))
            )
    whole_events, whole_scores, _ = results[-1]
    assert len(whole_scores) == 50
    assert len(whole_events) >= 2, "the test says nothing without events"
    for events, scores, _ in results[:-1]:
        assert_same_scores(scores, whole_scores)
        assert_same_events(events, whole_events)


def test_motion_model_gets_neighbors(helpers: ModuleType, video: Path, tmp_path: Path) -> None:
    path = helpers.write_checkpoint(tmp_path / "c.pt", video, motion=True)
    scorer = CheckpointScorer.load(path)
    result = Cascade(scorer, TemplateDescriber(), SETTINGS).run(video)
    assert scorer.sampling.neighbor_offsets_seconds == (0.08,)
    assert result.totals.num_frames == 50


def test_stages_see_less_and_less(helpers: ModuleType) -> None:
    colors = [(0, 0)] * 60 + [(255, 0)] * 10 + [(0, 0)] * 80
    scorer = helpers.FakeScorer()
    run_settings = dataclasses.replace(SETTINGS, events=EventsConfig(context_seconds=1.0))
    events, scores, totals = run_source(scorer, helpers.MemorySource(colors), run_settings)
    (event,) = events
    assert event.label == "person_walking"
    assert event.start == pytest.approx(11.9, abs=1e-6)
    assert event.end == pytest.approx(13.9, abs=1e-6)
    assert totals.num_frames == scorer.num_encoded == 150
    assert totals.num_candidates == 10
    assert totals.num_windows == 1
    # Ten candidates and five frames of context to either side.
    assert totals.stages["contextualize"].num_frames == 20
    assert [score.temporal is not None for score in scores].index(True) == 55
    assert totals.stages["describe"].num_frames == 1
    assert totals.duration_seconds == pytest.approx(29.9)


def test_events_come_while_the_video_runs(helpers: ModuleType) -> None:
    source = helpers.MemorySource([(255, 0)] * 10 + [(0, 0)] * 990)
    cascade = Cascade(helpers.FakeScorer(), TemplateDescriber(), SETTINGS)
    with closing(iter(cascade.stream(source))) as stream:
        next(stream)
        assert source.num_decoded < 200
    assert not [thread for thread in threading.enumerate() if thread.name == "prefetch"]


def test_memory_does_not_grow_with_the_video(helpers: ModuleType) -> None:
    def peak(num_frames: int) -> int:
        class Colors:
            """Candidates all along, one event."""

            def __len__(self) -> int:
                return num_frames

            def __getitem__(self, index: int) -> tuple[int, int]:
                return (255, 0) if index < 10 else (130, 130)

        run_settings = dataclasses.replace(SETTINGS, thumbnail_size=16)
        cascade = Cascade(helpers.FakeScorer(), TemplateDescriber(), run_settings)
        run = cascade.stream(helpers.MemorySource(Colors()))
        tracemalloc.start()
        for _ in run:
            pass
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert run.totals.num_frames == run.totals.num_candidates == num_frames
        return most

    peak(50)  # Imports and caches.
    short, long = peak(500), peak(3000)
    # A kept picture alone would be 2,500 times 576 bytes.
    assert long < short + 200_000, f"{short} bytes for 500 frames, {long} for 3000"


def test_pictures_show_the_strongest_frame(helpers: ModuleType) -> None:
    colors = [(0, 0)] * 5 + [(200, 0), (255, 0), (220, 0)] + [(0, 0)] * 20 + [(0, 240)] * 3
    run_settings = dataclasses.replace(SETTINGS, thumbnail_size=8)
    cascade = Cascade(helpers.FakeScorer(), TemplateDescriber(), run_settings)
    described = list(cascade.stream(helpers.MemorySource(colors)))
    assert [one.event.label for one in described] == ["person_walking", "vehicle_stopping"]
    for one in described:
        assert one.picture is not None
        assert one.picture.shape == (6, 8, 3)
        assert tuple(one.picture[0, 0, :2]) == colors[one.event.frame_index]


def test_a_run_is_iterated_once(helpers: ModuleType) -> None:
    run = Cascade(helpers.FakeScorer(), TemplateDescriber(), SETTINGS).stream(
        helpers.MemorySource([(255, 0)] * 5)
    )
    assert len(list(run)) == 1
    with pytest.raises(RuntimeError, match="a run is iterated once"):
        list(run)


def test_without_thumbnails_there_are_no_pictures(helpers: ModuleType) -> None:
    cascade = Cascade(helpers.FakeScorer(), TemplateDescriber(), SETTINGS)
    (described,) = cascade.stream(helpers.MemorySource([(255, 0)] * 5))
    assert described.picture is None


@pytest.mark.parametrize(
    ("shape", "size", "expected"),
    [
        ((100, 200, 3), 50, (25, 50, 3)),
        ((200, 100, 3), 50, (50, 25, 3)),
        ((20, 10, 3), 50, (20, 10, 3)),
        ((1000, 2, 3), 10, (10, 1, 3)),
    ],
)
def test_thumbnail_size(shape: tuple[int, ...], size: int, expected: tuple[int, ...]) -> None:
    assert thumbnail(np.zeros(shape, np.uint8), size).shape == expected


def test_hole_in_the_stream_splits_everything(helpers: ModuleType) -> None:
    times = [index / 5 for index in range(10)] + [60 + index / 5 for index in range(10)]
    for batch_size in (1, 7, 20):
        scorer = helpers.FakeScorer()
        run_settings = dataclasses.replace(SETTINGS, batch_size=batch_size)
        source = helpers.MemorySource([(255, 0)] * 20, times)
        events, scores, totals = run_source(scorer, source, run_settings)
        assert [event.start for event in events] == [0, 60]
        assert [event.end for event in events] == pytest.approx([1.9, 61.9])
        assert totals.num_windows == 2
        assert len(scores) == 20
        # The encoder forgets at the hole.
        assert scorer.states.count(None) == 2


def test_failing_describer_loses_no_event(
    helpers: ModuleType, caplog: pytest.LogCaptureFixture
) -> None:
    class Failing(Describer):
        def describe(self, event: Event, context: EventContext) -> str:
            raise RuntimeError("no words")

        def summarize(self, *_: Any, **__: Any) -> str:
            raise TimeoutError("too slow")

    cascade = Cascade(helpers.FakeScorer(), Failing(), SETTINGS)
    source = helpers.MemorySource([(255, 0)] * 5)
    run = cascade.stream(source)
    (described,) = run
    assert described.analysis.startswith("Person walking from 0:00.0 to 0:00.9")
    assert run.totals.num_describer_failures == 1
    assert (
        "the describer failed on 'person_walking' at 0.0 s (RuntimeError: no words)" in caplog.text
    )


def test_describer_hears_of_earlier_events(helpers: ModuleType) -> None:
    heard: list[tuple[str, ...]] = []

    class Listening(TemplateDescriber):
        def describe(self, event: Event, context: EventContext) -> str:
            heard.append(tuple(other.label for other in context.earlier))
            return super().describe(event, context)

    colors = [(255, 0)] * 5 + [(0, 0)] * 20 + [(0, 255)] * 5
    cascade = Cascade(helpers.FakeScorer(), Listening(), SETTINGS)
    assert len(list(cascade.stream(helpers.MemorySource(colors)))) == 2
    assert heard == [(), ("person_walking",)]


def test_decoding_error_comes_through_and_the_thread_ends(helpers: ModuleType) -> None:
    cascade = Cascade(helpers.FakeScorer(), TemplateDescriber(), SETTINGS)
    with pytest.raises(VideoDecodeError, match="memory: broken on purpose"):
        list(cascade.stream(helpers.MemorySource([(0, 0)] * 50, fail_at=30)))
    assert not [thread for thread in threading.enumerate() if thread.name == "prefetch"]


def test_no_frame_is_an_error(helpers: ModuleType) -> None:
    cascade = Cascade(helpers.FakeScorer(), TemplateDescriber(), SETTINGS)
    with pytest.raises(EmptyVideoError, match="memory: gave no frame"):
        list(cascade.stream(helpers.MemorySource([])))


def test_max_frames_stops_decoding(helpers: ModuleType) -> None:
    source = helpers.MemorySource([(255, 0)] * 500)
    run_settings = dataclasses.replace(SETTINGS, max_frames=12)
    events, scores, _ = run_source(helpers.FakeScorer(), source, run_settings)
    assert len(scores) == 12
    assert source.num_decoded <= 13
    assert len(events) == 1


def test_scores_that_are_no_numbers_are_an_error(helpers: ModuleType) -> None:
    class Diverged(helpers.FakeScorer):  # type: ignore[misc, name-defined]
        def encode_and_trigger(self, pixels: Any, state: Any) -> Any:
            features, logits, state = super().encode_and_trigger(pixels, state)
            logits[3, 1] = np.nan
            return features, logits, state

    cascade = Cascade(Diverged(), TemplateDescriber(), SETTINGS)
    with pytest.raises(
        CheckpointError, match=r"the trigger head gave a score that is no number at 0\.600 s"
    ):
        list(cascade.stream(helpers.MemorySource([(0, 0)] * 8)))


def saved(
    path: Path, helpers: ModuleType, colors: list[tuple[int, int]], run_settings: CascadeSettings
) -> SavedScores:
    scorer = helpers.FakeScorer()
    with ScoreWriter(path, scorer.labels) as writer:
        run = Cascade(scorer, TemplateDescriber(), run_settings).stream(
            helpers.MemorySource(colors), observe=writer.add
        )
        assert list(run) is not None
        writer.finish(
            {
                "video_path": "memory",
                "model": scorer.identity,
                "sampling": {},
                "threshold": run_settings.threshold,
                "candidate_threshold": run_settings.candidate_threshold,
                "context_seconds": run_settings.events.context_seconds,
                "max_gap_seconds": run.max_gap_seconds,
                "source": run.totals.source,
                "loss": dataclasses.asdict(run.totals.loss),
            }
        )
    return SavedScores.read(path)


@settings(deadline=None, max_examples=25)
@given(
    colors=COLORS,
    threshold=st.sampled_from([0.2, 0.6, 0.9]),
    candidate_threshold=st.sampled_from([0.4, 0.6, 0.95]),
    context=st.sampled_from([0.0, 0.5, 1.0]),
)
def test_replay_equals_the_video_itself(
    helpers: ModuleType,
    tmp_path_factory: pytest.TempPathFactory,
    colors: list[tuple[int, int]],
    threshold: float,
    candidate_threshold: float,
    context: float,
) -> None:
    wide = CascadeSettings(
        threshold=0.6, candidate_threshold=0.4, events=EventsConfig(context_seconds=1.0)
    )
    scores = saved(tmp_path_factory.mktemp("scores") / "a.scores.npz", helpers, colors, wide)
    other = CascadeSettings(
        threshold=threshold,
        candidate_threshold=candidate_threshold,
        events=EventsConfig(context_seconds=context),
    )
    events, direct_scores, totals = run_source(
        helpers.FakeScorer(), helpers.MemorySource(colors), other
    )
    replayed: list[FrameScore] = []
    replay = Replay(scores, TemplateDescriber(), other, observe=replayed.append)
    assert [described.event for described in replay] == events
    assert_same_scores(replayed, direct_scores)
    for name in ("num_frames", "num_candidates", "num_windows", "duration_seconds", "source"):
        assert getattr(replay.totals, name) == getattr(totals, name), name


@pytest.mark.parametrize("change", [{"candidate_threshold": 0.1}, {"context_seconds": 3.0}])
def test_replay_refuses_what_was_not_scored(
    helpers: ModuleType, tmp_path: Path, change: dict[str, float]
) -> None:
    colors = [(0, 0)] * 30 + [(255, 0)] * 5 + [(60, 0)] * 30
    scores = saved(
        tmp_path / "a.scores.npz",
        helpers,
        colors,
        dataclasses.replace(SETTINGS, events=EventsConfig(context_seconds=1.0)),
    )
    other = CascadeSettings(
        threshold=0.6,
        candidate_threshold=change.get("candidate_threshold", 0.5),
        events=EventsConfig(context_seconds=change.get("context_seconds", 1.0)),
    )
    with pytest.raises(
        UsageError,
        match=r"holds no temporal score at .* candidate_threshold 0\.5 and context_seconds 1\. A",
    ):
        list(Replay(scores, TemplateDescriber(), other))


def test_run_gives_events_by_start_without_pictures(
    helpers: ModuleType, checkpoint: Path, video: Path
) -> None:
    run_settings = dataclasses.replace(SETTINGS, thumbnail_size=16)
    result: VideoResult = Cascade(
        CheckpointScorer.load(checkpoint), TemplateDescriber(), run_settings
    ).run(video)
    starts = [described.event.start for described in result.events]
    assert len(starts) >= 2
    assert starts == sorted(starts)
    assert all(described.picture is None for described in result.events)
    assert result.summary.startswith(f"{len(starts)} events in 0:10: ")
    assert result.totals.duration_seconds == pytest.approx(10.0)
    assert result.totals.source["codec"] == "h264"
