"""`TemplateDescriber`: one plain sentence per event from nothing but what the records say."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.describers.base import Describer, EventContext
from utils.events.records import Event
from utils.events.wording import event_sentence, summary_sentence


class TemplateDescriber(Describer):
    """Needs no model, no network and no time, so it is also what others fall back to."""

    def describe(self, event: Event, context: EventContext) -> str:
        return event_sentence(event, others=context.earlier)

    def summarize(
        self, events: Sequence[Event], *, duration_seconds: float, labels: Sequence[str]
    ) -> str:
        return summary_sentence(events, duration_seconds=duration_seconds, labels=labels)
