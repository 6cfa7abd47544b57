"""The describers' table, and a contract that every entry keeps."""

from __future__ import annotations

import pytest

from pipeline.describers import DESCRIBERS
from pipeline.describers.base import Describer, EventContext
from utils.errors import UnknownNameError
from utils.events.records import Event

EVENT = Event(
    label="person_walking", start=1.0, end=3.0, timestamp=2.0, frame_index=6, confidence=0.9
)
OTHER = Event(
    label="vehicle_stopping", start=2.0, end=2.5, timestamp=2.0, frame_index=6, confidence=0.7
)
LABELS = ("person_walking", "vehicle_stopping")


@pytest.fixture(params=list(DESCRIBERS))
def describer(request: pytest.FixtureRequest) -> Describer:
    made: Describer = DESCRIBERS.resolve(request.param)()
    return made


def test_contract(describer: Describer) -> None:
    assert isinstance(describer, Describer)
    words = describer.describe(EVENT, EventContext(labels=LABELS))
    assert words.strip()
    summary = describer.summarize([EVENT], duration_seconds=60.0, labels=LABELS)
    assert summary.strip()
    assert describer.summarize([], duration_seconds=60.0, labels=LABELS).strip()


def test_template_tells_of_overlaps() -> None:
    template = DESCRIBERS.resolve("template")()
    words = template.describe(EVENT, EventContext(labels=LABELS, earlier=(OTHER,)))
    assert words == (
        "Person walking from 0:01.0 to 0:03.0 (2.0 s), confidence 0.90, strongest at 0:02.0, "
        "overlapping vehicle stopping."
    )


def test_unknown_name() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown describer 'templat'; known: .*did you"):
        DESCRIBERS.resolve("templat")
