"""`write_report`: an evaluation as a page to look at: figures, curves, mistakes, timelines.

The page holds everything, runs nothing and reaches out to nothing, so it opens from a disk without
network and can be sent as it is. What stands in it, names of videos and labels, may be anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.evaluation import Evaluation
from pipeline.evaluation_charts import charts
from pipeline.evaluation_pictures import MistakePictures
from pipeline.svg_charts import CHART_STYLE
from pipeline.svg_timeline import TIMELINE_STYLE, timeline_svg
from utils.atomic_file import replacing
from utils.data.strip_page import PAGE_END, escape, page_start
from utils.errors import UsageError
from utils.evaluation.evidence import Evidence
from utils.evaluation.mistakes import Mistakes, find_mistakes
from utils.events.wording import format_duration, spoken_label

PAGE_NAME = "index.html"
TIMELINES_A_PAGE = 50

_STYLE = f"""{CHART_STYLE}{TIMELINE_STYLE}
.cards {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(190px, 1fr)); gap: 12px;
  margin: 16px 0 6px; }}
.card {{ background: var(--card); border-radius: 8px; padding: 12px 14px; }}
.card b {{ display: block; font-size: 25px; font-weight: 600; line-height: 1.25;
  font-variant-numeric: tabular-nums; }}
.card span {{ display: block; font-size: 13px; color: var(--soft); }}
.wide {{ overflow-x: auto; }}
.wide td {{ white-space: nowrap; padding-bottom: 6px; vertical-align: top; }}
td small {{ display: block; color: var(--soft); font-size: 12px; }}
tr.total td {{ border-top: 1px solid var(--line); font-weight: 600; }}
tr.total td small {{ font-weight: normal; }}
.pages {{ margin: 18px 0; }}
code {{ overflow-wrap: anywhere; }}
"""


def write_report(
    evaluation: Evaluation,
    content: Mapping[str, Any],
    folder: Path,
    *,
    title: str,
    num_worst: int = 12,
) -> Path:
    """Write the page, and further ones where there are many videos.

    Args:
        evaluation: What was found.
        content: Its metrics as they are written to JSON, with ``model`` and ``failed``.
        folder: Made where it is missing; files of an earlier report are replaced.
        title: Heading of the page.
        num_worst: At most so many misses, and false alarms, are shown in pictures.

    Returns:
        The page to open.

    Raises:
        UsageError: The folder does not take it.
    """
    evidence = evaluation.evidence
    mistakes = find_mistakes(evidence)
    order = _by_mistakes(evidence, mistakes)
    pages = [
        order[first : first + TIMELINES_A_PAGE] for first in range(0, len(order), TIMELINES_A_PAGE)
    ]
    names = [PAGE_NAME, *(f"timelines_{number}.html" for number in range(2, len(pages) + 1))]
    places = {
        video: f"{name}#v{video}" for name, page in zip(names, pages, strict=True) for video in page
    }
    _write(
        folder / PAGE_NAME,
        _front(evaluation, content, mistakes, places, title=title, num_worst=num_worst),
        _timelines(evidence, mistakes, pages[0]),
        _page_links(names, 0),
    )
    for number, (name, page) in enumerate(zip(names[1:], pages[1:], strict=True), 1):
        _write(
            folder / name,
            [page_start(f"{title}, timelines, page {number + 1}", style=_STYLE)],
            _timelines(evidence, mistakes, page),
            _page_links(names, number),
        )
    return folder / PAGE_NAME


def _write(path: Path, *parts: Iterable[str]) -> None:
    try:
        with replacing(path) as file:
            for part in (*parts, [PAGE_END]):
                for piece in part:
                    file.write(piece.encode())
    except OSError as error:
        raise UsageError(
            f"{path}: cannot be written: {error.strerror or error}; choose another folder"
        ) from error


def _front(
    evaluation: Evaluation,
    content: Mapping[str, Any],
    mistakes: Mistakes,
    places: Mapping[int, str],
    *,
    title: str,
    num_worst: int,
) -> Iterator[str]:
    evidence = evaluation.evidence
    pictures = MistakePictures(evaluation, mistakes, places)
    yield page_start(title, style=_STYLE)
    yield _who(evidence, content)
    yield _cards(content)
    yield _failed(evaluation.failed)
    yield _class_table(evidence, content)
    yield "<h2>Curves</h2>\n"
    yield '<div class="charts">\n'
    yield from charts(evidence)
    yield "</div>\n"
    for name, parts in content["slices"].items():
        yield _slice_table(name, parts)
    yield _heading("Missed events", len(mistakes.misses), num_worst, "where the score was lowest")
    for miss in mistakes.misses[:num_worst]:
        yield pictures.of_miss(miss)
    yield _heading(
        "False alarms", len(mistakes.false_alarms), num_worst, "where the model was surest"
    )
    for alarm in mistakes.false_alarms[:num_worst]:
        yield pictures.of_false_alarm(alarm)


# What was judged, and the figures.


def _who(evidence: Evidence, content: Mapping[str, Any]) -> str:
    thresholds = ", ".join(
        f"{escape(spoken_label(label))} {value:g}"
        for label, value in evidence.judgement.thresholds.items()
    )
    if len(set(evidence.judgement.thresholds.values())) == 1:
        thresholds = f"{next(iter(evidence.judgement.thresholds.values())):g}"
    num_videos = content["num_videos"]
    model = content["model"].get("checkpoint", "")
    return (
        f'<p class="soft">{num_videos} video{"" if num_videos == 1 else "s"}, '
        f"{format_duration(content['duration_seconds'])}, "
        f"{content['alarm_counts']['overall']['num_references']} annotated events · "
        f"threshold {thresholds}, candidate threshold {content['candidate_threshold']:g} · "
        f"<code>{escape(str(model))}</code></p>\n"
    )


def _cards(content: Mapping[str, Any]) -> str:
    counts = content["alarm_counts"]["overall"]
    num_missed = counts["num_references"] - counts["num_detected"]
    delay = content["time_to_detect_seconds"]["overall"]
    rate = content["false_alarms_per_hour"]
    cards = [
        (
            f"{num_missed} of {counts['num_references']}",
            "events missed",
            f"alarm recall {_value(content['alarm_recall']['overall'])}"
            + _in_words(content["alarm_recall"]["interval"]["overall"]),
        ),
        (
            _value(rate["overall"], 1),
            "false alarms per hour",
            f"{counts['num_false_alarms']} in {_hours(counts['quiet_hours'])} without events"
            + _in_words(rate["interval"]["overall"], 1),
        ),
        (
            _seconds(delay["median"]),
            "median time to detect",
            f"95 % within {_seconds(delay['p95'])}",
        ),
        (
            _percent(content["sent_share"]["overall"]),
            "of the video sent to stage three",
            f"the temporal encoder looked at {_percent(content['contextualized_share'])}",
        ),
        (
            _value(content["event_f1"]["overall"]),
            "event F1",
            f"borders within {content['event_tolerance']['tolerance_seconds']:g} s"
            + _in_words(content["event_f1"]["interval"]["overall"]),
        ),
        (
            _value(content["frame_ap"]["overall"]),
            "frame AP",
            "mean over the classes" + _in_words(content["frame_ap"]["interval"]["overall"]),
        ),
    ]
    return (
        '<div class="cards">'
        + "".join(
            f'<div class="card"><b>{escape(big)}</b>{escape(what)}'
            f"<span>{escape(small)}</span></div>"
            for big, what, small in cards
        )
        + "</div>\n"
    )


def _failed(failed: Mapping[str, str]) -> str:
    if not failed:
        return ""
    items = "".join(f"<li>{escape(name)}: {escape(reason)}</li>" for name, reason in failed.items())
    return f'<p class="failed">Not judged:</p><ul class="failed">{items}</ul>\n'


@dataclass(frozen=True)
class _Column:
    """A metric in a table."""

    head: str
    key: str
    part: str | None = None
    num_decimals: int = 3

    def cell(self, values: Any, intervals: Any = None) -> str:
        value = _part(values, self.part)
        bounds = None if intervals is None else _part(intervals, self.part)
        # Of an interval, one digit less: it is no sharper than that.
        small = "" if bounds is None else f"<small>{_bounds(bounds, self.num_decimals - 1)}</small>"
        return f"<td>{_value(value, self.num_decimals)}{small}</td>"


_COLUMNS = (
    _Column("frame AP", "frame_ap"),
    _Column("event F1", "event_f1"),
    _Column("event mAP", "event_map"),
    _Column("segment mAP", "segment_map"),
    _Column("alarm recall", "alarm_recall"),
    _Column("false alarms/h", "false_alarms_per_hour", num_decimals=1),
    _Column("to detect, s", "time_to_detect_seconds", "median", num_decimals=2),
    _Column("calibration error", "ece"),
)


def _class_table(evidence: Evidence, content: Mapping[str, Any]) -> str:
    counts = content["alarm_counts"]
    heads = ("class", "events", "found", "alarms", "false", *(c.head for c in _COLUMNS))
    rows = []
    for label in evidence.labels:
        cells = [
            column.cell(
                content[column.key]["per_class"][label],
                content[column.key]["interval"]["per_class"][label],
            )
            for column in _COLUMNS
        ]
        name = f"<td>{escape(spoken_label(label))}</td>"
        rows.append(f"<tr>{name}{_count_cells(counts['per_class'][label])}{''.join(cells)}</tr>")
    cells = [
        column.cell(content[column.key]["overall"], content[column.key]["interval"]["overall"])
        for column in _COLUMNS
    ]
    rows.append(
        f'<tr class="total"><td>all</td>{_count_cells(counts["overall"])}{"".join(cells)}</tr>'
    )
    bootstrap = content["bootstrap"]
    if bootstrap["num_draws"]:
        note = (
            f"Intervals hold {_percent(bootstrap['confidence'], 0)} of {bootstrap['num_draws']} "
            f"draws of {bootstrap['num_units']} {bootstrap['unit']}s; those of false alarms are "
            "exact."
        )
    else:
        note = "Intervals of false alarms are exact; for others there is nothing to draw from."
    return f'{_table(heads, rows)}<p class="soft">{note}</p>\n'


def _count_cells(counts: Mapping[str, Any]) -> str:
    keys = ("num_references", "num_detected", "num_alarms", "num_false_alarms")
    return "".join(f"<td>{counts[key]}</td>" for key in keys)


def _slice_table(name: str, parts: Mapping[str, Any]) -> str:
    pieces = [f"<h2>By {escape(name)}</h2>\n"]
    if "videos" in parts:
        heads = ("value", "videos", "time", *(column.head for column in _COLUMNS))
        rows = [
            f"<tr><td>{escape(value)}</td><td>{entry['num_videos']}</td>"
            f"<td>{format_duration(entry['duration_seconds'])}</td>"
            + "".join(column.cell(entry[column.key]["overall"]) for column in _COLUMNS)
            + "</tr>"
            for value, entry in parts["videos"].items()
        ]
        pieces.append(_table(heads, rows))
    if "events" in parts:
        heads = ("value", "events", "found", "alarm recall", "to detect, s")
        rows = [
            f"<tr><td>{escape(value)}</td><td>{entry['num_references']}</td>"
            f"<td>{entry['num_detected']}</td><td>{_value(entry['alarm_recall'])}"
            f"<small>{_bounds(entry['alarm_recall_interval'])}</small></td>"
            f"<td>{_value(entry['median_seconds_to_detect'])}</td></tr>"
            for value, entry in parts["events"].items()
        ]
        pieces.append(_table(heads, rows))
    return "".join(pieces)


def _table(heads: Iterable[str], rows: Iterable[str]) -> str:
    head = "".join(f"<th>{escape(text)}</th>" for text in heads)
    return f'<div class="wide"><table><tr>{head}</tr>{"".join(rows)}</table></div>\n'


def _heading(what: str, count: int, num_worst: int, order: str) -> str:
    if count > num_worst:
        about = f"{count}; shown are the {num_worst} {order}"
    else:
        about = f"{count}, those {order} first" if count > 1 else f"{count}"
    return f'<h2>{what} <span class="soft">{about}</span></h2>\n'


# Timelines.


def _by_mistakes(evidence: Evidence, mistakes: Mistakes) -> list[int]:
    """Positions of the videos, those with most mistakes first."""
    counts = np.bincount(
        [miss.video for miss in mistakes.misses] + [alarm.video for alarm in mistakes.false_alarms],
        minlength=len(evidence.videos),
    )
    order: list[int] = np.argsort(-counts, kind="stable").tolist()
    return order


def _timelines(evidence: Evidence, mistakes: Mistakes, page: Sequence[int]) -> Iterator[str]:
    yield (
        '<h2>Timelines <span class="soft">most mistakes first</span></h2>\n<p>'
        '<span class="key score"></span> score of the temporal encoder, '
        '<span class="key trigger"></span> of the trigger head, '
        '<span class="key seen"></span> where the temporal encoder looked; above, '
        '<span class="key event"></span> published, <span class="key wrong"></span> false alarm, '
        '<span class="key raised"></span> the moment of the alarm; below, '
        '<span class="key truth"></span> annotated, <span class="key missed"></span> missed.</p>\n'
    )
    for number in page:
        video = evidence.videos[number]
        misses = [miss for miss in mistakes.misses if miss.video == number]
        alarms = [alarm for alarm in mistakes.false_alarms if alarm.video == number]
        about = ", ".join(
            (
                format_duration(video.scored.duration_seconds),
                f"{len(video.scored.references)} annotated",
                f"{len(video.events)} published",
                f"{len(misses)} missed",
                f"{len(alarms)} false",
            )
        )
        yield (
            f'<article id="v{number}"><h3>{escape(video.scored.name)} '
            f'<span class="soft">{about}</span></h3>'
            f"{timeline_svg(evidence, number, misses, alarms)}</article>\n"
        )


def _page_links(names: Sequence[str], current: int) -> list[str]:
    if len(names) == 1:
        return []
    links = (
        f"<b>{number}</b>" if number - 1 == current else f'<a href="{name}">{number}</a>'
        for number, name in enumerate(names, 1)
    )
    return [f'<p class="pages">Timelines, page {" · ".join(links)}</p>\n']


# Numbers as words.


def _part(value: Any, part: str | None) -> Any:
    return value if part is None else value[part]


def _value(value: float | None, num_decimals: int = 3) -> str:
    return "–" if value is None else f"{value:.{num_decimals}f}".replace("-", "−")


def _percent(value: float | None, num_decimals: int = 1) -> str:
    return "–" if value is None else f"{value * 100:.{num_decimals}f} %"


def _seconds(value: float | None) -> str:
    return "–" if value is None else f"{_value(value, 2)} s"


def _hours(hours: float) -> str:
    return format_duration(hours * 3600)


def _bounds(interval: Sequence[float], num_decimals: int = 2) -> str:
    low, high = (_value(bound, num_decimals) for bound in interval)
    return f"{low} to {high}"


def _in_words(interval: Sequence[float] | None, num_decimals: int = 3) -> str:
    return "" if interval is None else f", {_bounds(interval, num_decimals)}"
