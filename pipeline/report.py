"""The report: what a run found, as JSON, with its pictures beside it.

`OutputFiles` decides where everything lies and writes it so that an interrupted run leaves the
earlier report whole; `video_entry` and `event_entry` say what stands in it.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any, Self

from pipeline.run_records import CascadeSettings, DescribedEvent, RunTotals
from pipeline.score_file import SCORES_SUFFIX
from utils.atomic_file import check_writable, write_json
from utils.errors import UsageError
from utils.events.records import PUBLISHED_DECIMALS, Event
from utils.thresholds import by_label
from utils.video.source import Image

FORMAT_VERSION = 1
_PICTURE_SUFFIXES = (".jpg", ".png")
_JPEG_QUALITY = 85


@dataclasses.dataclass(frozen=True, kw_only=True)
class VideoFiles:
    """Names of one video's files, relative to the report.

    Attributes:
        timeline: The picture of its scores.
        scores: Its scores.
        thumbnails: Each event's, without number and suffix.
    """

    timeline: str
    scores: str
    thumbnails: str

    def thumbnail(self, number: int) -> str:
        """Of the event with this number, counted from 1."""
        return f"{self.thumbnails}{number:04d}.jpg"


class OutputFiles:
    """Everything that one run writes; a context manager.

    Files are made in a hidden folder beside the report and moved when they are complete; the report
    itself comes last. What an earlier run with the same output left is replaced or removed,
    pictures alone: scores are dear to make and are only ever replaced. Nothing else is touched.

    Args:
        output: The report, ``NAME.json``. One video's timeline and scores are ``NAME.png`` and
            ``NAME.scores.npz`` beside it; the rest lies in ``NAME_files/``.
        is_single: One video, not a folder.
        inputs: Are never written to.

    Raises:
        UsageError: The report cannot be written there.
    """

    def __init__(self, output: Path, *, is_single: bool, inputs: Sequence[Path] = ()) -> None:
        if output.is_dir():
            raise UsageError(
                f"--output {output} is a folder; name a file: {output / 'analysis.json'}"
            )
        if output.suffix != ".json":
            raise UsageError(f"--output {output} must end in .json")
        check_writable(output, inputs=inputs)
        self.output = output
        self._is_single = is_single
        self._names: set[str] = set()
        self._written: set[str] = set()
        self._earlier = _pictures_of_report(output)
        self._staging = Path(tempfile.mkdtemp(prefix=f".{output.stem[:40]}.", dir=output.parent))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        shutil.rmtree(self._staging)

    def for_video(self, path: Path) -> VideoFiles:
        """Names for the next video; no two videos share them."""
        stem = self.output.stem
        if self._is_single:
            return VideoFiles(
                timeline=f"{stem}.png",
                scores=f"{stem}{SCORES_SUFFIX}",
                thumbnails=f"{stem}_files/trigger_",
            )
        name, number = path.name, 1
        # Videos of several folders may bear one name.
        while name.lower() in self._names:
            number += 1
            name = f"{path.name}-{number}"
        self._names.add(name.lower())
        base = f"{stem}_files/{name}"
        return VideoFiles(
            timeline=f"{base}.png", scores=f"{base}{SCORES_SUFFIX}", thumbnails=f"{base}.trigger_"
        )

    def staged(self, name: str) -> Path:
        """Where to write the file that will bear ``name``."""
        path = self._staging / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def discard(self) -> None:
        """Forget the files of a video that failed half way."""
        for path in self._staging.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()

    def publish(self, report: Mapping[str, Any], *, is_final: bool = True) -> None:
        """Move what is staged to its place, then write the report.

        Args:
            report: Ready for JSON.
            is_final: Remove pictures that an earlier report names and this run did not write.

        Raises:
            UsageError: The disk is full, or the folder went away.
        """
        try:
            for path in sorted(self._staging.rglob("*")):
                if path.is_file():
                    name = path.relative_to(self._staging).as_posix()
                    target = self.output.parent / name
                    target.parent.mkdir(parents=True, exist_ok=True)
                    os.replace(path, target)
                    self._written.add(name)
            write_json(report, self.output)
            if is_final:
                self._remove_stale()
        except OSError as error:
            raise UsageError(
                f"--output {self.output}: could not be written: {error.strerror or error}"
            ) from error

    def _remove_stale(self) -> None:
        for name in self._earlier - self._written:
            (self.output.parent / name).unlink(missing_ok=True)
        folder = self.output.parent / f"{self.output.stem}_files"
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def _pictures_of_report(output: Path) -> set[str]:
    """Pictures that the report at ``output`` names and that can only be its own."""
    try:
        report = json.loads(output.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        # No report, or none of ours: then nothing beside it is ours to remove.
        return set()
    entries = report.get("videos", [report]) if isinstance(report, dict) else []
    names: set[str] = set()
    for entry in entries if isinstance(entries, list) else []:
        if isinstance(entry, dict):
            triggers = entry.get("triggers")
            named = [
                trigger.get("thumbnail")
                for trigger in (triggers if isinstance(triggers, list) else [])
                if isinstance(trigger, dict)
            ]
            names |= {name for name in (*named, entry.get("timeline")) if isinstance(name, str)}
    return {name for name in names if _is_own_picture(name, output.stem)}


def _is_own_picture(name: str, stem: str) -> bool:
    """Whether ``name`` is one that `VideoFiles` gives: a report may have been edited."""
    path = PurePosixPath(name)
    is_beside = path.parts == (f"{stem}.png",)
    is_inside = len(path.parts) == 2 and path.parts[0] == f"{stem}_files"
    return (is_beside or is_inside) and path.suffix in _PICTURE_SUFFIXES and ".." not in path.parts


def write_jpeg(image: Image, path: Path) -> None:
    """Write a picture ``(H, W, 3)``."""
    from PIL import Image as Pillow

    Pillow.fromarray(image).save(path, "JPEG", quality=_JPEG_QUALITY)


def event_entry(described: DescribedEvent, *, thumbnail: str | None) -> dict[str, Any]:
    """One of the report's ``triggers``.

    Args:
        described: The event and its words.
        thumbnail: Its picture, relative to the report.
    """
    event = described.event
    return {
        "timestamp": round(event.timestamp, PUBLISHED_DECIMALS),
        "frame_index": event.frame_index,
        "trigger_confidence": round(event.confidence, PUBLISHED_DECIMALS),
        "analysis": described.analysis,
        "start": round(event.start, PUBLISHED_DECIMALS),
        "end": round(event.end, PUBLISHED_DECIMALS),
        "label": event.label,
        "thumbnail": thumbnail,
    }


def event_of_entry(entry: Mapping[str, Any]) -> Event:
    """The event that `event_entry` was called on, to the report's precision.

    Raises:
        KeyError: A field is missing.
        ValueError: The fields are no event.
    """
    return Event(
        label=entry["label"],
        start=entry["start"],
        end=entry["end"],
        timestamp=entry["timestamp"],
        frame_index=entry["frame_index"],
        confidence=entry["trigger_confidence"],
    )


def video_entry(
    path: str,
    triggers: Sequence[Mapping[str, Any]],
    *,
    summary: str,
    totals: RunTotals,
    timeline: str,
    scores: str | None,
    replayed_from: str | None,
) -> dict[str, Any]:
    """What a report says of one video.

    Args:
        path: As it was given.
        triggers: `event_entry` of each event.
        summary: One sentence.
        totals: Of the finished run.
        timeline: Relative to the report.
        scores: Relative to the report; None where they are not kept.
        replayed_from: The saved scores that the events were made of, relative to the report; None
            where the video itself was decoded.
    """
    return {
        "video_path": path,
        "duration_seconds": round(totals.duration_seconds, PUBLISHED_DECIMALS),
        "num_frames_analyzed": totals.num_frames,
        "num_candidate_frames": totals.num_candidates,
        "num_windows": totals.num_windows,
        "num_triggers_detected": len(triggers),
        "triggers": sorted(triggers, key=lambda entry: (entry["start"], entry["label"])),
        "video_summary": summary,
        "timeline": timeline,
        "scores": scores,
        "replayed_from": replayed_from,
        "source": totals.source,
        "data_loss": loss_entry(totals) if totals.loss else None,
        "stages": {
            name: {"num_frames": stage.num_frames, "milliseconds": round(1000 * stage.seconds, 1)}
            for name, stage in totals.stages.items()
        },
        "num_describer_failures": totals.num_describer_failures,
    }


def loss_entry(totals: RunTotals) -> dict[str, Any]:
    """What the file lost."""
    entry = dataclasses.asdict(totals.loss)
    entry["lost_seconds"] = round(entry["lost_seconds"], PUBLISHED_DECIMALS)
    return entry


def config_entry(
    settings: CascadeSettings,
    sampling: Mapping[str, Any],
    *,
    labels: Sequence[str],
    describer: str,
) -> dict[str, Any]:
    """The settings that made this result, resolved.

    Args:
        settings: Of the run.
        sampling: How frames were picked and prepared, ready for JSON.
        labels: K class names.
        describer: Name in `DESCRIBERS`.
    """
    return {
        "threshold": by_label(settings.threshold, labels),
        "candidate_threshold": settings.candidate_threshold,
        "events": settings.events.model_dump(mode="json"),
        "sampling": dict(sampling),
        "max_frames": settings.max_frames,
        "describer": describer,
    }
