"""What is in a data set: class balance, durations and event lengths, as a table and a picture.

For the eyes of the person who decides whether it can be trained on.
"""

from __future__ import annotations

import statistics
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from utils.data.annotations import AnnotationSet
from utils.events.wording import format_duration, printable, spoken_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLORS = ("#1f4e8c", "#f28e2b", "#3c8d5a", "#9aa5b1")
_DOTS_PER_INCH = 110
_LANE_INCHES = 0.32
_MAX_HEIGHT_INCHES = 40.0
_NUM_BINS = 16


@dataclass(frozen=True, kw_only=True)
class ClassSummary:
    """One class in one data set.

    Attributes:
        label: Its name.
        num_events: Segments and points.
        num_points: Of these, points.
        num_videos: With at least one event.
        lengths: Of the segments, in seconds, rising.
        covered_seconds: Time in which at least one segment is on.
    """

    label: str
    num_events: int
    num_points: int
    num_videos: int
    lengths: tuple[float, ...]
    covered_seconds: float


@dataclass(frozen=True, kw_only=True)
class DatasetSummary:
    """A data set in numbers.

    Attributes:
        classes: In the order of its labels.
        durations: Of the videos of which it is known, in seconds.
        num_videos: All of them.
        num_empty: Videos without events.
        num_groups: Groups, videos without one counting as one each.
    """

    classes: tuple[ClassSummary, ...]
    durations: tuple[float, ...]
    num_videos: int
    num_empty: int
    num_groups: int

    @property
    def seconds(self) -> float | None:
        """All video time, or None where a video's duration is not known."""
        return sum(self.durations) if len(self.durations) == self.num_videos else None


def summarize(annotations: AnnotationSet) -> DatasetSummary:
    """Count a data set."""
    grouped = {video.group for video in annotations.videos if video.group is not None}
    alone = sum(video.group is None for video in annotations.videos)
    return DatasetSummary(
        classes=tuple(_summarize_class(annotations, label) for label in annotations.labels),
        durations=tuple(
            video.duration for video in annotations.videos if video.duration is not None
        ),
        num_videos=len(annotations.videos),
        num_empty=sum(not video.events for video in annotations.videos),
        num_groups=len(grouped) + alone,
    )


def _summarize_class(annotations: AnnotationSet, label: str) -> ClassSummary:
    lengths: list[float] = []
    num_points = num_videos = 0
    covered = 0.0
    for video in annotations.videos:
        events = [event for event in video.events if event.label == label]
        num_videos += bool(events)
        num_points += sum(event.is_point for event in events)
        spans = sorted((event.start, event.end) for event in events if not event.is_point)
        lengths += [end - start for start, end in spans]
        reached = 0.0
        for start, end in spans:
            covered += max(0.0, end - max(start, reached))
            reached = max(reached, end)
    return ClassSummary(
        label=label,
        num_events=len(lengths) + num_points,
        num_points=num_points,
        num_videos=num_videos,
        lengths=tuple(sorted(lengths)),
        covered_seconds=covered,
    )


_HEADINGS = (
    "class",
    "events",
    "points",
    "videos",
    "time",
    "share",
    "shortest",
    "median",
    "longest",
)


def summary_lines(name: str, summary: DatasetSummary) -> list[str]:
    """A sentence, and a table with a line for each class.

    Args:
        name: Of the split or file.
        summary: Its numbers.
    """
    seconds = summary.seconds
    length = "of unknown length" if seconds is None else format_duration(seconds)
    rows = [_HEADINGS, *(_row(found, seconds) for found in summary.classes)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADINGS))]
    return [
        f"{name}: {summary.num_videos} videos ({summary.num_empty} without events), {length}, "
        f"{summary.num_groups} groups",
        *(
            "  " + "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])])
            for row in rows
        ),
    ]


def _row(found: ClassSummary, seconds: float | None) -> tuple[str, ...]:
    lengths = ["-"] * 3
    if found.lengths:
        ends = (found.lengths[0], statistics.median(found.lengths), found.lengths[-1])
        lengths = [f"{length:.2f} s" for length in ends]
    return (
        found.label,
        str(found.num_events),
        str(found.num_points),
        str(found.num_videos),
        f"{found.covered_seconds:.1f} s",
        f"{found.covered_seconds / seconds:.1%}" if seconds else "-",
        *lengths,
    )


def draw_summary(path: Path, summaries: Mapping[str, DatasetSummary], *, title: str) -> None:
    """Write a picture as PNG: events of each class, their lengths, and the videos' durations.

    Args:
        path: Where to.
        summaries: By split; all of the same classes in the same order.
        title: Above the picture.
    """
    # The object interface: pyplot keeps figures alive and picks a window system.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    labels = [found.label for found in next(iter(summaries.values())).classes]
    lanes = len(labels) * max(1.0, 0.5 * len(summaries))
    height = min(2.2 + _LANE_INCHES * max(lanes, 5.0), _MAX_HEIGHT_INCHES)
    figure = Figure(figsize=(13.0, height), dpi=_DOTS_PER_INCH, layout="constrained")
    FigureCanvasAgg(figure)
    counts, lengths, durations = figure.subplots(1, 3, width_ratios=[1.2, 1.2, 1])
    _draw_counts(counts, labels, summaries)
    _draw_lengths(lengths, labels, summaries)
    _draw_durations(durations, summaries)
    for axes in (counts, lengths, durations):
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8, length=2)
    figure.suptitle(printable(title), fontsize=11, x=0.01, ha="left", parse_math=False)
    if len(summaries) > 1:
        handles, names = counts.get_legend_handles_labels()
        figure.legend(
            handles, names, loc="outside lower left", ncols=len(names), fontsize=8, frameon=False
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        # The font has not every script; a box in a label is no reason to alarm anyone.
        warnings.filterwarnings("ignore", r"Glyph .* missing from", UserWarning)
        figure.savefig(path, format="png")


def _draw_counts(
    axes: Axes, labels: Sequence[str], summaries: Mapping[str, DatasetSummary]
) -> None:
    axes.set_title("Events", fontsize=10, loc="left")
    height = 0.8 / len(summaries)
    for index, (name, summary) in enumerate(summaries.items()):
        values = [found.num_events for found in summary.classes]
        places = [lane - 0.4 + height * (index + 0.5) for lane in range(len(labels))]
        bars = axes.barh(
            places, values, height * 0.9, color=_COLORS[index % len(_COLORS)], label=name
        )
        axes.bar_label(bars, padding=2, fontsize=7)
    axes.set_yticks(
        range(len(labels)), [printable(spoken_label(label)) for label in labels], parse_math=False
    )
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.margins(x=0.1)


def _draw_lengths(
    axes: Axes, labels: Sequence[str], summaries: Mapping[str, DatasetSummary]
) -> None:
    axes.set_title("Event lengths (s); the bar is the median", fontsize=10, loc="left")
    height = 0.8 / len(summaries)
    has_any = False
    for index, summary in enumerate(summaries.values()):
        color = _COLORS[index % len(_COLORS)]
        for lane, found in enumerate(summary.classes):
            if not found.lengths:
                continue
            has_any = True
            y = lane - 0.4 + height * (index + 0.5)
            axes.scatter(
                found.lengths, [y] * len(found.lengths), s=14, color=color, alpha=0.45, linewidths=0
            )
            median = statistics.median(found.lengths)
            axes.plot([median] * 2, [y - height * 0.4, y + height * 0.4], color=color, linewidth=2)
    if has_any:
        # Events of a fifth of a second and of ten minutes are at home in one set.
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
    axes.set_yticks(range(len(labels)), [""] * len(labels))
    axes.set_ylim(len(labels) - 0.5, -0.5)


def _draw_durations(axes: Axes, summaries: Mapping[str, DatasetSummary]) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_title("Videos by duration (s)", fontsize=10, loc="left")
    known = [summary.durations for summary in summaries.values()]
    if any(known):
        axes.hist(
            known,
            bins=_NUM_BINS,
            stacked=True,
            color=[_COLORS[index % len(_COLORS)] for index in range(len(known))],
        )
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
