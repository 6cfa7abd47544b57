"""One wish to thresholds: promises that hold on fresh data, refusals that say what is missing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from pipeline.operating_points import Choice, Wish, WishKind, choose
from pipeline.threshold_curves import ClassCurve
from utils.errors import UsageError

GRID = np.linspace(0.002, 0.998, 250)
QUIET, LOUD = stats.beta(1, 5), stats.beta(4, 1.5)
"""How false alarms and events peak: which share of each lies above a threshold is known."""
HOURS, FALSE_PER_HOUR, NUM_EVENTS, MEAN_SECONDS = 6.0, 30.0, 60, 4.0
SECONDS = HOURS * 3600


def curve(
    false: Sequence[float] | NDArray[np.float64] = (),
    events: Sequence[float] | NDArray[np.float64] = (),
    *,
    label: str = "a",
    hours: float = HOURS,
    lengths: NDArray[np.float64] | None = None,
    thresholds: NDArray[np.float64] = GRID,
) -> ClassCurve:
    """Of false alarms and events that peak at these scores."""
    false, events = np.asarray(false, np.float64), np.asarray(events, np.float64)
    if lengths is None:
        lengths = np.full(len(false) + len(events), MEAN_SECONDS)
    is_there = np.concatenate((false, events)) >= thresholds[:, None]
    num_false = np.count_nonzero(is_there[:, : len(false)], axis=1)
    return ClassCurve(
        label=label,
        thresholds=thresholds,
        num_alarms=np.count_nonzero(is_there, axis=1),
        num_false=num_false,
        num_detected=np.count_nonzero(is_there[:, len(false) :], axis=1),
        sent_seconds=(is_there * lengths).sum(1),
        sent_squares=(is_there * lengths**2).sum(1),
        longest_seconds=np.maximum((is_there * lengths).max(1), MEAN_SECONDS),
        num_references=len(events),
        quiet_hours=hours,
    )


def drawn(random: np.random.Generator, *, num_events: int | None = None) -> ClassCurve:
    """A fresh calibration set."""
    false = QUIET.ppf(random.random(random.poisson(FALSE_PER_HOUR * HOURS)))
    count = random.poisson(NUM_EVENTS) if num_events is None else num_events
    events = LOUD.ppf(random.random(count))
    lengths = random.exponential(MEAN_SECONDS, len(false) + len(events))
    return curve(false, events, lengths=lengths)


def truth(kind: WishKind, choice: Choice) -> NDArray[np.float64]:
    """What the chosen thresholds do in the long run, by class."""
    thresholds = GRID[list(choice.positions)]
    rates = FALSE_PER_HOUR * QUIET.sf(thresholds)
    if kind == "recall":
        return np.asarray(LOUD.sf(thresholds))
    if kind == "false_alarms_per_hour":
        return np.asarray(rates)
    rates = rates + NUM_EVENTS / HOURS * LOUD.sf(thresholds)
    return np.asarray(MEAN_SECONDS * rates / 3600)


@pytest.mark.parametrize(
    ("kind", "value", "num_classes", "num_draws"),
    [
        ("recall", 0.8, 1, 400),
        ("false_alarms_per_hour", 1.5, 1, 400),
        ("false_alarms_per_hour", 3.0, 3, 200),
        ("stage3_fraction", 0.01, 1, 150),
    ],
)
def test_the_promise_holds(kind: WishKind, value: float, num_classes: int, num_draws: int) -> None:
    random = np.random.default_rng(1)
    wish = Wish(kind=kind, value=value, confidence=0.9)
    num_broken, reached = 0, []
    num_events = NUM_EVENTS if kind == "recall" else None
    for _ in range(num_draws):
        curves = [drawn(random, num_events=num_events) for _ in range(num_classes)]
        choice = choose(curves, wish, duration_seconds=SECONDS)
        true = truth(kind, choice)
        if kind == "recall":
            num_broken += true.min() < choice.promised
            assert choice.promised >= value
            reached.append(true.min())
        else:
            num_broken += true.sum() > choice.promised
            assert choice.promised <= value
            reached.append(true.sum())
    # Three standard deviations of a binomial above what may be broken.
    allowed = 0.1 + 3 * (0.1 * 0.9 / num_draws) ** 0.5
    assert num_broken / num_draws <= allowed
    # And not by promising next to nothing.
    typical = float(np.median(reached))
    if kind == "recall":
        assert typical < 1 - (1 - value) / 4
    else:
        assert typical > value / 4


def test_alarms_stay_within_what_was_settled_beforehand() -> None:
    false = [0.9, 0.8, 0.7, 0.6, 0.5]
    events = [0.95, 0.85, 0.65, 0.4]
    # 4.74 is the upper bound of one alarm: two would make 6.3.
    wish = Wish(kind="false_alarms_per_hour", value=0.8)
    choice = choose([curve(false, events)], wish, duration_seconds=SECONDS)
    threshold = GRID[choice.positions[0]]
    # Between the second alarm and the event above it, in the middle by logits.
    assert 0.8 < threshold <= 0.85
    assert choice.promised == pytest.approx(4.743865 / HOURS)
    assert not choice.notes


def test_a_hopeless_class_costs_the_others_nothing() -> None:
    hopeless = curve(np.full(200, 0.99), [0.3, 0.2], label="b")
    good = curve([0.2, 0.1], [0.9, 0.8], label="a")
    wish = Wish(kind="false_alarms_per_hour", value=1.5)
    choice = choose([good, hopeless], wish, duration_seconds=SECONDS)
    assert good.num_detected[choice.positions[0]] == 2
    assert hopeless.num_false[choice.positions[1]] == 0


def test_a_lucky_threshold_is_not_taken() -> None:
    """Two alarms become one at 0.3: fewer than higher up, but only by chance."""
    base = curve([0.8, 0.5, 0.45], [0.9])
    num_false = base.num_false.copy()
    num_false[GRID < 0.3] = 0
    lucky = ClassCurve(**{**base.__dict__, "num_false": num_false})
    wish = Wish(kind="false_alarms_per_hour", value=0.8)
    choice = choose([lucky], wish, duration_seconds=SECONDS)
    assert GRID[choice.positions[0]] > 0.5


def test_recall_takes_the_highest_threshold_that_will_do() -> None:
    events = np.linspace(0.31, 0.9, 60)
    choice = choose(
        [curve([0.5, 0.355], events)], Wish(kind="recall", value=0.8), duration_seconds=SECONDS
    )
    detected = int(np.count_nonzero(events >= GRID[choice.positions[0]]))
    # 55 of 60, one of them for the second cut, have a lower bound of 0.817; 54 of 0.797.
    assert detected == 55
    assert choice.promised == pytest.approx(stats.beta.ppf(0.05, 54, 7))
    assert np.count_nonzero(events >= GRID[choice.positions[0] + 1]) < 55


def test_recall_goes_lower_where_that_is_free() -> None:
    events = np.linspace(0.8, 0.9, 60)
    choice = choose(
        [curve([0.2, 0.85], events)], Wish(kind="recall", value=0.7), duration_seconds=SECONDS
    )
    # All up to 0.2, where the next false alarm is; half way between 0.2 and 0.82 by logits.
    assert GRID[choice.positions[0]] == pytest.approx(0.515, abs=0.01)


def test_too_few_events_are_told_and_all_are_found() -> None:
    events = [0.9, 0.8, 0.7, 0.2]
    choice = choose(
        [curve([0.5], events)], Wish(kind="recall", value=0.9), duration_seconds=SECONDS
    )
    assert np.count_nonzero(np.array(events) >= GRID[choice.positions[0]]) == 4
    assert choice.promised == pytest.approx(stats.beta.ppf(0.05, 3, 2))
    assert choice.notes == (
        "class 'a': 4 of 4 events found can promise a recall of 0.25 and no more, with 95 % "
        "confidence: it takes 46 events, all of them found. The threshold finds as many as it can",
    )
    many = [*np.linspace(0.3, 0.9, 95), *np.zeros(5)]
    (note,) = choose(
        [curve([], many)], Wish(kind="recall", value=0.93), duration_seconds=SECONDS
    ).notes
    assert "95 of 100 events found can promise" in note
    assert "it takes 99 of them found" in note


def test_too_few_hours_are_refused() -> None:
    short = curve([], [0.9], hours=1.5)
    wish = Wish(kind="false_alarms_per_hour", value=1)
    with pytest.raises(
        UsageError,
        match=r"^at most 1 false alarm an hour, with 95 % confidence: 1\.50 hours without "
        r"annotated events are too few to promise that, even if not one false alarm came in them: "
        r"it takes 3\.00 hours \(1\.50 more\); 2 an hour is the least that they support$",
    ):
        choose([short], wish, duration_seconds=SECONDS)
    # K thresholds are K chances of luck: the bound of two alarms, 6.30.
    three = [curve([], [0.9], hours=1.5, label=label) for label in "abc"]
    with pytest.raises(UsageError, match=r"it takes 6\.30 hours \(4\.80 more\); 4\.2 an hour is"):
        choose(three, wish, duration_seconds=SECONDS)
    with pytest.raises(UsageError, match=r": 0\.00 hours .* takes 3\.00 hours \(3\.00 more\)$"):
        choose([curve([], [0.9], hours=0.0)], wish, duration_seconds=SECONDS)


def test_too_little_video_for_a_share_is_refused() -> None:
    wish = Wish(kind="stage3_fraction", value=0.01)
    with pytest.raises(
        UsageError,
        match=r"^at most 1 % of the video sent to stage 3, with 95 % confidence: 0\.17 hours of "
        r"video are too few .* it takes about 0\.33 hours \(0\.17 more\); 2 % is the least",
    ):
        choose([curve([0.5], [0.9])], wish, duration_seconds=600.0)


def test_alarms_at_every_threshold_are_refused() -> None:
    loud = curve(np.ones(9), [0.9])
    wish = Wish(kind="false_alarms_per_hour", value=0.8)
    with pytest.raises(
        UsageError,
        match=r"class 'a' raises 9 false alarms even at a threshold of 0\.998, and 1 are allowed "
        r"in 6\.00 hours; wish for more, or train a better model",
    ):
        choose([loud], wish, duration_seconds=SECONDS)


def test_recall_out_of_reach_is_refused() -> None:
    wish = Wish(kind="recall", value=0.9)
    with pytest.raises(
        UsageError,
        match=r"no threshold finds that much of class 'a': at most 2 of 3 events, at 0\.6\d*; "
        "wish for less",
    ):
        choose([curve([], [0.9, 0.7, 0.0])], wish, duration_seconds=SECONDS)


def test_a_class_without_events_is_refused() -> None:
    wish = Wish(kind="recall", value=0.9)
    with pytest.raises(UsageError, match=r"hold no event of class 'b': .* add videos with some"):
        choose([curve([], [0.9]), curve([0.5], [], label="b")], wish, duration_seconds=SECONDS)
    with pytest.raises(UsageError, match=r"never scores class 'a' above 0"):
        choose([curve([], [0.9], thresholds=np.zeros(0))], wish, duration_seconds=SECONDS)


@pytest.mark.parametrize(
    ("kind", "value", "text"),
    [
        ("recall", 1.0, r"a wish for recall must be between 0 and 1, got 1"),
        ("stage3_fraction", 0.0, r"a wish for stage3_fraction must be between 0 and 1, got 0"),
        ("false_alarms_per_hour", -1.0, r"false_alarms_per_hour must be above 0, got -1"),
        ("recall", float("nan"), r"a wish for recall must be between 0 and 1, got nan"),
    ],
)
def test_wishes_out_of_range(kind: WishKind, value: float, text: str) -> None:
    with pytest.raises(UsageError, match=text):
        Wish(kind=kind, value=value)
    with pytest.raises(UsageError, match=r"confidence must be between 0 and 1, got 1"):
        Wish(kind="recall", value=0.9, confidence=1.0)
