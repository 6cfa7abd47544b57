"""`Draft`: what an importer read, before anyone vouches for it.

`AnnotationSet` holds only what is right, so a reader of it must stop at the first mistake.
Importers fill a draft instead, which may hold events that end before they start, and a list of the
problems met on the way; `utils.data.validation` finds the rest, and `finish` makes the set.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from utils.data.annotations import AnnotatedEvent, AnnotationSet, VideoAnnotation
from utils.errors import AnnotationError

Severity = Literal["error", "warning"]


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One thing that is wrong, or looks wrong.

    Attributes:
        kind: A short fixed name, such as ``past-end``, to count by.
        severity: An error keeps the data from being used; a warning does not.
        where: File, video and event.
        text: What is wrong, with the value and the remedy.
    """

    kind: str
    severity: Severity
    where: str
    text: str

    def __str__(self) -> str:
        return f"{self.where}: {self.text}"


@dataclass(kw_only=True)
class DraftEvent:
    """One event as it was read.

    Attributes:
        label: Class name.
        start: Seconds; any number.
        end: Seconds; any number; of a point, ``start``.
        is_point: Whether the file means a moment.
        place: Where in the file: "event 3", "line 7".
        description: Free text, or None.
        extra: Further fields.
    """

    label: str
    start: float
    end: float
    is_point: bool
    place: str
    description: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(kw_only=True)
class DraftVideo:
    """One video as it was read; the fields are those of `VideoAnnotation`, unchecked."""

    video: str
    path: Path
    duration: float | None = None
    fps: float | None = None
    group: str | None = None
    events: list[DraftEvent] = field(default_factory=list)
    description: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(kw_only=True)
class Draft:
    """A whole file, or folder, as it was read.

    Attributes:
        path: Where from.
        labels: The classes that the file declares; None where it declares none.
        videos: In the order of the file.
        extra: Further fields of the file.
        problems: What was met while reading.
    """

    path: Path
    labels: tuple[str, ...] | None = None
    videos: list[DraftVideo] = field(default_factory=list)
    extra: Mapping[str, Any] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def error(self, kind: str, where: str, text: str) -> None:
        """Note an error; ``where`` is within the file."""
        self._note(kind, "error", where, text)

    def warning(self, kind: str, where: str, text: str) -> None:
        """Note a warning; ``where`` is within the file."""
        self._note(kind, "warning", where, text)

    def _note(self, kind: str, severity: Severity, where: str, text: str) -> None:
        full = f"{self.path}: {where}" if where else str(self.path)
        self.problems.append(Problem(kind=kind, severity=severity, where=full, text=text))

    def class_names(self) -> tuple[str, ...]:
        """The declared classes, or else those of the events, in alphabetical order."""
        if self.labels is not None:
            return self.labels
        return tuple(sorted({event.label for video in self.videos for event in video.events}))

    # Fields of unknown type: the value where it is right, or a problem and None.

    def number(self, where: str, name: str, value: Any, *, what: str = "a number") -> float | None:
        """``value`` as a finite float; None where it is None, or no number (a problem)."""
        if value is None:
            return None
        # bool is an int in Python, and JSON's `true` is no time. Integers of JSON have no largest.
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not abs(value) <= sys.float_info.max:
            self.error("field", where, f"'{name}' must be {what}, got {value!r:.80}")
            return None
        return float(value)

    def required_number(
        self, where: str, name: str, value: Any, *, what: str = "a number"
    ) -> float | None:
        """As `number`, and None is a problem too."""
        if value is None:
            self.error("field", where, f"'{name}' is missing; it must be {what}")
        return self.number(where, name, value, what=what)

    def frame(self, where: str, name: str, value: Any) -> int | None:
        """``value`` as a frame index; a problem where it is none."""
        number = self.required_number(where, name, value, what="a frame number")
        if number is not None and number != int(number):
            self.error("field", where, f"'{name}' must be a whole frame number, got {value!r:.80}")
            return None
        return None if number is None else int(number)

    def text(self, where: str, name: str, value: Any) -> str | None:
        """``value`` where it is text; None where it is None, or something else (a problem)."""
        if value is not None and not isinstance(value, str):
            self.error("field", where, f"'{name}' must be text, got {value!r:.80}")
            return None
        return value

    def required_text(self, where: str, name: str, value: Any) -> str | None:
        """As `text`, and None or blank is a problem too."""
        text = self.text(where, name, value)
        if value is None or (text is not None and not text.strip()):
            self.error("field", where, f"'{name}' is missing; it must be text")
            return None
        return text

    def items(self, where: str, name: str, value: Any) -> list[tuple[int, dict[str, Any]]]:
        """The objects of a list, numbered; a problem for each entry that is none."""
        if not isinstance(value, list):
            self.error("field", where, f"'{name}' must be a list, got {value!r:.80}")
            return []
        found = []
        for number, entry in enumerate(value):
            if isinstance(entry, dict):
                found.append((number, entry))
            else:
                place = f"{where}: {name} {number}" if where else f"{name} {number}"
                self.error("field", place, f"must be an object, got {entry!r:.80}")
        return found

    def video_name(self, where: str, name: str, value: Any) -> str | None:
        """``value`` as the path of a video; a problem where it cannot be one."""
        text = self.required_text(where, name, value)
        if text is not None and "\0" in text:
            self.error("field", where, f"'{name}' must be a path, got {text!r:.80}")
            return None
        return text


def place_of(video: DraftVideo, event: DraftEvent | None = None) -> str:
    """For messages: ``video 'a.mp4', event 3 ('fight')``."""
    if event is None:
        return f"video '{video.video}'"
    return f"video '{video.video}', {event.place} ('{event.label}')"


def raise_errors(problems: Iterable[Problem]) -> None:
    """Raises ``AnnotationError`` for the first error, with the number of the others."""
    errors = [problem for problem in problems if problem.severity == "error"]
    if errors:
        more = f" (and {len(errors) - 1} more errors)" if len(errors) > 1 else ""
        raise AnnotationError(f"{errors[0]}{more}")


def finish(draft: Draft, *, labels: Sequence[str] | None = None) -> AnnotationSet:
    """The set that a draft without errors stands for.

    Args:
        draft: Checked by `utils.data.validation.check_events`, which found no error.
        labels: The classes, where the draft's own are not meant.
    """
    videos = tuple(
        VideoAnnotation(
            video=video.video,
            path=video.path,
            duration=video.duration,
            fps=video.fps,
            group=video.group,
            events=tuple(
                sorted(
                    (
                        AnnotatedEvent(
                            label=event.label,
                            start=event.start,
                            end=event.end,
                            description=event.description,
                            extra=event.extra,
                        )
                        for event in video.events
                    ),
                    key=lambda event: (event.start, event.end, event.label),
                )
            ),
            description=video.description,
            extra=video.extra,
        )
        for video in draft.videos
    )
    return AnnotationSet(
        labels=tuple(labels) if labels is not None else draft.class_names(),
        videos=videos,
        path=draft.path,
        extra=draft.extra,
    )
