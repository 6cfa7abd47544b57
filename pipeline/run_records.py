"""What a run is told and what it tells: settings, described events, totals.

`pipeline.video_run` and `pipeline.replay` fill them; `pipeline.report` writes them down.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from utils.config.schema import EventsConfig
from utils.events.records import Event, FrameScore
from utils.thresholds import Threshold
from utils.video.source import DecodeLoss, Image

ScoreObserver = Callable[[FrameScore], None]
"""Is shown every frame's scores, in order, before the events that they finish come out."""


@dataclass(frozen=True, kw_only=True)
class CascadeSettings:
    """What is decided for one run.

    Attributes:
        threshold: The cut on the temporal scores that makes events, in (0, 1]; one for all classes,
            or one each in the order of the labels.
        candidate_threshold: The cut on the trigger head's scores, in [0, 1].
        events: How scores become events.
        batch_size: Frames that are encoded at once.
        max_frames: Stop after so many sampled frames; None: at the end of the video.
        thumbnail_size: Longer side of the pictures that events carry, pixels; None: no pictures.
    """

    threshold: Threshold
    candidate_threshold: float
    events: EventsConfig = field(default_factory=EventsConfig)
    batch_size: int = 16
    max_frames: int | None = None
    thumbnail_size: int | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class DescribedEvent:
    """What is published of an event.

    Attributes:
        event: When, what, how sure.
        analysis: The describer's words.
        picture: The strongest frame, scaled down; None where pictures are not kept.
    """

    event: Event
    analysis: str
    picture: Image | None


@dataclass(kw_only=True)
class StageTotals:
    """What a stage did.

    Attributes:
        num_frames: Frames that it saw; events for the describer.
        seconds: Time that it worked. Decoding overlaps with the other stages.
    """

    num_frames: int = 0
    seconds: float = 0.0


@dataclass(kw_only=True)
class RunTotals:
    """What is known of a run beside its events; complete once the run has been iterated to its end.

    Attributes:
        num_frames: Sampled frames.
        num_candidates: Of these, those that passed ``candidate_threshold``.
        num_windows: Windows that the candidates were joined to.
        num_describer_failures: Events that the template worded because the describer raised.
        duration_seconds: How much video was looked at.
        stages: By name, in the order of the cascade.
        source: What the container says, ready for JSON: `VideoInfo` without its path. Where the
            decoder was to skip frames, ``skipping`` tells what that did: `Skipping`.
        loss: What the file lost.
    """

    num_frames: int = 0
    num_candidates: int = 0
    num_windows: int = 0
    num_describer_failures: int = 0
    duration_seconds: float = 0.0
    stages: dict[str, StageTotals] = field(default_factory=dict)
    source: dict[str, Any] = field(default_factory=dict)
    loss: DecodeLoss = field(default_factory=DecodeLoss)


class Stopwatch:
    """Adds the time spent inside to a stage, also where it is left by an exception."""

    def __init__(self, stage: StageTotals) -> None:
        self._stage = stage

    def __enter__(self) -> None:
        self._start = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._stage.seconds += time.perf_counter() - self._start
