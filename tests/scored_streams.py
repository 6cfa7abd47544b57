"""Makes scored videos whose distribution is known: events and false alarms that peak at random."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from utils.data.annotations import AnnotatedEvent
from utils.evaluation.scored_video import ScoredVideo
from utils.events.records import FrameScore

STEP_SECONDS = 0.5


def scored_video(
    seed: int,
    *,
    labels: Sequence[str] = ("a",),
    minutes: float = 5.0,
    events_per_minute: float = 1.0,
    bumps_per_minute: float = 2.0,
    sharpness: float = 1.0,
    with_gate: bool = True,
    cluster: str | None = None,
) -> ScoredVideo:
    """One video: each class has events whose logits peak near 2 and background bumps near -1.

    Args:
        seed: Another seed, another video.
        labels: K class names.
        minutes: Of the video.
        events_per_minute: Of each class, annotated.
        bumps_per_minute: Of each class, in the background.
        sharpness: Factor on all temporal logits.
        cluster: Group of the video.
    """
    random = np.random.default_rng(seed)
    num_frames = round(minutes * 60 / STEP_SECONDS)
    times = np.arange(num_frames) * STEP_SECONDS
    temporal = np.empty((num_frames, len(labels)))
    trigger = np.empty_like(temporal)
    references: list[AnnotatedEvent] = []
    for position, label in enumerate(labels):
        logits = random.normal(-6, 0.4, num_frames)
        num_events = random.poisson(events_per_minute * minutes)
        num_bumps = random.poisson(bumps_per_minute * minutes)
        # On a raster of 10 seconds none meets another.
        places = 10.0 * random.permutation(int(num_frames * STEP_SECONDS) // 10)
        for number, place in enumerate(places[: num_events + num_bumps]):
            is_event = number < num_events
            start = place + random.uniform(1, 4)
            end = start + random.uniform(1, 4)
            inside = (times >= start) & (times < end)
            peak = random.normal(2, 1.2) if is_event else random.normal(-1, 1.2)
            logits[inside] = peak + random.normal(0, 0.05, np.count_nonzero(inside))
            if is_event:
                references.append(AnnotatedEvent(label=label, start=start, end=end))
        temporal[:, position] = sharpness * logits
        trigger[:, position] = logits + random.normal(0, 0.5, num_frames)
    chances = 1 / (1 + np.exp(-temporal))
    gate = 1 / (1 + np.exp(-trigger))
    scores = [
        FrameScore(
            sample_index=index,
            frame_index=index,
            timestamp=float(time),
            trigger=gate[index].astype(np.float32),
            temporal=chances[index].astype(np.float32),
        )
        for index, time in enumerate(times)
    ]
    return ScoredVideo.of(
        scores,
        name=f"video_{seed}",
        labels=labels,
        references=sorted(references, key=lambda event: event.start),
        cluster=cluster,
        end_seconds=num_frames * STEP_SECONDS,
    )
