"""Pictures of scores: what is drawn is found again in the pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from utils.training import score_pictures
from utils.training.score_pictures import MAX_CLASSES, score_timeline_picture

BLUE = np.array([0x1F, 0x4E, 0x79])
YELLOW = np.array([0xF2, 0xB1, 0x34])


def draw(
    scores: Any, targets: Any, *, labels: list[str] | None = None, title: str = "a.mp4"
) -> NDArray[np.uint8]:
    scores, targets = np.array(scores, np.float32), np.array(targets, np.float32)
    names = labels or [f"class {k}" for k in range(scores.shape[1])]
    return score_timeline_picture(np.arange(len(scores)) / 4, scores, targets, names, title)


def has(picture: NDArray[np.uint8], colour: NDArray[Any]) -> NDArray[np.bool_]:
    """``(H, W)``, where the picture has just this colour."""
    return (picture == colour).all(axis=-1)


def shares(columns: NDArray[np.bool_]) -> tuple[float, float]:
    """First and last column that is True, as shares of the width of the axes."""
    found = np.flatnonzero(columns)
    left, right = 0.05 * len(columns), 0.98 * len(columns)
    return (found[0] - left) / (right - left), (found[-1] + 1 - left) / (right - left)


def test_events_stand_where_they_are() -> None:
    targets = np.zeros((100, 1))
    targets[25:50] = 1
    picture = draw(np.zeros((100, 1)), targets)
    assert picture.dtype == np.uint8
    assert picture.shape[1:] == (1000, 3)
    assert picture.flags["C_CONTIGUOUS"]
    assert shares(has(picture, YELLOW).any(axis=0)) == pytest.approx((0.25, 0.5), abs=0.004)


def test_each_class_has_its_own_panel() -> None:
    targets = np.zeros((100, 2))
    targets[:50, 0] = targets[50:, 1] = 1
    picture = draw(np.zeros((100, 2)), targets)
    bars = has(picture, YELLOW)
    middle = len(picture) // 2
    assert shares(bars[:middle].any(axis=0)) == pytest.approx((0, 0.5), abs=0.004)
    assert shares(bars[middle:].any(axis=0)) == pytest.approx((0.5, 1), abs=0.004)
    assert len(picture) > len(draw(np.zeros((100, 1)), targets[:, :1]))


def test_a_higher_score_is_drawn_higher() -> None:
    pictures = [draw(np.full((50, 1), s), np.zeros((50, 1))) for s in (0.0, 0.25, 0.5, 1.0)]
    # Of a thin line no pixel has just its colour.
    bluish = [picture[..., 2] > picture[..., 0] + 40.0 for picture in pictures]
    rows = [float(np.mean(np.nonzero(found)[0])) for found in bluish]
    steps = -np.diff(rows)
    assert (steps > 5).all()
    assert steps[2] == pytest.approx(2 * steps[1], rel=0.1)


def test_soft_targets_are_on_from_a_half_on() -> None:
    targets = np.interp(np.arange(100), [0, 20, 40, 100], [0, 0, 1, 1])[:, None]
    bars = has(draw(np.zeros((100, 1)), targets), YELLOW).any(axis=0)
    assert shares(bars) == pytest.approx((0.3, 1), abs=0.004)


def test_one_frame_is_a_dot() -> None:
    assert has(draw([[0.5]], [[0]]), BLUE).sum() > 10


def test_a_long_video_keeps_its_shortest_peak() -> None:
    scores = np.zeros((50_001, 1))
    scores[30_000] = 1
    picture = draw(scores, np.zeros((50_001, 1)))
    dark = picture.astype(int).sum(axis=-1) < 600
    # Half way up there is nothing but the peak.
    height = len(picture)
    columns = np.flatnonzero(dark[int(0.3 * height) : int(0.45 * height), 60:970].any(axis=0)) + 60
    assert (columns - 50) / 930 == pytest.approx(0.6, abs=0.01)


def test_thinning_keeps_lowest_and_highest() -> None:
    random = np.random.default_rng(0)
    scores, times = random.random(12_345), np.arange(12_345) / 5
    thin_times, thin = score_pictures._thinned(times, scores)
    assert len(thin) <= 2000
    assert (np.diff(thin_times) > 0).all()
    assert (thin.min(), thin.max()) == (scores.min(), scores.max())
    np.testing.assert_array_equal(thin, scores[np.searchsorted(times, thin_times)])


def test_of_many_classes_those_with_events_come_first() -> None:
    scores, targets = np.zeros((20, 30)), np.zeros((20, 30))
    targets[5:9, [3, 27]] = 1
    scores[4, [0, 29, 11]] = 0.9
    shown = score_pictures._shown_classes(scores, targets)
    assert len(shown) == MAX_CLASSES
    assert shown == sorted(shown)
    assert {3, 27, 0, 29, 11} < set(shown)
    few = draw(scores[:, :MAX_CLASSES], targets[:, :MAX_CLASSES])
    assert draw(scores, targets).shape == few.shape


@pytest.mark.parametrize("name", ["$x^$", "_hidden", "喧嘩", "\\alpha $", "", "a" * 300])
def test_any_name_can_be_drawn(name: str) -> None:
    """Warnings are errors here, and a lone dollar sign would begin a formula."""
    assert has(draw([[0.1], [0.9]], [[0], [1]], labels=[name], title=name), YELLOW).any()


@pytest.mark.parametrize(
    ("scores", "targets", "labels"),
    [
        (np.zeros((3, 2)), np.zeros((3, 1)), ["a", "b"]),
        (np.zeros((3, 2)), np.zeros((3, 2)), ["a"]),
        (np.zeros((0, 1)), np.zeros((0, 1)), ["a"]),
        (np.zeros((3, 0)), np.zeros((3, 0)), []),
    ],
)
def test_shapes_that_do_not_fit(scores: Any, targets: Any, labels: list[str]) -> None:
    with pytest.raises(ValueError, match=r"scores and targets must be \(T, K\) with a row for"):
        score_timeline_picture(np.arange(len(scores)) / 4, scores, targets, labels, "a.mp4")
