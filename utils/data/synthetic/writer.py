"""Synthetic data sets as files: H.264 videos and one annotation file for each split.

Last room of the synthetic data set. Files are written aside and renamed, the annotation file last:
a folder with an ``annotations.json`` is whole.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from utils.data.annotations import (
    AnnotatedEvent,
    AnnotationSet,
    VideoAnnotation,
    load_annotations,
    save_annotations,
)
from utils.data.synthetic.author import write_script
from utils.data.synthetic.camera import Camera
from utils.data.synthetic.renderer import Renderer
from utils.data.synthetic.script import LABELS, SceneScript
from utils.errors import AnnotationError, UsageError

SPLITS = ("train", "val", "test")
ANNOTATIONS_NAME = "annotations.json"
VIDEOS_PER_CAMERA = 1
_MIN_WIDTH, _MIN_HEIGHT = 64, 36
_MAX_SIDE = 4096
_SEED_FIELD = "synthetic_seed"
"""Field of each video in the annotation file; marks a file that this module may replace."""
_COMMENT = "synthetic video"
"""In the metadata of each video, to the same end."""


@dataclass(frozen=True, kw_only=True)
class SyntheticSettings:
    """What to make.

    Attributes:
        num_videos: Videos in each split, out of `SPLITS`; splits with none are left out.
        duration: Seconds of each video, rounded to whole frames.
        seed: Everything drawn by lot follows from it.
        fps: Frames a second.
        width: Pixels, even.
        height: Pixels, even.
        events_per_minute: Over all labels; the mean of a split, exact to one event. A rate under
            one event a video leaves videos without any.
        distractors_per_minute: Vehicles that slow down and drive on, or drive through; likewise,
            but no more than there is room for.
        labels: See `author.write_script`.
    """

    num_videos: Mapping[str, int]
    duration: float = 20.0
    seed: int = 0
    fps: float = 12.5
    width: int = 256
    height: int = 144
    events_per_minute: float = 12.0
    distractors_per_minute: float = 12.0
    labels: Sequence[str] = LABELS

    def __post_init__(self) -> None:
        for split, count in self.num_videos.items():
            if split not in SPLITS:
                raise UsageError(f"unknown split '{split}'; known: {', '.join(SPLITS)}")
            if count < 0:
                raise UsageError(f"the number of {split} videos cannot be negative, got {count}")
        if not any(self.num_videos.values()):
            raise UsageError("no videos were asked for; give at least one split a positive number")
        if self.seed < 0:
            raise UsageError(f"seed cannot be negative, got {self.seed}")
        if not 1 <= self.fps <= 120:
            raise UsageError(f"fps must be between 1 and 120, got {self.fps:g}")
        if not (math.isfinite(self.duration) and self.duration * self.fps >= 1):
            raise UsageError(f"duration must be at least one frame, got {self.duration:g} s")
        if (
            self.width % 2
            or self.height % 2
            or not _MIN_WIDTH <= self.width <= _MAX_SIDE
            or not _MIN_HEIGHT <= self.height <= _MAX_SIDE
        ):
            raise UsageError(
                f"size must be even numbers from {_MIN_WIDTH}x{_MIN_HEIGHT} to "
                f"{_MAX_SIDE}x{_MAX_SIDE}, got {self.width}x{self.height}"
            )
        for what in ("events", "distractors"):
            rate = getattr(self, f"{what}_per_minute")
            if not (math.isfinite(rate) and rate >= 0):
                raise UsageError(f"the rate of {what} cannot be negative, got {rate}")

    @property
    def rate(self) -> Fraction:
        """Frames a second, as the container stores it."""
        return Fraction(self.fps).limit_denominator(1001)

    @property
    def num_frames(self) -> int:
        """Of each video."""
        return max(1, round(self.duration * self.rate))

    @property
    def total_frames(self) -> int:
        """Of all videos."""
        return self.num_frames * sum(self.num_videos.values())

    def num_events(self, index: int) -> int:
        """Events in the ``index``-th video of a split."""
        return self._number_at(self.events_per_minute, index)

    def _number_at(self, per_minute: float, index: int) -> int:
        """Of the ``index``-th video; cumulative rounding keeps the rate of the split."""
        per_video = Fraction(per_minute) * self.num_frames / self.rate / 60
        half = Fraction(1, 2)
        return math.floor(per_video * (index + 1) + half) - math.floor(per_video * index + half)

    def script(self, split: str, index: int) -> SceneScript:
        """The script of the ``index``-th video of ``split``.

        Raises:
            UsageError: So many events do not fit.
        """
        camera = Camera.draw_by_lot(
            seed=self.seed,
            number=index // VIDEOS_PER_CAMERA,
            town=split,
            width=self.width,
            height=self.height,
        )
        return write_script(
            camera,
            key=(self.seed, 2, SPLITS.index(split), index),
            duration=float(self.num_frames / self.rate),
            num_events=self.num_events(index),
            num_distractors=self._number_at(self.distractors_per_minute, index),
            labels=self.labels,
            first_incident=index,
        )


@dataclass(frozen=True, kw_only=True)
class SplitSummary:
    """What was written for one split.

    Attributes:
        split: Its name.
        annotations_path: The annotation file.
        num_videos: Videos beside it.
        duration_seconds: Of all of them.
        num_events: Events by label, labels without any included.
        conducts: What the vehicles do, and how many do so.
    """

    split: str
    annotations_path: Path
    num_videos: int
    duration_seconds: float
    num_events: Mapping[str, int]
    conducts: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class VideoJob:
    """One video to draw; can be sent to another process.

    Attributes:
        script: What happens in it.
        path: The file to write.
        rate: Frames a second.
    """

    script: SceneScript
    path: Path
    rate: Fraction


RunJobs = Callable[[Callable[[VideoJob], int], Sequence[VideoJob]], Iterable[int]]
"""Does jobs, in any order and in any process, and gives what each of them returned."""


def write_dataset(
    output: str | os.PathLike[str],
    settings: SyntheticSettings,
    *,
    overwrite: bool = False,
    run_jobs: RunJobs | None = None,
    on_frames: Callable[[int], object] = lambda count: None,
) -> list[SplitSummary]:
    """Write ``output/{train,val,test}/video_NNN.mp4`` and their ``annotations.json``.

    Args:
        output: Folder; made where it is missing.
        settings: What to make.
        overwrite: Replace the files of an earlier run, and remove videos of it that this run has no
            counterpart for. Files that no earlier run wrote are never touched.
        run_jobs: Draws the videos, such as several at once; by default one after the other. Files
            do not depend on it.
        on_frames: Called with the number of frames that are done since the last call, for a
            progress bar: after each frame, or with ``run_jobs`` after each video.

    Raises:
        UsageError: There are files in the way, the folder cannot be written, or the events do not
            fit; in the last case nothing is written.
    """
    output = Path(output)
    splits = [split for split in SPLITS if settings.num_videos.get(split, 0)]
    scripts = {
        split: [settings.script(split, index) for index in range(settings.num_videos[split])]
        for split in splits
    }
    try:
        # All are checked before one is touched.
        for split in splits:
            _check_the_way(output / split, len(scripts[split]), overwrite=overwrite)
        for split in splits:
            _clear_the_way(output / split, len(scripts[split]))
        jobs = [
            VideoJob(script=script, path=output / split / _video_name(index), rate=settings.rate)
            for split in splits
            for index, script in enumerate(scripts[split])
        ]
        for job in jobs:
            job.path.parent.mkdir(parents=True, exist_ok=True)
        if run_jobs is None:
            for job in jobs:
                _draw(job, on_frames)
        else:
            for num_frames in run_jobs(draw_video, jobs):
                on_frames(num_frames)
        return [_finish_split(output / split, split, scripts[split], settings) for split in splits]
    except OSError as error:
        raise UsageError(f"{output}: cannot be written: {error}") from error


def encode_video(
    frames: Iterable[NDArray[np.uint8]], path: str | os.PathLike[str], *, rate: Fraction
) -> None:
    """Encode RGB frames as H.264 in MP4; equal frames give equal bytes.

    Args:
        frames: At least one, each ``(H, W, 3)`` with even sides.
        path: Replaced in one step when the video is whole.
        rate: Frames a second.
    """
    import av

    path = Path(path)
    # Hidden and with an ending of its own: a run that is killed leaves nothing that looks like a
    # video.
    aside = path.with_name(f".{path.name}.partial")
    try:
        with av.open(
            os.fspath(aside), "w", format="mp4", container_options={"fflags": "+bitexact"}
        ) as container:
            container.metadata["comment"] = _COMMENT
            stream = None
            for pixels in frames:
                if stream is None:
                    # One thread: x264 splits the picture among several, which changes the bytes.
                    # No macroblock tree: on small pictures its decisions differed from one run to
                    # the next (measured on 64x36: 3 of 40 encodings of the same frames).
                    stream = container.add_stream(
                        "libx264",
                        rate=rate,
                        options={"preset": "veryfast", "crf": "20", "threads": "1", "mbtree": "0"},
                    )
                    stream.height, stream.width = pixels.shape[:2]
                    stream.pix_fmt = "yuv420p"
                    stream.gop_size = max(1, round(2 * rate))
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                container.mux(stream.encode(frame))
            if stream is None:
                raise ValueError("a video needs at least one frame")
            container.mux(stream.encode())
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def draw_video(job: VideoJob) -> int:
    """Draw and encode one video; returns its number of frames."""
    count = 0

    def add(frames: int) -> None:
        nonlocal count
        count += frames

    _draw(job, add)
    return count


def _draw(job: VideoJob, on_frames: Callable[[int], object]) -> None:
    renderer = Renderer(job.script, fps=float(job.rate))
    encode_video(_counted(renderer.frames(), on_frames), job.path, rate=job.rate)


def _finish_split(
    folder: Path, split: str, scripts: Sequence[SceneScript], settings: SyntheticSettings
) -> SplitSummary:
    videos = tuple(
        _annotation(script, folder / _video_name(index), settings)
        for index, script in enumerate(scripts)
    )
    annotations_path = folder / ANNOTATIONS_NAME
    save_annotations(AnnotationSet(labels=tuple(settings.labels), videos=videos), annotations_path)
    counts = Counter(event.label for script in scripts for event in script.events)
    return SplitSummary(
        split=split,
        annotations_path=annotations_path,
        num_videos=len(scripts),
        duration_seconds=sum(script.duration for script in scripts),
        num_events={label: counts[label] for label in settings.labels},
        conducts=Counter(vehicle.conduct for script in scripts for vehicle in script.vehicles),
    )


def _counted(
    frames: Iterable[NDArray[np.uint8]], on_frames: Callable[[int], object]
) -> Iterator[NDArray[np.uint8]]:
    for frame in frames:
        yield frame
        on_frames(1)


def _annotation(script: SceneScript, path: Path, settings: SyntheticSettings) -> VideoAnnotation:
    return VideoAnnotation(
        video=path.name,
        path=path,
        duration=round(script.duration, 6),
        fps=float(settings.rate),
        group=script.camera.name,
        events=tuple(
            AnnotatedEvent(label=event.label, start=round(event.start, 3), end=round(event.end, 3))
            for event in script.events
        ),
        extra={_SEED_FIELD: settings.seed},
    )


def _check_the_way(folder: Path, num_videos: int, *, overwrite: bool) -> None:
    """Raise `UsageError` if a file is in the way that must not be replaced."""
    for path in (folder / ANNOTATIONS_NAME, *map(folder.joinpath, _video_names(num_videos))):
        if not path.exists():
            continue
        if not overwrite:
            raise UsageError(f"{path} exists already; choose another --output, or add --overwrite")
        if not (_is_our_video(path) if path.suffix == ".mp4" else _are_our_annotations(path)):
            raise UsageError(
                f"{path} was not written by this command and is not replaced; choose another "
                "--output"
            )


def _clear_the_way(folder: Path, num_videos: int) -> None:
    """Remove what an earlier run left and this one does not replace, and the annotations first."""
    annotations_path = folder / ANNOTATIONS_NAME
    if not annotations_path.exists():
        return
    earlier = [folder / video.video for video in load_annotations(annotations_path).videos]
    # From here on the folder is not whole, and must not look so.
    annotations_path.unlink()
    kept = set(_video_names(num_videos))
    for path in earlier:
        # A name out of a file might lead anywhere; only plain names beside it are ours.
        if path.parent == folder and path.name not in kept and _is_our_video(path):
            path.unlink()


def _are_our_annotations(path: Path) -> bool:
    try:
        videos = load_annotations(path).videos
    except AnnotationError:
        return False
    return all(_SEED_FIELD in video.extra for video in videos)


def _is_our_video(path: Path) -> bool:
    import av

    try:
        with av.open(os.fspath(path)) as container:
            return container.metadata.get("comment") == _COMMENT
    except (av.FFmpegError, OSError):
        # Whatever cannot be opened is not what `encode_video` renamed into place.
        return False


def _video_names(count: int) -> list[str]:
    return [_video_name(index) for index in range(count)]


def _video_name(index: int) -> str:
    return f"video_{index:03d}.mp4"
