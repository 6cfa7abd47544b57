"""CSV: a row for each event, ``video,start,end,label[,description]``.

What spreadsheets and scripts write. An empty ``end`` makes a point; a row with nothing but the
video states that nothing happens in it.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from utils.data.annotations import AnnotationSet
from utils.data.formats.base import AnnotationFormat, ImportOptions, write_text
from utils.data.formats.draft import Draft, DraftEvent, DraftVideo
from utils.data.strict_json import read_text
from utils.errors import AnnotationError

COLUMNS = ("video", "start", "end", "label", "description")
_NEEDED = COLUMNS[:4]


class CsvRows(AnnotationFormat):
    """Times in seconds, in full precision; separated by commas, or by semicolons when read."""

    title = "CSV"
    default_name = "annotations.csv"
    states_fps = False

    def read(self, path: Path, options: ImportOptions) -> Draft:
        """As the base class says."""
        text = read_text(path)
        header = text.splitlines()[0]
        # Spreadsheets of countries with a decimal comma separate by semicolons.
        delimiter = ";" if header.count(";") > header.count(",") else ","
        rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        rows.fieldnames = [name.strip().lower() for name in rows.fieldnames or ()]
        missing = [name for name in _NEEDED if name not in rows.fieldnames]
        if missing:
            raise AnnotationError(
                f"{path}: the first line must name the columns {','.join(_NEEDED)} and may name "
                f"'description'; {', '.join(missing)} missing in: {header:.80}"
            )
        draft = Draft(path=path)
        for name in rows.fieldnames:
            if name and name not in COLUMNS:
                draft.warning("column", "", f"the column '{name}' is not known and not read")
        folder = options.video_dir or path.parent
        videos: dict[str, DraftVideo] = {}
        try:
            for row in rows:
                _read_row(draft, videos, folder, row, f"line {rows.line_num}", options)
        except csv.Error as error:
            raise AnnotationError(f"{path}: line {rows.line_num}: no valid CSV: {error}") from error
        draft.videos = list(videos.values())
        return draft

    def write(self, annotations: AnnotationSet, path: Path) -> Mapping[str, str]:
        """As the base class says."""
        file = io.StringIO(newline="")
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for video in annotations.videos:
            if not video.events:
                writer.writerow([video.video, "", "", "", ""])
            for event in video.events:
                end = "" if event.is_point else repr(event.end)
                writer.writerow(
                    [video.video, repr(event.start), end, event.label, event.description or ""]
                )
        write_text(file.getvalue(), path)
        return {}


def _read_row(
    draft: Draft,
    videos: dict[str, DraftVideo],
    folder: Path,
    row: Mapping[str | Any, str | Any],
    place: str,
    options: ImportOptions,
) -> None:
    if None in row:  # Where `csv` puts the cells beyond the header.
        draft.error("field", place, "has more cells than columns; quote cells with commas")
        return
    name = draft.video_name(place, "video", row["video"])
    if name is None:
        return
    if name not in videos:
        videos[name] = DraftVideo(video=name, path=folder / name, fps=options.fps_of(name))
    if not any((row.get(column) or "").strip() for column in COLUMNS[1:]):
        return
    where = f"video '{name}', {place}"
    label = draft.required_text(where, "label", row["label"])
    start = _seconds(draft, where, "start", row["start"] or "")
    is_point = not (row["end"] or "").strip()
    end = start if is_point else _seconds(draft, where, "end", row["end"] or "")
    if label is None or start is None or end is None:
        return
    videos[name].events.append(
        DraftEvent(
            label=label,
            start=start,
            end=end,
            is_point=is_point,
            place=place,
            description=row.get("description") or None,
        )
    )


def _seconds(draft: Draft, where: str, name: str, text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        draft.error("field", where, f"'{name}' must be a number of seconds, got {text!r:.80}")
        return None
    return value
