"""The review folder: what is in it, its bounds, and what stays out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.review import MAX_CLIP_SECONDS, REVIEW_NAME, TASKS_NAME, ReviewFolder
from utils.config.schema import InferenceConfig
from utils.data.annotations import load_annotations
from utils.data.formats import import_annotations
from utils.data.formats.label_studio import unannotated_videos
from utils.errors import UsageError
from utils.events.near_misses import NearMiss
from utils.events.records import Event
from utils.video.source import VideoSource
from video_files import Recipe, read_number

ORIGIN = {"model": {"checkpoint": "c.pt"}, "threshold": 0.5, "ratio": 0.6}


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty seconds at 25 frames a second."""
    folder = tmp_path_factory.mktemp("videos")
    return Recipe(name="<hall> & 'yard'.mp4", ticks=range(500)).write(folder)


def event(start: float, end: float, confidence: float, label: str = "a") -> Event:
    return Event(
        label=label,
        start=start,
        end=end,
        timestamp=(start + end) / 2,
        frame_index=0,
        confidence=confidence,
    )


def miss(start: float, end: float, confidence: float = 0.4, label: str = "a") -> NearMiss:
    return NearMiss(stretch=event(start, end, confidence, label), threshold=0.5)


def opened(folder: Path, **keys: Any) -> ReviewFolder:
    config = InferenceConfig(**{"review_margin_seconds": 1.0, **keys})
    return ReviewFolder(folder, ["a", "b"], config, origin=ORIGIN, decoder="pyav")


def test_clips_and_lists(video: Path, tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "review"
    review = opened(folder)
    review.add(video, [miss(4, 6, 0.45), miss(12, 13, label="b")], [event(6.5, 9, 0.9, "b")])
    assert len(review) == 2
    assert sorted(path.name for path in folder.iterdir()) == [
        "clip_0001.mp4",
        "clip_0002.mp4",
        TASKS_NAME,
        REVIEW_NAME,
    ]
    found = load_annotations(folder / REVIEW_NAME)
    assert found.labels == ("a", "b")
    assert found.extra["review"] == ORIGIN
    first, second = found.videos
    assert first.path.is_file()
    # A frame at or after the start; 25 of them make a second.
    assert (first.duration, first.fps) == pytest.approx((4.0, 25.0))
    assert first.events == ()
    assert first.extra == {
        "reviewed": False,
        "source": str(video.resolve()),
        "source_start": 3.0,
        "suggestions": [
            {"start": 1.0, "end": 3.0, "label": "a", "confidence": 0.45},
            # What was published, and what of it the clip shows.
            {"start": 3.5, "end": 4.0, "label": "b", "confidence": 0.9},
        ],
    }
    assert second.extra["source_start"] == pytest.approx(11.0)
    with VideoSource.open(first.path) as clip:
        assert read_number(next(clip.frames()).rgb()) == 75


def test_tasks_of_an_annotation_tool(video: Path, tmp_path: Path) -> None:
    review = opened(tmp_path)
    review.add(video, [miss(4, 6)], [])
    (task,) = json.loads((tmp_path / TASKS_NAME).read_text(encoding="utf-8"))
    assert task["data"] == {"video": "clip_0001.mp4", "fps": 25.0, "duration": 4.0}
    (result,) = task["predictions"][0]["result"]
    assert result["value"] == {"ranges": [{"start": 26, "end": 75}], "timelinelabels": ["a"]}
    # A suggestion is no verdict: nobody has confirmed it.
    assert import_annotations(tmp_path / TASKS_NAME, "label_studio").videos[0].events == ()
    assert unannotated_videos(tmp_path / TASKS_NAME, tmp_path) == {"clip_0001.mp4"}


def test_the_nearest_are_kept(video: Path, tmp_path: Path) -> None:
    review = opened(tmp_path, review_max_clips=2)
    review.add(video, [miss(2, 3, 0.42), miss(8, 9, 0.41), miss(14, 15, 0.40)], [])
    review.add(video, [miss(17, 18, 0.49), miss(2, 3, 0.30)], [])
    found = load_annotations(tmp_path / REVIEW_NAME)
    nearest = [entry.extra["suggestions"][0]["confidence"] for entry in found.videos]
    assert nearest == [0.49, 0.42]
    names = {path.name for path in tmp_path.glob("*.mp4")}
    assert names == {entry.video for entry in found.videos}


def test_bytes_are_bounded(video: Path, tmp_path: Path) -> None:
    whole = opened(tmp_path / "whole")
    misses = [miss(2, 3, 0.42), miss(8, 9, 0.41), miss(14, 15, 0.40)]
    whole.add(video, misses, [])
    sizes = sorted(path.stat().st_size for path in (tmp_path / "whole").glob("*.mp4"))
    assert len(sizes) == 3
    limit = (sum(sizes) - sizes[0] / 2) / 1e6
    bounded = opened(tmp_path / "bounded", review_max_mb=limit)
    bounded.add(video, misses, [])
    assert len(bounded) == 2
    assert len(list((tmp_path / "bounded").glob("*.mp4"))) == 2
    none = opened(tmp_path / "none", review_max_mb=1e-6)
    none.add(video, misses, [])
    assert list((tmp_path / "none").iterdir()) == []


def test_a_clip_shows_all_that_is_in_it(video: Path, tmp_path: Path) -> None:
    """Two near misses that meet are one clip; one that hovers is cut around its peak."""
    review = opened(tmp_path, review_margin_seconds=5.0)
    review.add(video, [miss(8, 9, 0.45), miss(10, 11, 0.42, "b")], [])
    (entry,) = load_annotations(tmp_path / REVIEW_NAME).videos
    assert [found["label"] for found in entry.extra["suggestions"]] == ["a", "b"]
    long = NearMiss(stretch=event(0, 500, 0.45), threshold=0.5)
    (candidate,) = review._candidates([long])
    assert candidate.end - candidate.start == MAX_CLIP_SECONDS


def test_no_near_misses_no_files(video: Path, tmp_path: Path) -> None:
    review = opened(tmp_path)
    review.add(video, [], [])
    assert len(review) == 0
    assert list(tmp_path.iterdir()) == []


def test_a_video_that_is_gone_is_told(
    video: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    review = opened(tmp_path)
    review.add(tmp_path / "gone.mp4", [miss(1, 2)], [])
    assert "no clip for review: " in caplog.text
    assert "gone.mp4" in caplog.text
    review.add(video, [miss(1, 2)], [])
    assert len(review) == 1


def test_an_earlier_review_is_somebodys_work(tmp_path: Path) -> None:
    (tmp_path / REVIEW_NAME).write_text("{}")
    with pytest.raises(
        UsageError, match=r"holds an earlier review \(review\.json\); choose another folder"
    ):
        opened(tmp_path)
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(UsageError, match="no files can be written there"):
        opened(file / "review")
