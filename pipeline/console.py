"""What a person sees of a run: a bar on stderr while it works, the events on stdout after it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.batch import AnalysisOutcome
from utils.events.wording import format_time


class ProgressBar:
    """Seconds of video that are done; nothing where stderr is no terminal."""

    def __init__(self) -> None:
        self._bar: Any = None

    def start(self, path: Path, duration_seconds: float | None) -> None:
        from tqdm import tqdm

        self._bar = tqdm(
            total=None if duration_seconds is None else round(duration_seconds, 1),
            desc=path.name,
            unit="s",
            unit_scale=False,
            bar_format=(
                None
                if duration_seconds is None
                else "{desc}: {percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} s of video "
                "[{elapsed}<{remaining}]"
            ),
            mininterval=0.5,
            leave=False,
            disable=None,
        )

    def reach(self, seconds: float) -> None:
        self._bar.update(max(0.0, seconds - self._bar.n))

    def stop(self) -> None:
        self._bar.close()


def result_lines(outcome: AnalysisOutcome, output: Path) -> Iterator[str]:
    """What a person wants to know first, a line at a time.

    Args:
        outcome: Of the run.
        output: The report.
    """
    for entry in outcome.entries:
        if "error" in entry:
            yield f"{entry['video_path']}: failed"
            continue
        yield f"{entry['video_path']}: {entry['video_summary']}"
        yield from _event_lines(entry)
    if len(outcome.entries) == 1 and not outcome.num_failed:
        yield f"timeline  {output.parent / outcome.entries[0]['timeline']}"
    elif outcome.num_failed:
        yield f"{outcome.num_failed} of {len(outcome.entries)} videos failed"
    yield f"report    {output}"
    if outcome.review is not None:
        num_clips = len(outcome.review)
        where = f"{outcome.review.path} " if num_clips else ""
        yield f"review    {where}({num_clips} clip{'' if num_clips == 1 else 's'})"


def _event_lines(entry: Mapping[str, Any]) -> Iterator[str]:
    triggers = entry["triggers"]
    width = max((len(trigger["label"]) for trigger in triggers), default=0)
    times = [format_time(trigger["start"]) for trigger in triggers]
    longest = max(map(len, times), default=0)
    for trigger, time in zip(triggers, times, strict=True):
        yield (
            f"  {time:>{longest}}  {trigger['label']:<{width}}  "
            f"{trigger['trigger_confidence']:.2f}  {' '.join(trigger['analysis'].split())}"
        )
