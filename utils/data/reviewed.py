"""`add_reviewed`: verdicts on near misses go back into the training data.

Behind `inference.py --review-dir` (its folder's format: `pipeline.review`) and a person. A clip on
which nothing was marked is a hard negative: background that the model all but took for an event.
Where something was marked, the model missed an event.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from utils.data.formats.draft import Draft, DraftEvent, DraftVideo
from utils.errors import AnnotationError

REVIEW_NAME = "review.json"
"""The list of clips that ``--review-dir`` writes."""
_DECIMALS = 6


@dataclass(frozen=True, kw_only=True)
class ReviewCounts:
    """What became of the clips of a review.

    Attributes:
        num_clips: In the folder.
        num_unreviewed: Nobody has judged them; they are left out.
        num_known: Were added before, or show only events that are annotated already.
        num_hard_negatives: Clips added without an event.
        num_missed_events: Events added.
        num_contradictions: Judged empty where the video's annotations have an event; left out.
    """

    num_clips: int
    num_unreviewed: int = 0
    num_known: int = 0
    num_hard_negatives: int = 0
    num_missed_events: int = 0
    num_contradictions: int = 0

    def __str__(self) -> str:
        parts = [
            f"{count} {words}"
            for count, words in (
                (self.num_missed_events, "missed events"),
                (self.num_hard_negatives, "hard negatives"),
                (self.num_known, "known already"),
                (self.num_contradictions, "contradictions"),
                (self.num_unreviewed, "not reviewed"),
            )
            if count
        ]
        return f"{self.num_clips} clips: {', '.join(parts) or 'none'}"


def add_reviewed(
    draft: Draft, folder: Path, review: Draft, verdicts: Draft, *, unreviewed: set[str] | None
) -> ReviewCounts:
    """Add the clips that somebody judged to a data set.

    An event in a clip of a video that is in the set goes to that video, at its time there; clips of
    other videos are added with their events. Hard negatives are added as clips, so that they weigh
    more than the background around them. A clip belongs to the group of its video, or to one that
    all clips of this video share, so that no split sees both.

    Args:
        draft: The data set; videos and events are added to it, and problems.
        folder: Of the review.
        review: ``review.json``.
        verdicts: What a person made of it, in any format; may be ``review``.
        unreviewed: Names of clips in ``verdicts`` that nobody judged; None: those whose
            ``reviewed`` is not true.
    """
    judged = {Path(video.video).name: video for video in verdicts.videos}
    sources = {_resolved(video.path): video for video in draft.videos}
    # A clip that was added before is a video of the set.
    known = set(sources)
    counts = ReviewCounts(num_clips=len(review.videos))
    for clip in review.videos:
        verdict = judged.get(Path(clip.video).name)
        if verdict is None or not _is_judged(verdict, unreviewed):
            counts = _counted(counts, "num_unreviewed")
            continue
        found = _source_of(clip, draft)
        if found is None:
            continue
        source_path, start = found
        path = folder / clip.video
        if _resolved(path) in known:
            counts = _counted(counts, "num_known")
            continue
        source = sources.get(_resolved(source_path))
        if source is not None and verdict.events:
            added = _add_to_source(source, verdict, start, path)
            counts = _counted(counts, "num_missed_events" if added else "num_known", max(1, added))
            continue
        if source is not None and (event := _event_inside(source, clip, start)) is not None:
            draft.warning(
                "contradiction",
                f"video '{source.video}', {event.place} ('{event.label}')",
                f"lies in {path}, which was judged to show no event; the clip is left out",
            )
            counts = _counted(counts, "num_contradictions")
            continue
        draft.videos.append(_as_video(clip, verdict, path, source, source_path, start))
        if verdict.events:
            counts = _counted(counts, "num_missed_events", len(verdict.events))
        else:
            counts = _counted(counts, "num_hard_negatives")
    return counts


def _is_judged(verdict: DraftVideo, unreviewed: set[str] | None) -> bool:
    if unreviewed is None:
        return verdict.extra.get("reviewed") is True
    return verdict.video not in unreviewed


def _source_of(clip: DraftVideo, draft: Draft) -> tuple[Path, float] | None:
    """The video that a clip was cut from, and where it begins there."""
    where = f"{REVIEW_NAME}: video '{clip.video}'"
    source = draft.required_text(where, "source", clip.extra.get("source"))
    start = draft.required_number(where, "source_start", clip.extra.get("source_start"))
    return None if source is None or start is None else (Path(source), start)


def _add_to_source(source: DraftVideo, verdict: DraftVideo, start: float, path: Path) -> int:
    """Returns how many events were new."""
    added = 0
    for event in verdict.events:
        moved = replace(
            event,
            start=round(start + event.start, _DECIMALS),
            end=round(start + event.end, _DECIMALS),
            place=f"{path.name}, {event.place}",
        )
        if any(_meet(moved, other) for other in source.events):
            continue
        source.events.append(moved)
        added += 1
    return added


def _meet(first: DraftEvent, second: DraftEvent) -> bool:
    """Whether two events are of one class and share time."""
    return first.label == second.label and first.start <= second.end and second.start <= first.end


def _event_inside(source: DraftVideo, clip: DraftVideo, start: float) -> DraftEvent | None:
    """An annotated event of the source that the clip shows, at least half of it."""
    end = start + (clip.duration or 0.0)
    for event in source.events:
        shown = min(end, event.end) - max(start, event.start)
        if shown >= (event.end - event.start) / 2 and shown >= 0:
            return event
    return None


def _as_video(
    clip: DraftVideo,
    verdict: DraftVideo,
    path: Path,
    source: DraftVideo | None,
    source_path: Path,
    start: float,
) -> DraftVideo:
    group = None if source is None else source.group
    extra: dict[str, Any] = {
        "source": str(source_path),
        "source_start": start,
        "reviewed_as": "missed_event" if verdict.events else "hard_negative",
    }
    return DraftVideo(
        video=str(path),
        path=path,
        duration=clip.duration,
        fps=clip.fps,
        group=group or _group_of(source, source_path),
        events=list(verdict.events),
        extra=extra,
    )


def _group_of(source: DraftVideo | None, source_path: Path) -> str:
    """One for all clips of a video, and for the video itself where it is in the set."""
    group = f"review of {source_path.name}"
    if source is not None:
        source.group = group
    return group


def _resolved(path: Path) -> Path:
    return path.resolve()


def _counted(counts: ReviewCounts, name: str, number: int = 1) -> ReviewCounts:
    return replace(counts, **{name: getattr(counts, name) + number})


def review_list(folder: Path) -> Path:
    """The list of clips of a review folder.

    Raises:
        AnnotationError: There is none.
    """
    path = folder / REVIEW_NAME
    if not path.is_file():
        raise AnnotationError(
            f"{folder}: has no {REVIEW_NAME}; --add-reviewed takes a folder that inference.py "
            "--review-dir wrote"
        )
    return path
