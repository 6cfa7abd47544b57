"""The candidates' gate: as the cascade decides it, and set where it hides few events."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.candidate_gate import (
    choose_candidate_threshold,
    frames_in_reach,
    gate_cost,
    gated,
    scores_near_events,
)
from scored_streams import scored_video
from utils.data.annotations import AnnotatedEvent
from utils.evaluation.scored_video import ScoredVideo
from utils.events.candidate_windows import CandidateWindows
from utils.events.records import FrameScore

SPREAD = {"context_seconds": 2.0, "tolerance_seconds": 0.5, "point_radius_seconds": 0.5}


def video_of(
    steps: list[tuple[float, float]], references: tuple[AnnotatedEvent, ...] = ()
) -> ScoredVideo:
    """Frames so many seconds apart, with these trigger scores; temporal scores fall."""
    times = np.cumsum([seconds for seconds, _ in steps])
    scores = [
        FrameScore(
            sample_index=index,
            frame_index=index,
            timestamp=float(time),
            trigger=np.array([score, 0.1], np.float32),
            temporal=np.array([1 / (index + 2), 0.0], np.float32),
        )
        for index, (time, (_, score)) in enumerate(zip(times, steps, strict=True))
    ]
    return ScoredVideo.of(
        scores, name="v", labels=["a", "b"], references=references, max_gap_seconds=5.0
    )


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.tuples(st.sampled_from([0.25, 0.5, 2.0, 9.0]), st.sampled_from([0.0, 0.5, 1.0])),
        min_size=1,
        max_size=30,
    ),
    st.sampled_from([0.0, 0.25, 1.0, 2.5]),
    st.sampled_from([0.0, 0.5, 0.75, 1.0]),
)
def test_reach_is_that_of_the_cascade(
    steps: list[tuple[float, float]], context_seconds: float, threshold: float
) -> None:
    video = video_of(steps)
    windows = CandidateWindows(
        candidate_threshold=threshold, context_seconds=context_seconds, max_gap_seconds=5.0
    )
    decisions = [
        decision
        for index, time in enumerate(video.timestamps)
        for decision in windows.push(
            index, float(time), float(video.trigger[index].max())
        ).decisions
    ]
    decisions += windows.flush().decisions
    expected = [decision.in_window for decision in decisions]
    reach = frames_in_reach(video, threshold, context_seconds=context_seconds)
    assert reach.tolist() == expected
    behind = gated(video, threshold, context_seconds=context_seconds)
    assert (behind.temporal[reach] == video.temporal[reach]).all()
    assert not behind.temporal[~reach].any()
    assert (behind.is_contextualized == reach).all()


def test_an_event_stays_in_sight_up_to_the_best_score_near_its_surest_frame() -> None:
    event = AnnotatedEvent(label="a", start=3.0, end=6.0)
    steps = [(1.0, score) for score in (0.9, 0.2, 0.3, 0.4, 0.8, 0.95)]
    # Temporal scores fall, so its surest frame is the first inside, at 3 s; 0.9 is at 1 s.
    assert scores_near_events([video_of(steps, (event,))], **SPREAD).tolist() == pytest.approx(
        [0.9]
    )
    narrow = {**SPREAD, "context_seconds": 1.0}
    assert scores_near_events([video_of(steps, (event,))], **narrow).tolist() == pytest.approx(
        [0.4]
    )
    # What lies beyond a hole is out of reach, and an event without a frame is no event.
    steps[3] = (9.0, 0.4)
    far = AnnotatedEvent(label="a", start=5.0, end=7.0)
    later = AnnotatedEvent(label="a", start=12.0, end=14.0)
    found = scores_near_events([video_of(steps, (far, later))], **SPREAD)
    assert found.tolist() == pytest.approx([0.95])


def test_the_gate_hides_no_more_than_it_may() -> None:
    videos = [scored_video(seed, labels=("a", "b"), minutes=10) for seed in range(5)]
    scores = scores_near_events(videos, **SPREAD)
    assert len(scores) > 80
    shares = []
    for max_loss in (0.0, 0.02, 0.1):
        threshold = choose_candidate_threshold(scores, max_loss=max_loss)
        cost = gate_cost(videos, threshold, scores, context_seconds=2.0)
        assert cost.num_lost == int(max_loss * len(scores))
        assert cost.num_events == len(scores)
        # One step higher, and one more is lost.
        assert np.count_nonzero(scores < threshold + 0.001) > cost.num_lost
        behind = [gated(video, threshold, context_seconds=2.0) for video in videos]
        looked_at = sum(int(video.is_contextualized.sum()) for video in behind)
        assert cost.contextualized_share == looked_at / sum(len(video) for video in videos)
        shares.append(cost.contextualized_share)
    assert 1 > shares[0] > shares[1] > shares[2] > 0


def test_no_lower_than_what_was_scored() -> None:
    scores = np.array([0.2, 0.4])
    assert choose_candidate_threshold(scores, max_loss=0.0) == pytest.approx(0.2, abs=1e-3)
    assert choose_candidate_threshold(scores, max_loss=0.0, least=0.3) == 0.3
    assert choose_candidate_threshold(scores, max_loss=0.5) == pytest.approx(0.4, abs=1e-3)
    assert choose_candidate_threshold(np.zeros(0), max_loss=0.0) == 0.0
    assert choose_candidate_threshold(np.zeros(3), max_loss=0.0, least=0.1) == 0.1
