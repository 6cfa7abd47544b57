"""One HTML page of strips: everything is in the file, and nothing in it can run or reach out.

Written piece by piece, so that memory holds one strip and not the page.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from utils.data.annotations import AnnotatedEvent, AnnotationSet
from utils.data.event_strips import Part, Strip, StripFrame
from utils.data.summary import DatasetSummary
from utils.events.wording import format_duration, format_time, spoken_label
from utils.video.source import Image

BACKGROUND = "background"
PAGE_END = "</body>\n</html>\n"

PAGE_STYLE = """
:root { color-scheme: light dark; --ink: #1d2733; --soft: #66727f; --page: #fff; --card: #f4f6f8;
  --line: #d5dbe1; --inside: #f28e2b; --start: #1a7f37; --end: #cf222e; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e8ec; --soft: #98a4b0; --page: #14191f; --card: #1f262e; --line: #37414c;
    --start: #3fb950; --end: #ff7b72; } }
body { margin: 0 auto; max-width: 1500px; padding: 20px 28px 60px; background: var(--page);
  color: var(--ink); font: 15px/1.45 system-ui, sans-serif; }
h1 { font-size: 22px; margin: 0 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 18px; margin: 36px 0 10px; padding-top: 10px; border-top: 1px solid var(--line); }
p { margin: 4px 0 12px; max-width: 90ch; }
.soft { color: var(--soft); font-weight: normal; }
table { border-collapse: collapse; margin: 12px 0; }
th, td { padding: 3px 14px 3px 0; text-align: right; font-variant-numeric: tabular-nums; }
th { color: var(--soft); font-weight: normal; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; }
a { color: inherit; }
article { background: var(--card); border-radius: 8px; padding: 10px 12px 12px; margin: 10px 0; }
h3 { font-size: 14px; font-weight: 600; margin: 0 0 8px; overflow-wrap: anywhere; }
.strip { display: flex; gap: 4px; align-items: stretch; padding-bottom: 18px; }
figure { margin: 0; flex: 0 1 auto; min-width: 0; }
img { display: block; max-width: 100%; height: auto; border-top: 5px solid transparent;
  opacity: .72; }
.inside img { border-top-color: var(--inside); opacity: 1; }
.plain img { opacity: 1; }
figcaption { font-size: 12px; color: var(--soft); text-align: center;
  font-variant-numeric: tabular-nums; }
.inside figcaption { color: var(--ink); font-weight: 600; }
.border { position: relative; flex: none; margin: 0 5px; border-left: 3px solid var(--start); }
.border.end { border-left-color: var(--end); }
.border span { position: absolute; bottom: -18px; left: 0; transform: translateX(-50%);
  padding: 0 5px; border-radius: 3px; background: var(--start); color: #fff; font-size: 11px;
  white-space: nowrap; z-index: 1; font-variant-numeric: tabular-nums; }
.border:first-child span { transform: none; left: -3px; }
.border:last-child span { transform: none; left: auto; right: 0; }
.border.end span { background: var(--end); }
.key { display: inline-block; width: 14px; height: 5px; background: var(--inside);
  vertical-align: middle; }
.key.start { width: 3px; height: 14px; background: var(--start); }
.key.end { width: 3px; height: 14px; background: var(--end); }
.failed { color: var(--end); }
"""


@dataclass(frozen=True, kw_only=True)
class ShownStrip:
    """A strip with its frames, or with the reason for having none.

    Attributes:
        strip: What was to be shown.
        frames: In order; empty where the video could not be read.
        error: Why it could not, or None.
    """

    strip: Strip
    frames: tuple[StripFrame, ...]
    error: str | None = None


def page_parts(
    annotations: AnnotationSet,
    summary: DatasetSummary,
    strips: Iterable[ShownStrip],
    *,
    title: str,
    height: int,
) -> Iterator[str]:
    """The page, in pieces that follow each other.

    Args:
        annotations: The whole set, for the classes.
        summary: Its numbers.
        strips: By class in the order of ``annotations.labels``, then background.
        title: Heading of the page.
        height: Of the pictures, in pixels.
    """
    yield page_start(title)
    yield _overview(summary)
    names = [*annotations.labels, None]
    section: int | None = None
    for shown in strips:
        label = None if shown.strip.event is None else shown.strip.event.label
        number = names.index(label)
        if number != section:
            section = number
            yield f'<h2 id="class{number}">{_heading(label, summary)}</h2>\n'
        yield _article(shown, height)
    yield PAGE_END


def page_start(title: str, *, style: str = "") -> str:
    """Everything up to and with the heading.

    Args:
        title: Of the page, and its heading.
        style: Rules beside `PAGE_STYLE`.
    """
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        # Labels and names come from files that anyone may have written.
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">\n"
        '<meta name="viewport" content="width=device-width">\n'
        f"<title>{escape(title)}</title>\n<style>{PAGE_STYLE}{style}</style>\n</head>\n<body>\n"
        f"<h1>{escape(title)}</h1>\n"
    )


def _overview(summary: DatasetSummary) -> str:
    seconds = summary.seconds
    length = "" if seconds is None else f", {format_duration(seconds)}"
    rows = [
        f'<tr><td><a href="#class{number}">{escape(spoken_label(found.label))}</a></td>'
        f"<td>{found.num_events}</td><td>{found.num_points}</td><td>{found.num_videos}</td>"
        f"<td>{format_duration(found.covered_seconds)}</td></tr>"
        for number, found in enumerate(summary.classes)
    ]
    rows.append(
        f'<tr><td><a href="#class{len(summary.classes)}">{BACKGROUND}</a></td>'
        f"{'<td></td>' * 4}</tr>"
    )
    return (
        f'<p class="soft">{summary.num_videos} videos ({summary.num_empty} without events){length}'
        "</p>\n<table><tr><th>class</th><th>events</th><th>points</th><th>videos</th><th>time</th>"
        f"</tr>{''.join(rows)}</table>\n"
        '<p>Is the event where it is said to be? Frames under <span class="key"></span> are inside '
        'it. The start <span class="key start"></span> should stand where it begins, the end '
        '<span class="key end"></span> where it is over. Background should show none of it.</p>\n'
    )


def _heading(label: str | None, summary: DatasetSummary) -> str:
    if label is None:
        return f'{BACKGROUND} <span class="soft">no event is annotated here</span>'
    found = next(found for found in summary.classes if found.label == label)
    plural = "" if found.num_events == 1 else "s"
    return (
        f'{escape(spoken_label(label))} <span class="soft">{found.num_events} event{plural}</span>'
    )


def _article(shown: ShownStrip, height: int) -> str:
    strip = shown.strip
    head = f"<h3>{escape(strip.video.video)} <span class='soft'>{_about(strip)}</span></h3>"
    return f"<article>{head}{strip_block(shown, height)}</article>\n"


def strip_block(shown: ShownStrip, height: int) -> str:
    """The pictures in a row, or the reason why there are none.

    Args:
        shown: What to show.
        height: Of the pictures, in pixels.
    """
    if shown.error is not None:
        return f'<p class="failed">{escape(shown.error)}</p>'
    return f'<div class="strip">{"".join(_pieces(shown, height))}</div>'


def _about(strip: Strip) -> str:
    event = strip.event
    if event is None:
        return ""
    if event.is_point:
        when = f"at {format_time(event.start, num_decimals=2)}"
    else:
        when = (
            f"{format_time(event.start, num_decimals=2)} to "
            f"{format_time(event.end, num_decimals=2)} ({event.end - event.start:.2f} s)"
        )
    others = sorted(
        {
            spoken_label(other.label)
            for other in strip.video.events
            if other.label != event.label and _meets(other, event)
        }
    )
    parts = [when]
    if others:
        parts.append(f"at the same time: {', '.join(others)}")
    if event.description:
        parts.append(f"“{event.description}”")
    return escape(" · ".join(parts))


def _meets(first: AnnotatedEvent, second: AnnotatedEvent) -> bool:
    start, end = max(first.start, second.start), min(first.end, second.end)
    # Intervals are half-open: one that begins where the other ends is not at the same time.
    return start < end or (start == end and (first.is_point or second.is_point))


def _pieces(shown: ShownStrip, height: int) -> Iterator[str]:
    """Pictures, and between them the borders."""
    event = shown.strip.event
    parts = [frame.part for frame in shown.frames]
    for index, frame in enumerate(shown.frames):
        before = parts[index - 1] if index else None
        if event is not None:
            yield from _borders(event, before, frame.part)
        yield _figure(frame, height, is_background=event is None)
    if event is not None and parts and parts[-1] == "inside" and not event.is_point:
        yield _border("end", event.end)


def _borders(event: AnnotatedEvent, before: Part | None, part: Part) -> Iterator[str]:
    """What lies between two pictures: the start, the end, or both of a very short event."""
    if before in (None, "before") and part != "before":
        yield _border("start", event.start)
    if part == "after" and before != "after" and not event.is_point:
        yield _border("end", event.end)


def _border(kind: str, seconds: float) -> str:
    time = format_time(seconds, num_decimals=2)
    return f'<div class="border {kind}"><span>{kind} {time}</span></div>'


def _figure(frame: StripFrame, height: int, *, is_background: bool) -> str:
    time = format_time(frame.timestamp, num_decimals=2)
    data, width, shown_height = _jpeg(frame.image, height)
    return (
        f'<figure class="{"plain" if is_background else frame.part}">'
        f'<img src="data:image/jpeg;base64,{data}" width="{width}" height="{shown_height}" '
        f'alt="frame at {time}"><figcaption>{time}</figcaption></figure>'
    )


def _jpeg(image: Image, height: int) -> tuple[str, int, int]:
    """Base64 of a JPEG at most ``height`` high, its width and its height."""
    from PIL import Image as Pictures

    picture = Pictures.fromarray(image)
    # A very wide picture is as wide as three of the usual shape, not as wide as the page.
    scale = min(1.0, height / picture.height, 16 / 3 * height / picture.width)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    file = io.BytesIO()
    picture.resize(size, Pictures.Resampling.LANCZOS).save(file, "JPEG", quality=82)
    return base64.b64encode(file.getvalue()).decode(), *size


def escape(text: str) -> str:
    """``text`` as HTML shows it, whatever is in it."""
    # What is no character (bytes of an odd file name) is written out; it could not be saved.
    return html.escape(text.encode("utf-8", "backslashreplace").decode())
