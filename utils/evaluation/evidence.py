"""`Evidence`: what the figures of some videos rest on, each part made once, on first use.

In evaluation, under `utils.evaluation.scorecard` and under the curves of a report. All of it can
count any selection of the videos, told as how often each counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from utils.data.annotations import AnnotatedEvent
from utils.evaluation.alarms import (
    AlarmCounts,
    VideoAlarms,
    covered_seconds,
    over_classes,
    video_alarms,
)
from utils.evaluation.calibration import CalibrationSums
from utils.evaluation.figure import Weights
from utils.evaluation.matching import EventCounts, event_scores
from utils.evaluation.metrics import FrameRanking
from utils.evaluation.proposals import Proposals, make_proposals
from utils.evaluation.ranking import RankedPredictions, VideoRanking
from utils.evaluation.scored_video import EventRules, ScoredVideo
from utils.evaluation.segments import (
    ACTIVITYNET_TIOUS,
    THUMOS_TIOUS,
    segment_ranking,
    tiou_limits,
)
from utils.evaluation.spotting import (
    LOOSE_WINDOWS_SECONDS,
    TIGHT_WINDOWS_SECONDS,
    TOLERANCES_FRAMES,
    TOLERANCES_SECONDS,
    SoccerNetSpotting,
    spotting_ranking,
)
from utils.evaluation.sweeps import ThresholdSweep
from utils.events.records import Event

ALL_TIOUS = tuple(sorted({*THUMOS_TIOUS, *ACTIVITYNET_TIOUS}))
_NUM_ALARM_FIELDS = 5


@dataclass(frozen=True, kw_only=True, eq=False)
class JudgedVideo:
    """A video with what was published of it.

    Attributes:
        scored: Truth and scores.
        events: Published at the thresholds that are judged.
    """

    scored: ScoredVideo
    events: tuple[Event, ...]

    def intervals(self, labels: Iterable[str]) -> NDArray[np.float64]:
        """``(E, 2)`` start and end of the events of some classes."""
        own = [(event.start, event.end) for event in self.events if event.label in labels]
        return np.array(own, np.float64).reshape(-1, 2)

    def sent_seconds(self, labels: Iterable[str]) -> float:
        """Time in an event of any of some classes: what stage three looks at."""
        within = (0.0, self.scored.duration_seconds)
        return covered_seconds(self.intervals(labels), within=within)


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """By which settings videos are judged.

    Attributes:
        thresholds: By label; the events rest on them.
        rules: How scores became events.
        tolerance_seconds: How far annotated borders may be off; see `is_match` and `match_alarms`.
        point_radius_seconds: How far a reference that is a point reaches to either side, wherever
            an interval is asked for.
    """

    thresholds: Mapping[str, float]
    rules: EventRules
    tolerance_seconds: float = 0.5
    point_radius_seconds: float = 0.5


@dataclass(frozen=True, kw_only=True, eq=False)
class Ranked:
    """The proposals of one class, ranked in each way that some metric asks for.

    Attributes:
        seconds: By moments in seconds, at `TOLERANCES_SECONDS`.
        frames: By moments in sampled frames, at `TOLERANCES_FRAMES`.
        tight: By moments, as SoccerNet.
        loose: Likewise.
        segments: By overlap, at `ALL_TIOUS`.
    """

    seconds: RankedPredictions
    frames: RankedPredictions
    tight: SoccerNetSpotting
    loose: SoccerNetSpotting
    segments: RankedPredictions


class Evidence:
    """Everything that is counted of some videos.

    Args:
        videos: V of them, at least one, all with the same labels.
        judgement: The settings.
    """

    def __init__(self, videos: Sequence[JudgedVideo], judgement: Judgement) -> None:
        assert videos, "figures are about at least one video"
        self.videos = tuple(videos)
        self.judgement = judgement
        self.labels = videos[0].scored.labels

    @property
    def everything(self) -> Weights:
        """Every video once."""
        return np.ones(len(self.videos), np.int64)

    def references(self, video: JudgedVideo, label: str) -> NDArray[np.float64]:
        """``(R, 2)`` start and end of a class's references, points spread."""
        radius = self.judgement.point_radius_seconds
        return video.scored.intervals(label, point_radius_seconds=radius)

    @cached_property
    def owners(self) -> NDArray[np.int64]:
        """``(N,)`` number of the video that each frame is of."""
        return np.repeat(np.arange(len(self.videos)), [len(v.scored) for v in self.videos])

    @cached_property
    def targets(self) -> NDArray[np.float32]:
        """``(N, K)`` of all frames."""
        radius = self.judgement.point_radius_seconds
        return np.concatenate(
            [video.scored.targets(point_radius_seconds=radius) for video in self.videos]
        )

    @cached_property
    def is_contextualized(self) -> NDArray[np.bool_]:
        """``(N,)`` whether the temporal encoder looked."""
        return np.concatenate([video.scored.is_contextualized for video in self.videos])

    @cached_property
    def frame_rankings(self) -> dict[str, FrameRanking]:
        """By label, of the temporal scores."""
        return self._rankings([video.scored.temporal for video in self.videos])

    @cached_property
    def trigger_rankings(self) -> dict[str, FrameRanking]:
        """By label, of the trigger head's scores."""
        return self._rankings([video.scored.trigger for video in self.videos])

    def _rankings(self, scores: Sequence[NDArray[np.float32]]) -> dict[str, FrameRanking]:
        joined = np.concatenate(scores)
        return {
            label: FrameRanking(self.targets[:, k], joined[:, k], self.owners)
            for k, label in enumerate(self.labels)
        }

    @cached_property
    def calibrations(self) -> dict[str, CalibrationSums]:
        """By label, over the frames at which the temporal encoder looked."""
        is_seen = self.is_contextualized
        scores = np.concatenate([video.scored.temporal for video in self.videos])
        return {
            label: CalibrationSums(
                self.targets[is_seen, k],
                scores[is_seen, k],
                self.owners[is_seen],
                num_videos=len(self.videos),
            )
            for k, label in enumerate(self.labels)
        }

    @cached_property
    def proposals(self) -> dict[str, tuple[Proposals, ...]]:
        """By label, of each video."""
        return {
            label: tuple(
                make_proposals(video.scored, label, self.judgement.rules) for video in self.videos
            )
            for label in self.labels
        }

    @cached_property
    def ranked(self) -> dict[str, Ranked]:
        """By label."""
        return {label: self._ranked(label) for label in self.labels}

    def _ranked(self, label: str) -> Ranked:
        pairs = list(zip(self.videos, self.proposals[label], strict=True))

        def own(video: JudgedVideo) -> list[AnnotatedEvent]:
            return [event for event in video.scored.references if event.label == label]

        def rank(
            make: Callable[[JudgedVideo, Proposals], VideoRanking],
        ) -> list[VideoRanking]:
            return [make(video, found) for video, found in pairs]

        moments = rank(lambda video, found: spotting_ranking(own(video), found))
        frames = rank(
            lambda video, found: spotting_ranking(
                own(video), found, timestamps=video.scored.timestamps
            )
        )
        segments = rank(lambda video, found: segment_ranking(self.references(video, label), found))
        return Ranked(
            seconds=RankedPredictions(moments, TOLERANCES_SECONDS),
            frames=RankedPredictions(frames, TOLERANCES_FRAMES),
            tight=SoccerNetSpotting(moments, TIGHT_WINDOWS_SECONDS),
            loose=SoccerNetSpotting(moments, LOOSE_WINDOWS_SECONDS),
            segments=RankedPredictions(segments, tiou_limits(ALL_TIOUS)),
        )

    @cached_property
    def alarms(self) -> tuple[dict[str, VideoAlarms], ...]:
        """Of each video, by label, at the thresholds that are judged."""
        judgement = self.judgement
        return tuple(
            {
                label: video_alarms(
                    video.scored,
                    label,
                    judgement.thresholds[label],
                    judgement.rules,
                    tolerance_seconds=judgement.tolerance_seconds,
                    point_radius_seconds=judgement.point_radius_seconds,
                )
                for label in self.labels
            }
            for video in self.videos
        )

    def alarm_counts(self, weights: Weights, label: str | None = None) -> AlarmCounts:
        """Of a selection: of one class, or of all."""
        rows = np.tensordot(weights, self._alarm_table, 1)
        per_class = {
            name: AlarmCounts(
                num_references=int(row[0]),
                num_detected=int(row[1]),
                num_alarms=int(row[2]),
                num_false_alarms=int(row[3]),
                quiet_hours=float(row[4]),
            )
            for name, row in zip(self.labels, rows, strict=True)
        }
        return over_classes(per_class) if label is None else per_class[label]

    @cached_property
    def _alarm_table(self) -> NDArray[np.float64]:
        """``(V, K, 5)``: the fields of `AlarmCounts`."""
        found = (found.counts for by_label in self.alarms for found in by_label.values())
        rows = [
            (
                counts.num_references,
                counts.num_detected,
                counts.num_alarms,
                counts.num_false_alarms,
                counts.quiet_hours,
            )
            for counts in found
        ]
        return np.array(rows).reshape(len(self.videos), len(self.labels), _NUM_ALARM_FIELDS)

    @cached_property
    def sweeps(self) -> dict[str | None, ThresholdSweep]:
        """By label; under None that of one threshold for all classes."""
        sweeps: dict[str | None, ThresholdSweep] = {
            label: self._sweep([label]) for label in self.labels
        }
        sweeps[None] = sweeps[self.labels[0]] if len(self.labels) == 1 else self._sweep(self.labels)
        return sweeps

    def _sweep(self, labels: Sequence[str]) -> ThresholdSweep:
        return ThresholdSweep(
            [video.scored for video in self.videos],
            labels,
            self.judgement.rules,
            tolerance_seconds=self.judgement.tolerance_seconds,
            point_radius_seconds=self.judgement.point_radius_seconds,
        )

    def event_counts(self, weights: Weights, label: str | None = None) -> EventCounts:
        """Events matched one to one, of a selection: of one class, or of all."""
        rows = np.tensordot(weights, self._event_table, 1)
        row = rows.sum(axis=0) if label is None else rows[self.labels.index(label)]
        return EventCounts(
            num_references=int(row[0]), num_predictions=int(row[1]), num_matches=int(row[2])
        )

    @cached_property
    def _event_table(self) -> NDArray[np.int64]:
        """``(V, K, 3)``: the fields of `EventCounts`."""
        by_video = (
            event_scores(
                [(video.scored.references, video.events)],
                self.labels,
                tolerance_seconds=self.judgement.tolerance_seconds,
            )
            for video in self.videos
        )
        return np.array(
            [
                [
                    (counts.num_references, counts.num_predictions, counts.num_matches)
                    for counts in scores.per_class.values()
                ]
                for scores in by_video
            ]
        )
