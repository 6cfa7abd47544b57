"""The gate between trigger head and temporal encoder: what it lets through, and where to set it.

Under `pipeline.calibration`. The head costs next to nothing and sees every frame; the temporal
encoder sees those near a candidate. So ``candidate_threshold`` trades the encoder's time for the
events that it never gets to see.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.threshold_curves import MARGIN_LOGITS
from utils.evaluation.calibration import logits_of
from utils.evaluation.scored_video import ScoredVideo
from utils.events.frame_extent import TIME_TOLERANCE_SECONDS


@dataclass(frozen=True, kw_only=True)
class GateCost:
    """A candidate threshold, and what it costs.

    Attributes:
        threshold: In [0, 1].
        num_lost: Annotated events whose highest temporal score it hides.
        num_events: Annotated events with a frame.
        contextualized_share: Share of the frames at which the temporal encoder looks.
    """

    threshold: float
    num_lost: int
    num_events: int
    contextualized_share: float


def gated(video: ScoredVideo, threshold: float, *, context_seconds: float) -> ScoredVideo:
    """What is left of the temporal scores behind the gate, as `CandidateWindows` decides it.

    Args:
        video: Scored with no gate, or with a lower one.
        threshold: A frame whose highest trigger-head score reaches it is a candidate.
        context_seconds: The temporal encoder looks at frames that have a candidate this near.
    """
    is_in_reach = frames_in_reach(video, threshold, context_seconds=context_seconds)
    return dataclasses.replace(
        video,
        temporal=np.where(is_in_reach[:, None], video.temporal, np.float32(0)),
        is_contextualized=video.is_contextualized & is_in_reach,
    )


def frames_in_reach(
    video: ScoredVideo, threshold: float, *, context_seconds: float
) -> NDArray[np.bool_]:
    """``(T,)``: which frames have a candidate within ``context_seconds``, none across a hole."""
    # Blocks moved so far apart that nothing reaches over a hole.
    times = video.timestamps + video.blocks * (video.duration_seconds + 2 * context_seconds + 1)
    candidates = times[video.trigger.max(axis=1) >= threshold]
    if not len(candidates):
        return np.zeros(len(times), np.bool_)
    following = np.searchsorted(candidates, times)
    after = np.append(candidates, np.inf)[following] - times
    before = times - np.append(-np.inf, candidates)[following]
    is_in_reach: NDArray[np.bool_] = np.minimum(after, before) <= (
        context_seconds + TIME_TOLERANCE_SECONDS
    )
    return is_in_reach


def scores_near_events(
    videos: Sequence[ScoredVideo],
    *,
    context_seconds: float,
    tolerance_seconds: float,
    point_radius_seconds: float,
) -> NDArray[np.float64]:
    """``(N,)``, rising: up to which candidate threshold each annotated event stays in sight.

    That is the highest trigger-head score within reach of the frame at which the temporal encoder
    is surest of the event. Events without a frame are left out.

    Args:
        videos: Scored with no gate, or with one that is lower than any to come.
        context_seconds: See `gated`.
        tolerance_seconds: The surest frame is looked for so far around the event.
        point_radius_seconds: How far an event that is a point reaches to either side.
    """
    found: list[float] = []
    for video in videos:
        candidate = video.trigger.max(axis=1)
        for position, label in enumerate(video.labels):
            spans = video.intervals(label, point_radius_seconds=point_radius_seconds)
            for start, end in spans + (-tolerance_seconds, tolerance_seconds):
                first = int(np.searchsorted(video.timestamps, start))
                last = int(np.searchsorted(video.timestamps, end, side="right"))
                if first == last:
                    continue
                surest = first + int(video.temporal[first:last, position].argmax())
                reach = context_seconds + TIME_TOLERANCE_SECONDS
                is_near = np.abs(video.timestamps - video.timestamps[surest]) <= reach
                is_near &= video.blocks == video.blocks[surest]
                found.append(float(candidate[is_near].max()))
    return np.sort(np.array(found, np.float64))


def choose_candidate_threshold(
    event_scores: NDArray[np.float64], *, max_loss: float, least: float = 0.0
) -> float:
    """The highest candidate threshold that hides at most ``max_loss`` of the annotated events.

    It looks at events alone, so that false alarms behind the gate are still an unbiased sample.

    Args:
        event_scores: See `scores_near_events`.
        max_loss: Share of the events, in [0, 1).
        least: No lower threshold: what it would let through was never scored.
    """
    if not len(event_scores):
        return least
    # Rounding must not save an event that may be lost: 0.02 of 50 is one.
    decisive = event_scores[int(max_loss * len(event_scores) + 1e-9)]
    if decisive == 0:
        return least
    logit = float(logits_of(decisive)) - MARGIN_LOGITS
    return max(least, 1 / (1 + math.exp(-logit)))


def gate_cost(
    videos: Sequence[ScoredVideo],
    threshold: float,
    event_scores: NDArray[np.float64],
    *,
    context_seconds: float,
) -> GateCost:
    """What a candidate threshold costs, and what it saves.

    Args:
        videos: As for `scores_near_events`.
        threshold: In [0, 1].
        event_scores: See `scores_near_events`.
        context_seconds: See `gated`.
    """
    num_seen = sum(
        int(np.count_nonzero(frames_in_reach(video, threshold, context_seconds=context_seconds)))
        for video in videos
    )
    return GateCost(
        threshold=threshold,
        num_lost=int(np.count_nonzero(event_scores < threshold)),
        num_events=len(event_scores),
        contextualized_share=num_seen / sum(len(video) for video in videos),
    )
