"""The timeline picture: every class's scores over the video, with what was made of them.

Bounded for a video of any length: `TimelineColumns` keeps the highest scores of at most a few
thousand stretches of time, so no peak is lost and ten hours cost what ten seconds do.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from utils.events.records import FrameScore
from utils.events.wording import format_time, printable, spoken_label
from utils.thresholds import Threshold, per_class

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_COLUMNS = 2000
"""More than the picture has pixels to show."""

_WIDTH_INCHES = 13.0
_LANE_INCHES = 1.25
_MAX_HEIGHT_INCHES = 60.0
_DOTS_PER_INCH = 110
_MIN_BAR_SHARE = 0.0015
"""A bar is drawn at least this wide, as a share of the axis: an event of a second in ten hours."""
_TICK_STEPS = (
    *(0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30),
    *(60, 120, 300, 600, 900, 1800),
    *(3600, 7200, 14400, 43200, 86400),
)
_NUM_TICKS = 12

_TEMPORAL = "#1f4e8c"
_TRIGGER = "#9aa5b1"
_EVENT = "#f28e2b"
_WINDOW = "#e9eef5"
_TRUTH = "#3c8d5a"


class LabeledInterval(Protocol):
    """What the picture needs of an event or an annotation: ``[start, end)`` in seconds."""

    @property
    def label(self) -> str:
        """Class name."""

    @property
    def start(self) -> float:
        """Seconds."""

    @property
    def end(self) -> float:
        """Seconds, exclusive."""


class TimelineColumns:
    """Scores of a video of any length in at most ``max_columns`` columns.

    Each column holds the highest scores of as many successive frames; when all are full, neighbours
    are joined and each holds twice as many.

    Args:
        num_classes: K.
        max_columns: Even, at least 2.

    Raises:
        ValueError: ``max_columns`` is odd or below 2.
    """

    def __init__(self, num_classes: int, *, max_columns: int = MAX_COLUMNS) -> None:
        if max_columns < 2 or max_columns % 2:
            raise ValueError(f"max_columns must be even and at least 2, got {max_columns}")
        self._first = np.zeros(max_columns)
        self._last = np.zeros(max_columns)
        self._trigger = np.zeros((max_columns, num_classes), np.float32)
        self._temporal = np.full((max_columns, num_classes), np.nan, np.float32)
        self._frames_per_column = 1
        self._num_frames_in_last = 0
        self._num_columns = 0

    def __len__(self) -> int:
        return self._num_columns

    def add(self, score: FrameScore) -> None:
        """Take the next frame."""
        if self._num_columns and self._num_frames_in_last < self._frames_per_column:
            column = self._num_columns - 1
            self._num_frames_in_last += 1
        else:
            if self._num_columns == len(self._first):
                self._join()
            column = self._num_columns
            self._num_columns += 1
            self._num_frames_in_last = 1
            self._first[column] = score.timestamp
            self._trigger[column] = 0
            self._temporal[column] = np.nan
        self._last[column] = score.timestamp
        np.maximum(self._trigger[column], score.trigger, out=self._trigger[column])
        if score.temporal is not None:
            np.fmax(self._temporal[column], score.temporal, out=self._temporal[column])

    def _join(self) -> None:
        half = len(self._first) // 2
        self._first[:half] = self._first[::2]
        self._last[:half] = self._last[1::2]
        self._trigger[:half] = np.maximum(self._trigger[::2], self._trigger[1::2])
        self._temporal[:half] = np.fmax(self._temporal[::2], self._temporal[1::2])
        self._num_columns = half
        self._frames_per_column *= 2

    @property
    def times(self) -> NDArray[np.float64]:
        """``(C,)`` seconds, the middle of each column."""
        times: NDArray[np.float64] = (self._first + self._last)[: self._num_columns] / 2
        return times

    @property
    def trigger(self) -> NDArray[np.float32]:
        """``(C, K)`` highest trigger-head probabilities."""
        return self._trigger[: self._num_columns]

    @property
    def temporal(self) -> NDArray[np.float32]:
        """``(C, K)`` highest temporal probabilities; NaN where that encoder saw no frame."""
        return self._temporal[: self._num_columns]


@dataclass(frozen=True, kw_only=True)
class TimelineText:
    """Words and lines that the scores do not hold.

    Attributes:
        title: Above the picture.
        labels: K class names, a lane for each.
        threshold: The cut on the temporal scores; one for all classes, or one each.
        candidate_threshold: The cut on the trigger head's scores.
        duration_seconds: The length of the time axis.
    """

    title: str
    labels: tuple[str, ...]
    threshold: Threshold
    candidate_threshold: float
    duration_seconds: float


def draw_timeline(
    path: Path,
    columns: TimelineColumns,
    events: Sequence[LabeledInterval],
    text: TimelineText,
    *,
    ground_truth: Sequence[LabeledInterval] | None = None,
) -> None:
    """Write the picture as PNG.

    Args:
        path: Where to.
        columns: Scores.
        events: What was found.
        text: Words and lines.
        ground_truth: Annotated events, drawn as a bar below each lane; None draws no bar.
    """
    # The object interface: pyplot keeps figures alive and picks a window system.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    num_lanes = len(text.labels)
    height = min(1.3 + _LANE_INCHES * num_lanes, _MAX_HEIGHT_INCHES)
    figure = Figure(figsize=(_WIDTH_INCHES, height), dpi=_DOTS_PER_INCH, layout="constrained")
    FigureCanvasAgg(figure)
    lanes = figure.subplots(num_lanes, 1, sharex=True, squeeze=False)[:, 0]
    for index, (lane, label) in enumerate(zip(lanes, text.labels, strict=True)):
        own_events = [event for event in events if event.label == label]
        own_truth = [truth for truth in ground_truth or () if truth.label == label]
        _draw_lane(lane, columns, index, own_events, text)
        if ground_truth is not None:
            _draw_truth(lane, own_truth, text)
        lane.set_ylabel(
            printable(spoken_label(label)),
            rotation=0,
            ha="right",
            va="center",
            fontsize=10,
            parse_math=False,
        )
    _set_time_axis(lanes[-1], text.duration_seconds)
    # A dollar in a file name is no formula.
    figure.suptitle(printable(text.title), fontsize=11, x=0.01, ha="left", parse_math=False)
    legend: list[Line2D | Patch] = [
        Line2D([], [], color=_TEMPORAL, linewidth=1.4, label="temporal encoder"),
        Line2D([], [], color=_TRIGGER, linewidth=0.9, label="trigger head"),
        Line2D(
            [],
            [],
            color=_TEMPORAL,
            linewidth=0.8,
            linestyle="--",
            label=_threshold_in_words(text.threshold),
        ),
        Line2D(
            *([], []),
            color=_TRIGGER,
            linewidth=0.8,
            linestyle=":",
            label=f"candidate threshold {text.candidate_threshold:.3g}",
        ),
        Patch(color=_EVENT, alpha=0.45, label="event"),
        Patch(color=_WINDOW, label="looked at by the temporal encoder"),
    ]
    if ground_truth is not None:
        legend.append(Patch(color=_TRUTH, label="ground truth"))
    figure.legend(
        handles=legend, loc="outside lower left", ncols=len(legend), fontsize=8, frameon=False
    )
    with warnings.catch_warnings():
        # The font has not every script; a box in the title is no reason to alarm anyone.
        warnings.filterwarnings("ignore", r"Glyph .* missing from", UserWarning)
        figure.savefig(path, format="png")


def _threshold_in_words(threshold: Threshold) -> str:
    if not isinstance(threshold, tuple):
        return f"threshold {threshold:.3g}"
    # The lanes show it where there are many.
    return f"threshold {threshold[0]:.3g}" if len(threshold) == 1 else "threshold of each class"


def _draw_lane(
    lane: Axes,
    columns: TimelineColumns,
    class_index: int,
    events: Sequence[LabeledInterval],
    text: TimelineText,
) -> None:
    times, temporal = columns.times, columns.temporal[:, class_index]
    lane.set_ylim(0, 1.02)
    lane.set_yticks([0, 0.5, 1])
    lane.tick_params(labelsize=8, length=2)
    lane.spines[["top", "right"]].set_visible(False)
    lane.broken_barh(_looked_at(times, temporal), (0, 1.02), color=_WINDOW, linewidth=0, zorder=0)
    lane.broken_barh(
        [_bar(event.start, event.end, text.duration_seconds) for event in events],
        (0, 1.02),
        color=_EVENT,
        alpha=0.45,
        linewidth=0,
        zorder=1,
    )
    lane.axhline(text.candidate_threshold, color=_TRIGGER, linewidth=0.8, linestyle=":", zorder=2)
    threshold = per_class(text.threshold, text.labels)[class_index]
    lane.axhline(threshold, color=_TEMPORAL, linewidth=0.8, linestyle="--", zorder=2)
    lane.plot(times, columns.trigger[:, class_index], color=_TRIGGER, linewidth=0.9, zorder=3)
    # Where the temporal encoder did not look, its score counts as 0.
    confidence = np.nan_to_num(temporal)
    lane.fill_between(times, confidence, color=_TEMPORAL, alpha=0.15, linewidth=0, zorder=3)
    lane.plot(times, confidence, color=_TEMPORAL, linewidth=1.4, zorder=4)


def _draw_truth(lane: Axes, truth: Sequence[LabeledInterval], text: TimelineText) -> None:
    lane.set_ylim(-0.16, 1.02)
    lane.broken_barh(
        [_bar(segment.start, segment.end, text.duration_seconds) for segment in truth],
        (-0.13, 0.09),
        color=_TRUTH,
        linewidth=0,
        zorder=2,
    )


def _bar(start: float, end: float, duration_seconds: float) -> tuple[float, float]:
    """``(start, width)``, wide enough to be seen; a point is a narrow bar around it."""
    least = _MIN_BAR_SHARE * duration_seconds
    if end - start >= least:
        return start, end - start
    return (start + end - least) / 2, least


def _looked_at(
    times: NDArray[np.float64], temporal: NDArray[np.float32]
) -> list[tuple[float, float]]:
    """``(start, width)`` of each run of columns that the temporal encoder saw."""
    if not len(times):
        return []
    is_seen = np.concatenate(([False], ~np.isnan(temporal), [False]))
    changes = np.flatnonzero(is_seen[1:] != is_seen[:-1])
    middles = (times[1:] + times[:-1]) / 2
    borders = np.concatenate((times[:1], middles, times[-1:]))
    return [
        (float(borders[first]), float(borders[end] - borders[first]))
        for first, end in zip(changes[::2], changes[1::2], strict=True)
    ]


def tick_step(duration_seconds: float) -> float:
    """Seconds between two ticks of a time axis: a round number, and about a dozen ticks."""
    return next(
        (step for step in _TICK_STEPS if duration_seconds / step <= _NUM_TICKS), _TICK_STEPS[-1]
    )


def _set_time_axis(lane: Axes, duration_seconds: float) -> None:
    duration = max(duration_seconds, 1e-3)
    step = tick_step(duration)
    ticks = np.arange(0, duration + 1e-9, step)
    lane.set_xlim(0, duration)
    lane.set_xticks(ticks)
    num_decimals = 0 if step >= 1 else 1
    lane.set_xticklabels([format_time(float(tick), num_decimals=num_decimals) for tick in ticks])
