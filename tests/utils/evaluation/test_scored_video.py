"""`ScoredVideo` against `WindowBuilder`, whose events it must give at every threshold."""

from __future__ import annotations

import numpy as np
import pytest

from scored_videos import LABELS, annotated, built, frames_of, scored
from utils.evaluation.scored_video import EventRules, ScoredVideo


def test_stretches_are_the_events_of_the_builder() -> None:
    draw = np.random.default_rng(0)
    num_events = 0
    for number in range(300):
        size = int(draw.integers(1, 60))
        times = np.cumsum(draw.choice([0.2, 0.2, 0.2, 0.3, 5.0], size))
        scores = draw.random((size, 2)).astype(np.float32)
        if number % 2:
            scores = np.round(scores, 1).astype(np.float32)
        frames = frames_of(scores, times, is_seen=draw.random(size) < 0.9)
        rules = EventRules(
            hysteresis_ratio=float(draw.choice([0.3, 0.6, 1.0])),
            min_duration_seconds=float(draw.choice([0.0, 0.4, 1.0])),
            merge_gap_seconds=float(draw.choice([0.0, 0.2, 0.5, 1.0])),
            cooldown_seconds=float(draw.choice([0.0, 0.6, 2.0])),
        )
        end = float(times[-1] + draw.choice([-1, 0.05, 3]))
        gap = float(draw.choice([2.0, 9.0]))
        video = ScoredVideo.of(
            frames, name="v", labels=LABELS, end_seconds=end, max_gap_seconds=gap
        )
        # One threshold is a score itself: "at or above" must mean the same.
        for threshold in (0.3, 0.7, max(0.05, float(scores[0, 0]))):
            events = built(frames, threshold, rules, end_seconds=end, max_gap_seconds=gap)
            num_events += len(events)
            for k, label in enumerate(LABELS):
                found = video.stretches(label, threshold, rules)
                own = [event for event in events if event.label == label]
                assert found.starts.tolist() == [event.start for event in own]
                assert found.ends.tolist() == [event.end for event in own]
                assert video.frame_indices[found.peaks].tolist() == [e.frame_index for e in own]
                assert len(found) == len(own)
                for event, crossing in zip(own, found.crossings, strict=True):
                    inside = (video.timestamps >= event.start) & (video.timestamps < event.end)
                    column = video.temporal[:, k].astype(float)
                    strong = np.flatnonzero(inside & (column >= threshold))
                    assert crossing == strong[0]
    assert num_events > 1000


def test_what_it_holds() -> None:
    video = scored(
        [[0.1, 0.9], [0.2, 0.8], [0.3, 0.7]],
        [annotated(0.5, 1.5), annotated(2.0, label="b")],
        timestamps=[0.0, 1.0, 5.0],
        is_seen=[True, False, True],
        trigger=[[0.5, 0.5], [0.6, 0.4], [0.7, 0.3]],
        end_seconds=5.5,
        max_gap_seconds=2.0,
    )
    assert len(video) == 3
    assert video.duration_seconds == 5.5
    assert video.starts.tolist() == [0.0, 0.5, 5.0]
    assert video.ends.tolist() == [0.5, 1.5, 5.5]
    assert video.blocks.tolist() == [0, 0, 1]
    # Where the temporal encoder did not look its score is 0, and the trigger head's is not.
    assert video.temporal[:, 1].tolist() == pytest.approx([0.9, 0.0, 0.7])
    assert video.trigger[1].tolist() == pytest.approx([0.6, 0.4])
    assert video.is_contextualized.tolist() == [True, False, True]
    assert video.targets(point_radius_seconds=1.5)[:, 0].tolist() == [0, 1, 0]
    assert video.targets(point_radius_seconds=1.5)[:, 1].tolist() == [0, 1, 0]
    assert video.intervals("a", point_radius_seconds=0.5).tolist() == [[0.5, 1.5]]
    assert video.intervals("b", point_radius_seconds=3.0).tolist() == [[0.0, 5.0]]


def test_a_video_without_group_stands_for_itself() -> None:
    assert scored([0.1], name="x.mp4").cluster == "x.mp4"
    assert scored([0.1], name="x.mp4", cluster="cam").cluster == "cam"


def test_nothing_is_above_an_unreached_threshold() -> None:
    found = scored([0.1, 0.2]).stretches("a", 0.5, EventRules())
    assert len(found) == 0
    assert found.starts.shape == found.peaks.shape == (0,)


def test_a_video_without_frames_is_none() -> None:
    with pytest.raises(ValueError, match="'v' has no scored frame"):
        ScoredVideo.of([], name="v", labels=LABELS)
