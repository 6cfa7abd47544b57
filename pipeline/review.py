"""`ReviewFolder`: near misses of a run as clips, with what an annotation tool needs beside them.

Behind `pipeline.batch`: scores and events of each video in, a bounded folder out. A person looks at
the clips, and `utils.data.reviewed` takes the verdicts back into the training data.

``review.json`` is an annotation file in which nothing is confirmed yet::

    {"labels": ["fight"], "review": {"model": {...}, "threshold": 0.5, "ratio": 0.6},
     "videos": [{"video": "clip_0001.mp4", "duration": 12.4, "fps": 25, "reviewed": false,
                 "source": "/videos/hall.mp4", "source_start": 81.2,
                 "suggestions": [{"start": 5.0, "end": 7.4, "label": "fight", "confidence": 0.41}],
                 "events": []}]}

``label_studio.json`` holds the same clips as tasks whose predictions are the suggestions.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.atomic_file import check_folder, write_json
from utils.config.schema import InferenceConfig
from utils.data.annotations import AnnotatedEvent, AnnotationSet, VideoAnnotation, save_annotations
from utils.data.formats.label_studio import review_task
from utils.errors import UsageError, VideoError
from utils.events.near_misses import NearMiss
from utils.events.records import PUBLISHED_DECIMALS, Event
from utils.video.clip_file import Clip, cut_clip
from utils.video.source import VideoSource

_log = logging.getLogger(__name__)

REVIEW_NAME = "review.json"
TASKS_NAME = "label_studio.json"
MAX_CLIP_SECONDS = 60.0
"""A score may hover under the threshold for hours; the minute around its peak is enough to see."""
_BYTES_PER_MB = 1e6


@dataclass(frozen=True, kw_only=True)
class _Candidate:
    """A clip to be, around its nearest miss."""

    start: float
    end: float
    nearness: float
    misses: tuple[NearMiss, ...]


@dataclass(frozen=True, kw_only=True)
class _Kept:
    """A clip that is there."""

    clip: Clip
    num_bytes: int
    nearness: float
    annotation: VideoAnnotation
    suggestions: tuple[AnnotatedEvent, ...]


class ReviewFolder:
    """The nearest misses of all videos of a run, bounded in number and bytes.

    Args:
        folder: Made where it is missing.
        labels: K class names.
        config: The ``review_*`` keys.
        origin: What the clips come from, ready for JSON.
        decoder: Name in `utils.video.decoders.DECODERS`.

    Raises:
        UsageError: The folder cannot be written to, or holds an earlier review.
    """

    def __init__(
        self,
        folder: Path,
        labels: Sequence[str],
        config: InferenceConfig,
        *,
        origin: Mapping[str, Any],
        decoder: str,
    ) -> None:
        check_new_folder(folder)
        self._folder = folder
        self._labels = tuple(labels)
        self._config = config
        self._origin = dict(origin)
        self._decoder = decoder
        self._kept: list[_Kept] = []
        self._num_cut = 0

    @property
    def path(self) -> Path:
        """The list of clips."""
        return self._folder / REVIEW_NAME

    def __len__(self) -> int:
        return len(self._kept)

    def add(self, path: Path, misses: Sequence[NearMiss], events: Sequence[Event]) -> None:
        """Cut the clips of one video that are among the nearest so far, and write the lists anew.

        Args:
            path: The video.
            misses: The nearest first.
            events: That were published, so that a clip which shows one says so.
        """
        for candidate in self._candidates(misses):
            if self._is_out(candidate.nearness):
                # The others are no nearer.
                break
            self._num_cut += 1
            try:
                kept = self._cut(path, candidate, events)
            except (VideoError, OSError) as error:
                _log.warning("no clip for review: %s", error)
                continue
            self._kept.append(kept)
            self._make_room()
        self._write()

    def _candidates(self, misses: Sequence[NearMiss]) -> list[_Candidate]:
        """A clip for each miss that no nearer one's clip shows whole."""
        candidates: list[_Candidate] = []
        for miss in misses:
            stretch = miss.stretch
            for index, candidate in enumerate(candidates):
                if candidate.start <= stretch.start and stretch.end <= candidate.end:
                    candidates[index] = dataclasses.replace(
                        candidate, misses=(*candidate.misses, miss)
                    )
                    break
            else:
                margin = self._config.review_margin_seconds
                half = MAX_CLIP_SECONDS / 2
                candidates.append(
                    _Candidate(
                        start=max(0.0, stretch.start - margin, stretch.timestamp - half),
                        end=min(stretch.end + margin, stretch.timestamp + half),
                        nearness=miss.nearness,
                        misses=(miss,),
                    )
                )
        return candidates

    def _is_out(self, nearness: float) -> bool:
        is_full = len(self._kept) >= self._config.review_max_clips
        return is_full and nearness <= min(kept.nearness for kept in self._kept)

    def _cut(self, path: Path, candidate: _Candidate, events: Sequence[Event]) -> _Kept:
        target = self._folder / f"clip_{self._num_cut:04d}.mp4"
        with VideoSource.open(path, decoder=self._decoder) as source:
            clip = cut_clip(source, target, start=candidate.start, end=candidate.end)
        shown = [*(miss.stretch for miss in candidate.misses), *events]
        suggestions = [
            suggestion for event in shown if (suggestion := _suggestion(event, clip)) is not None
        ]
        suggestions.sort(key=lambda event: (event.start, event.label))
        return _Kept(
            clip=clip,
            num_bytes=target.stat().st_size,
            nearness=candidate.nearness,
            annotation=VideoAnnotation(
                video=target.name,
                path=target,
                duration=round(clip.duration, PUBLISHED_DECIMALS),
                fps=round(clip.fps, PUBLISHED_DECIMALS),
                extra={
                    "reviewed": False,
                    "source": str(path.resolve()),
                    "source_start": round(clip.start, PUBLISHED_DECIMALS),
                    "suggestions": [
                        {
                            "start": event.start,
                            "end": event.end,
                            "label": event.label,
                            **event.extra,
                        }
                        for event in suggestions
                    ],
                },
            ),
            suggestions=tuple(suggestions),
        )

    def _make_room(self) -> None:
        """Remove the clips that are least near until the rest is within the bounds."""
        limit = self._config.review_max_mb * _BYTES_PER_MB
        self._kept.sort(key=lambda kept: kept.nearness, reverse=True)
        while self._kept and (
            len(self._kept) > self._config.review_max_clips
            or sum(kept.num_bytes for kept in self._kept) > limit
        ):
            self._kept.pop().clip.path.unlink()

    def _write(self) -> None:
        if not self._kept:
            # What was kept before is gone again, and a list without videos is none.
            self.path.unlink(missing_ok=True)
            (self._folder / TASKS_NAME).unlink(missing_ok=True)
            return
        videos = tuple(kept.annotation for kept in self._kept)
        save_annotations(
            AnnotationSet(labels=self._labels, videos=videos, extra={"review": self._origin}),
            self.path,
        )
        write_json(
            [
                review_task(number, kept.annotation, kept.suggestions)
                for number, kept in enumerate(self._kept, 1)
            ],
            self._folder / TASKS_NAME,
        )


def check_new_folder(folder: Path) -> None:
    """Find out before hours of work that a review can be written there.

    Raises:
        UsageError: The folder cannot be written to, or holds an earlier review, which may be
            somebody's work.
    """
    if (folder / REVIEW_NAME).exists():
        raise UsageError(
            f"--review-dir {folder}: holds an earlier review ({REVIEW_NAME}); choose another folder"
        )
    check_folder(folder, remedy="choose another --review-dir")


def _suggestion(event: Event, clip: Clip) -> AnnotatedEvent | None:
    """In the clip's own time; None where the clip does not show it."""
    start = max(0.0, event.start - clip.start)
    end = min(clip.duration, event.end - clip.start)
    if end <= start:
        return None
    return AnnotatedEvent(
        label=event.label,
        start=round(start, PUBLISHED_DECIMALS),
        end=round(end, PUBLISHED_DECIMALS),
        extra={"confidence": round(event.confidence, PUBLISHED_DECIMALS)},
    )
