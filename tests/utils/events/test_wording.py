"""Sentences about events, word for word."""

from __future__ import annotations

from typing import Any

import pytest

from utils.events.records import Event
from utils.events.wording import (
    event_sentence,
    format_duration,
    format_time,
    join_words,
    printable,
    spoken_label,
    summary_sentence,
)


def event(label: str = "vehicle stopping", **changes: Any) -> Event:
    fields: dict[str, Any] = {
        "start": 12.4,
        "end": 15.2,
        "timestamp": 13.8,
        "frame_index": 345,
        "confidence": 0.93,
    }
    return Event(label=label, **{**fields, **changes})


@pytest.mark.parametrize(
    ("seconds", "num_decimals", "expected"),
    [
        (0.0, 1, "0:00.0"),
        (12.44, 1, "0:12.4"),
        (59.96, 1, "1:00.0"),
        (3599.94, 1, "59:59.9"),
        (3599.96, 1, "1:00:00.0"),
        (36_000.0, 1, "10:00:00.0"),
        (3600.0, 0, "1:00:00"),
        (19.6, 0, "0:20"),
        (61.234, 3, "1:01.234"),
    ],
)
def test_format_time(seconds: float, num_decimals: int, expected: str) -> None:
    assert format_time(seconds, num_decimals=num_decimals) == expected


def test_printable_writes_out_what_is_no_character() -> None:
    assert printable("Köln 車") == "Köln 車"
    assert printable("odd_\udcff.mp4") == "odd_\\udcff.mp4"


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0.25, "0.2 s"),
        (59.94, "59.9 s"),
        (59.97, "1 min"),
        (65.4, "1 min 5 s"),
        (3599.6, "1 h"),
        (7380.0, "2 h 3 min"),
    ],
)
def test_format_duration(seconds: float, expected: str) -> None:
    assert format_duration(seconds) == expected


def test_join_words() -> None:
    assert [join_words(list("abc")[:n]) for n in range(4)] == ["", "a", "a and b", "a, b and c"]


def test_spoken_label() -> None:
    assert spoken_label("person_walking ") == "person walking"


def test_event_sentence() -> None:
    assert event_sentence(event()) == (
        "Vehicle stopping from 0:12.4 to 0:15.2 (2.8 s), confidence 0.93, strongest at 0:13.8."
    )
    assert event_sentence(event("CCTV_tampering", start=3590, end=3700.0, timestamp=3661.0)) == (
        "CCTV tampering from 59:50.0 to 1:01:40.0 (1 min 50 s), confidence 0.93, "
        "strongest at 1:01:01.0."
    )


def test_printed_length_is_that_between_the_printed_times() -> None:
    sentence = event_sentence(event(start=12.44, end=15.16, timestamp=13.0))
    assert "from 0:12.4 to 0:15.2 (2.8 s)" in sentence


def test_an_event_shorter_than_the_printed_precision_has_one_time() -> None:
    sentence = event_sentence(event(start=12.41, end=12.44, timestamp=12.42))
    assert sentence == "Vehicle stopping at 0:12.4, confidence 0.93."


@pytest.mark.parametrize(
    ("confidence", "expected"),
    [(0.994, "0.99"), (0.9999, "above 0.99"), (1.0, "1.00"), (0.3, "0.30")],
)
def test_confidence_is_not_rounded_up_to_certainty(confidence: float, expected: str) -> None:
    assert f"confidence {expected}," in event_sentence(event(confidence=confidence))


def test_event_sentence_names_what_overlaps() -> None:
    subject = event()
    others = [
        event("person_walking", start=14.0, end=20.0, timestamp=15.0),
        event("crowded scene", start=0.0, end=12.5, timestamp=1.0),
        event("crowded scene", start=13.0, end=13.5, timestamp=13.0),
        event("parade", start=15.2, end=16.0, timestamp=15.5),  # begins where the event ends
        event("vehicle stopping", start=15.0, end=16.0, timestamp=15.5),
        subject,
    ]
    assert event_sentence(subject, others=others).endswith(
        "strongest at 0:13.8, overlapping crowded scene and person walking."
    )


def test_summary_sentence() -> None:
    labels = ["person_walking", "vehicle stopping", "crowded scene"]
    events = [event(), event("person_walking"), event()]
    assert summary_sentence(events, duration_seconds=19.6, labels=labels) == (
        "3 events in 0:20: person walking (1), vehicle stopping (2)."
    )
    assert summary_sentence(events[:1], duration_seconds=9.6, labels=labels) == (
        "1 event in 0:09.6: vehicle stopping (1)."
    )
    assert summary_sentence([], duration_seconds=3600, labels=labels) == "No event in 1:00:00."
    with pytest.raises(ValueError, match=r"unknown labels \['parade'\]; known: person_walking"):
        summary_sentence([event("parade")], duration_seconds=1.0, labels=labels)
