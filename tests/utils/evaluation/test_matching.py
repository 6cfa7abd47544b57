"""Event matching against brute force, sed_eval's rule by hand, and counts."""

from __future__ import annotations

import itertools
import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.data.annotations import AnnotatedEvent
from utils.evaluation.matching import (
    EventCounts,
    event_scores,
    is_match,
    match_events,
    maximum_matching,
)
from utils.events.records import Event


def annotated(start: float, end: float, label: str = "a") -> AnnotatedEvent:
    return AnnotatedEvent(label=label, start=start, end=end)


def predicted(start: float, end: float, label: str = "a", peak: float | None = None) -> Event:
    return Event(
        label=label,
        start=start,
        end=end,
        timestamp=start if peak is None else peak,
        frame_index=0,
        confidence=0.9,
    )


def most_pairs(candidates: list[list[int]]) -> int:
    """Brute force: every left node takes each of its candidates, or none, in turn."""
    choices = [[None, *candidate] for candidate in candidates]
    best = 0
    for choice in itertools.product(*choices):
        taken = [right for right in choice if right is not None]
        if len(taken) == len(set(taken)):
            best = max(best, len(taken))
    return best


@settings(deadline=None, max_examples=200)
@given(st.lists(st.lists(st.integers(0, 5), unique=True, max_size=4), max_size=5))
def test_maximum_matching_equals_brute_force(candidates: list[list[int]]) -> None:
    pairs = maximum_matching(candidates)
    assert len(pairs) == most_pairs(candidates)
    assert all(right in candidates[left] for left, right in pairs)
    assert len({left for left, _ in pairs}) == len({right for _, right in pairs}) == len(pairs)
    assert pairs == sorted(pairs)


def test_maximum_matching_gives_way_along_a_chain() -> None:
    # Each takes the next one's first choice; the last to come pushes all the others on.
    size = 3000
    candidates = [[i, i + 1] for i in range(size)] + [[0]]
    assert len(maximum_matching(candidates)) == size + 1


def test_match_events_equals_brute_force() -> None:
    generator = np.random.default_rng(3)

    def times(count: int) -> list[tuple[float, float, str]]:
        starts = generator.integers(0, 12, count) / 4
        lengths = generator.integers(1, 12, count) / 4
        labels = generator.choice(["a", "b"], count)
        return [
            (float(s), float(s + n), str(k))
            for s, n, k in zip(starts, lengths, labels, strict=True)
        ]

    for _ in range(150):
        references = [annotated(*event) for event in times(int(generator.integers(0, 6)))]
        references += [annotated(1.0, 1.0), annotated(2.5, 2.5, "b")]
        predictions = [
            predicted(s, e, k, peak=(s + e) / 2) for s, e, k in times(int(generator.integers(0, 7)))
        ]
        # The rule written down once more, over all pairs.
        candidates = [
            [
                j
                for j, p in enumerate(predictions)
                if p.label == r.label
                and (
                    abs(p.timestamp - r.start) <= 0.5
                    if r.start == r.end
                    else abs(p.start - r.start) <= 0.5
                    and abs(p.end - r.end) <= max(0.5, 0.5 * (r.end - r.start))
                )
            ]
            for r in references
        ]
        pairs = match_events(references, predictions)
        assert all(j in candidates[i] for i, j in pairs)
        assert len({j for _, j in pairs}) == len(pairs) == most_pairs(candidates)


@pytest.mark.parametrize(
    ("reference", "prediction", "expected"),
    [
        ((10.0, 11.0), (10.5, 11.5), True),
        ((10.0, 11.0), (10.51, 11.0), False),
        ((10.0, 11.0), (10.0, 11.51), False),
        # 8 s long: the end may be off by 4 s, the start by 0.5 s as ever.
        ((10.0, 18.0), (10.0, 14.0), True),
        ((10.0, 18.0), (10.0, 22.0), True),
        ((10.0, 18.0), (10.0, 13.9), False),
        ((10.0, 18.0), (11.0, 18.0), False),
        # A prediction's own length does not widen anything.
        ((10.0, 11.0), (10.0, 30.0), False),
    ],
)
def test_tolerances(
    reference: tuple[float, float], prediction: tuple[float, float], expected: bool
) -> None:
    assert is_match(annotated(*reference), predicted(*prediction)) is expected
    found = match_events([annotated(*reference)], [predicted(*prediction)])
    assert found == ([(0, 0)] if expected else [])


def test_tolerance_and_fraction_are_parameters() -> None:
    reference, late = annotated(10.0, 18.0), predicted(11.0, 19.0)
    assert not is_match(reference, late)
    assert is_match(reference, late, tolerance_seconds=1.0)
    assert not is_match(reference, predicted(10.0, 19.0), length_fraction=0.0)
    assert match_events([reference], [late], tolerance_seconds=1.0, length_fraction=0.0) == [(0, 0)]


def test_labels_must_agree() -> None:
    assert not is_match(annotated(1.0, 2.0, "a"), predicted(1.0, 2.0, "b"))
    assert match_events([annotated(1.0, 2.0, "a")], [predicted(1.0, 2.0, "b")]) == []


def test_a_point_is_found_by_a_peak() -> None:
    point = annotated(5.0, 5.0)
    assert is_match(point, predicted(0.0, 9.0, peak=5.5))
    assert not is_match(point, predicted(4.9, 5.1, peak=4.9), tolerance_seconds=0.05)
    predictions = [predicted(4.0, 6.0, peak=4.2), predicted(3.0, 8.0, peak=5.1)]
    assert match_events([point], predictions) == [(0, 1)]


def test_two_predictions_for_one_event_are_one_match_and_one_false_alarm() -> None:
    scores = event_scores(
        [([annotated(1.0, 3.0)], [predicted(1.0, 3.0), predicted(1.2, 3.1)])], ["a"]
    )
    assert scores.overall == EventCounts(num_references=1, num_predictions=2, num_matches=1)
    assert scores.overall.num_false_alarms == 1
    assert scores.overall.num_misses == 0


def test_event_scores_over_videos_and_classes() -> None:
    videos = [
        ([annotated(1.0, 3.0), annotated(8.0, 9.0, "b")], [predicted(1.1, 3.0)]),
        # The same times in another video must not be confused with those of the first.
        ([annotated(5.0, 6.0)], [predicted(8.0, 9.0, "b"), predicted(5.0, 6.0)]),
        ([], [predicted(0.0, 1.0)]),
    ]
    scores = event_scores(videos, ["a", "b", "c"])
    a, b, c = scores.per_class.values()
    assert (a.precision, a.recall, a.f1) == (2 / 3, 1.0, 0.8)
    assert (b.precision, b.recall, b.f1) == (0.0, 0.0, 0.0)
    assert math.isnan(c.precision) and math.isnan(c.recall) and math.isnan(c.f1)
    assert scores.overall == EventCounts(num_references=3, num_predictions=4, num_matches=2)
    assert scores.overall.f1 == pytest.approx(4 / 7)


def test_precision_is_undefined_without_predictions_and_f1_is_not() -> None:
    counts = EventCounts(num_references=2, num_predictions=0, num_matches=0)
    assert math.isnan(counts.precision)
    assert (counts.recall, counts.f1) == (0.0, 0.0)


def test_to_plain() -> None:
    scores = event_scores([([annotated(1.0, 3.0)], [predicted(1.0, 3.0)])], ["a", "b"])
    plain = scores.to_plain()
    share = {"overall": 1.0, "per_class": {"a": 1.0, "b": None}}
    one = {
        "num_references": 1,
        "num_predictions": 1,
        "num_matches": 1,
        "num_misses": 0,
        "num_false_alarms": 0,
    }
    assert plain == {
        "event_f1": share,
        "event_precision": share,
        "event_recall": share,
        "event_counts": {"overall": one, "per_class": {"a": one, "b": dict.fromkeys(one, 0)}},
        "event_tolerance": {"tolerance_seconds": 0.5, "length_fraction": 0.5},
    }
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain


@settings(deadline=None, max_examples=100)
@given(
    st.lists(st.tuples(st.integers(0, 200), st.integers(1, 40), st.sampled_from("ab")), max_size=15)
)
def test_a_perfect_list_is_perfect(events: list[tuple[int, int, str]]) -> None:
    references = [annotated(s / 10, (s + n) / 10, k) for s, n, k in events]
    predictions = [predicted(r.start, r.end, r.label) for r in reversed(references)]
    overall = event_scores([(references, predictions)], ["a", "b"]).overall
    assert overall.num_matches == len(events)
    assert overall.f1 == 1.0 or not events


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tolerance_seconds": -0.1}, r"tolerance_seconds must be 0 or more, got -0.1"),
        ({"length_fraction": math.nan}, r"length_fraction must be 0 or more, got nan"),
    ],
)
def test_rejects_tolerances(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        match_events([], [], **arguments)
    with pytest.raises(ValueError, match=message):
        event_scores([], ["a"], **arguments)


def test_rejects_unknown_labels_and_impossible_counts() -> None:
    with pytest.raises(ValueError, match=r"event of unknown label 'c'; known: a, b"):
        event_scores([([], [predicted(0.0, 1.0, "c")])], ["a", "b"])
    with pytest.raises(ValueError, match=r"2 matches among 3 references and 1 predictions"):
        EventCounts(num_references=3, num_predictions=1, num_matches=2)
