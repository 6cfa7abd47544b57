"""Proposals against their definition: what `WindowBuilder` gives at each event's own score."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scored_videos import LABELS, built, frames_of, scored
from utils.evaluation.proposals import make_proposals
from utils.evaluation.scored_video import EventRules, ScoredVideo


def test_proposals_are_the_events_at_their_own_confidence() -> None:
    draw = np.random.default_rng(21)
    num_proposals = 0
    for number in range(250):
        size = int(draw.integers(1, 40))
        times = np.cumsum(draw.choice([0.2, 0.2, 0.3, 5.0], size))
        scores = draw.random((size, 2)).astype(np.float32)
        if number % 2:
            scores = np.round(scores * 5).astype(np.float32) / 5
        frames = frames_of(scores, times, is_seen=draw.random(size) < 0.8)
        rules = EventRules(
            hysteresis_ratio=float(draw.choice([0.3, 0.6, 1.0])),
            min_duration_seconds=float(draw.choice([0.0, 0.5])),
            merge_gap_seconds=float(draw.choice([0.0, 0.2, 1.0])),
        )
        video = ScoredVideo.of(
            frames, name="v", labels=LABELS, end_seconds=float(times[-1]) + 1, max_gap_seconds=2.0
        )
        for k, label in enumerate(LABELS):
            expected = []
            for score in sorted({float(s) for s in video.temporal[:, k]} - {0.0}):
                events = built(
                    frames, score, rules, end_seconds=float(times[-1]) + 1, max_gap_seconds=2.0
                )
                expected += [
                    (event.timestamp, event.start, event.end, event.confidence)
                    for event in events
                    if event.label == label and event.confidence == score
                ]
            found = make_proposals(video, label, rules)
            rows = zip(
                found.peak_seconds.tolist(),
                found.starts.tolist(),
                found.ends.tolist(),
                found.scores.tolist(),
                strict=True,
            )
            assert list(rows) == sorted(expected)
            num_proposals += len(found)
    assert num_proposals > 1000


def test_two_peaks_with_a_valley() -> None:
    rules = EventRules(hysteresis_ratio=0.5, merge_gap_seconds=0.0)
    # The lower peak stands out from the valley between the two by more than half of itself.
    apart = make_proposals(scored([0.1, 0.9, 0.2, 0.6, 0.1]), "a", rules)
    assert apart.scores.tolist() == pytest.approx([0.9, 0.6])
    # Here it does not: at its own threshold it is a part of the other's event.
    joined = make_proposals(scored([0.1, 0.9, 0.4, 0.6, 0.1]), "a", rules)
    assert joined.scores.tolist() == pytest.approx([0.9])
    # A dip is bridged where events as near would be merged.
    near = EventRules(hysteresis_ratio=0.5, merge_gap_seconds=1.0)
    assert len(make_proposals(scored([0.1, 0.9, 0.2, 0.6, 0.1]), "a", near)) == 1
    assert len(make_proposals(scored([0.1, 0.9, 0.2, 0.2, 0.6]), "a", near)) == 2


def test_nothing_is_proposed_where_nobody_looked() -> None:
    found = make_proposals(scored([0.9, 0.9, 0.9], is_seen=[False] * 3), "a", EventRules())
    assert len(found) == 0
    assert found.starts.shape == found.peak_seconds.shape == (0,)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(1, 20), min_size=1, max_size=30), st.floats(0.2, 1.0))
def test_the_highest_score_is_always_proposed_and_peaks_stand_alone(
    heights: list[int], ratio: float
) -> None:
    video = scored(np.array(heights) / 20)
    found = make_proposals(video, "a", EventRules(hysteresis_ratio=ratio))
    assert found.scores.max() == video.temporal.max()
    assert len(set(found.peak_seconds.tolist())) == len(found)
    inside = (found.starts <= found.peak_seconds) & (found.peak_seconds < found.ends)
    assert inside.all()
