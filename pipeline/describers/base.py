"""`Describer`: the interface of what words events; last stage of the cascade before the report."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass

from utils.events.records import Event
from utils.video.source import Image


@dataclass(frozen=True, kw_only=True)
class EventContext:
    """What is known beside the event itself.

    Attributes:
        labels: The K class names.
        earlier: The latest of the events of the same video that were finished before this one,
            oldest first.
        picture: The event's strongest frame, scaled down; None where pictures are not kept.
    """

    labels: tuple[str, ...]
    earlier: tuple[Event, ...] = ()
    picture: Image | None = None


class Describer(abc.ABC):
    """Words events. It may raise: the cascade then publishes the template's words."""

    @abc.abstractmethod
    def describe(self, event: Event, context: EventContext) -> str:
        """What happened, in a sentence or a few."""

    @abc.abstractmethod
    def summarize(
        self, events: Sequence[Event], *, duration_seconds: float, labels: Sequence[str]
    ) -> str:
        """What the whole video shows.

        Args:
            events: All of the video, by start.
            duration_seconds: How much video was looked at.
            labels: The K class names.
        """
