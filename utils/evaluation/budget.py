"""The budget of stage three: how much of the video it is sent, and which events it gets to see.

In evaluation. CLIP or a language model looks at the stretches of events alone; what they cost is
the share of the video that lies in such a stretch of any class. A reference is recalled where it
shares at least a moment with a stretch of its class: what is sent, stage three can word. Sending
everything recalls everything, at a share of 1, so the two figures belong together. The curve over
all thresholds is `utils.evaluation.sweeps.ThresholdSweep.budget_curve`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from utils.evaluation.alarms import covered_seconds
from utils.evaluation.scored_video import EventRules, ScoredVideo, Stretches


@dataclass(frozen=True, kw_only=True)
class SentVideo:
    """What of one video goes on to stage three.

    Attributes:
        num_references: Annotated events, by class.
        num_recalled: Those of which stage three sees at least a moment, by class.
        sent_seconds: Time in a stretch of any class.
        duration_seconds: Of the video.
    """

    num_references: Mapping[str, int]
    num_recalled: Mapping[str, int]
    sent_seconds: float
    duration_seconds: float


def sent_video(
    video: ScoredVideo,
    thresholds: Mapping[str, float],
    rules: EventRules,
    *,
    point_radius_seconds: float = 0.5,
) -> SentVideo:
    """What of a video stage three gets, with one threshold for each class.

    Args:
        video: Truth and scores.
        thresholds: By label, in (0, 1]; a class that is missing sends nothing and is not counted.
        rules: How scores become events.
        point_radius_seconds: How far a reference that is a point reaches to either side.
    """
    num_references, num_recalled = {}, {}
    sent: list[NDArray[np.float64]] = []
    for label, threshold in thresholds.items():
        stretches = video.stretches(label, threshold, rules)
        references = video.intervals(label, point_radius_seconds=point_radius_seconds)
        num_references[label] = len(references)
        num_recalled[label] = int(np.count_nonzero(is_touched(references, stretches)))
        sent.append(np.stack((stretches.starts, stretches.ends), axis=1))
    return SentVideo(
        num_references=num_references,
        num_recalled=num_recalled,
        sent_seconds=covered_seconds(
            np.concatenate([*sent, np.zeros((0, 2))]), within=(0.0, video.duration_seconds)
        ),
        duration_seconds=video.duration_seconds,
    )


def sent_share(videos: Iterable[SentVideo]) -> float:
    """Share of all video that is sent; NaN where there is no video."""
    videos = list(videos)
    duration = sum(video.duration_seconds for video in videos)
    return sum(video.sent_seconds for video in videos) / duration if duration else math.nan


def is_touched(references: NDArray[np.float64], stretches: Stretches) -> NDArray[np.bool_]:
    """``(R,)``: whether a stretch shares a moment with the reference; both are half-open.

    Args:
        references: ``(R, 2)`` seconds, start and end.
        stretches: Of the same class and video.
    """
    # Stretches are disjoint and ordered: the first that ends after a start is the one to look at.
    first = np.searchsorted(stretches.ends, references[:, 0], side="right")
    touched: NDArray[np.bool_] = np.append(stretches.starts, np.inf)[first] < references[:, 1]
    return touched
