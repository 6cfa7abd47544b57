"""Plain sentences about events, from nothing but what the records say.

Used where no language model is asked: the ``template`` describer, and the summary of every report.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from utils.events.records import Event


def format_time(seconds: float, *, num_decimals: int = 1) -> str:
    """A position in a video: ``0:12.4``, ``59:59.9``, ``1:00:00.0``.

    Args:
        seconds: 0 or more.
        num_decimals: Of the seconds.
    """
    # Rounded before it is split: 59.96 is 1:00.0, not 0:60.0.
    unit = 10**num_decimals
    whole, fraction = divmod(round(seconds * unit), unit)
    minutes, whole = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    clock = f"{hours}:{minutes:02d}:{whole:02d}" if hours else f"{minutes}:{whole:02d}"
    return f"{clock}.{fraction:0{num_decimals}d}" if num_decimals else clock


def format_duration(seconds: float) -> str:
    """A length of time: ``2.8 s``, ``1 min 5 s``, ``2 h 3 min``."""
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"


def join_words(words: Sequence[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} and {words[-1]}"


def spoken_label(label: str) -> str:
    """A class name as words: ``person_walking`` is "person walking"."""
    return " ".join(label.replace("_", " ").split())


def printable(text: str) -> str:
    """``text`` with what is no character (bytes of an odd file name) written out."""
    return text.encode("utf-8", "backslashreplace").decode()


def event_sentence(event: Event, *, others: Iterable[Event] = ()) -> str:
    """One plain sentence about an event.

    Args:
        event: What to tell of.
        others: Events of the same video; the sentence names the classes of those that overlap.
            ``event`` itself may be among them.

    Returns:
        "Vehicle stopping from 0:12.4 to 0:15.2 (2.8 s), confidence 0.93, strongest at 0:13.8." and,
        where something else happens meanwhile, that.
    """
    words = spoken_label(event.label)
    subject = words[:1].upper() + words[1:]
    # The length is that between the times as printed: a reader who subtracts finds it right.
    duration = round(event.end, 1) - round(event.start, 1)
    if duration < 0.05:
        parts = [f"{subject} at {format_time(event.timestamp)}", _confidence(event.confidence)]
    else:
        parts = [
            f"{subject} from {format_time(event.start)} to {format_time(event.end)} "
            f"({format_duration(duration)})",
            _confidence(event.confidence),
            f"strongest at {format_time(event.timestamp)}",
        ]
    meanwhile = {
        spoken_label(other.label): None
        for other in sorted(others, key=lambda other: other.start)
        if other.label != event.label and other.start < event.end and event.start < other.end
    }
    if meanwhile:
        parts.append(f"overlapping {join_words(list(meanwhile))}")
    return f"{', '.join(parts)}."


def summary_sentence(
    events: Sequence[Event], *, duration_seconds: float, labels: Sequence[str]
) -> str:
    """One plain sentence about a whole video.

    Args:
        events: All of the video.
        duration_seconds: How much video was looked at.
        labels: Class names, in the order in which they are told.

    Returns:
        "2 events in 0:20: person walking (1), vehicle stopping (1)." or "No event in 1:00:00."

    Raises:
        ValueError: An event's label is not among ``labels``.
    """
    counts = Counter(event.label for event in events)
    unknown = sorted(set(counts) - set(labels))
    if unknown:
        raise ValueError(f"events of unknown labels {unknown}; known: {', '.join(labels)}")
    # Below ten seconds a rounded second is too coarse to recognise the clip by.
    length = format_time(duration_seconds, num_decimals=0 if duration_seconds >= 10 else 1)
    if not events:
        return f"No event in {length}."
    told = ", ".join(
        f"{spoken_label(label)} ({counts[label]})" for label in labels if counts[label]
    )
    return f"{len(events)} event{'s' if len(events) > 1 else ''} in {length}: {told}."


def _confidence(confidence: float) -> str:
    # "1.00" is a claim of certainty that no model makes.
    return "confidence above 0.99" if 0.995 <= confidence < 1 else f"confidence {confidence:.2f}"
