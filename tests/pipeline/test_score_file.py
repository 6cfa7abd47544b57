"""Saved scores: round trip, and that no damaged file is taken for a sound one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.score_file import SavedScores, ScoreWriter
from utils.errors import UsageError
from utils.events.records import FrameScore

METADATA: dict[str, Any] = {
    "video_path": "dir/vidéo.mp4",
    "model": {"checkpoint": "c.pt"},
    "sampling": {"sampling_fps": 3.0},
    "threshold": 0.5,
    "candidate_threshold": 0.1,
    "context_seconds": 2.0,
    "max_gap_seconds": 3.0,
    "source": {"duration_seconds": 12.5},
    "loss": {"num_corrupt_packets": 2, "lost_seconds": 0.5, "notes": ["two packets"]},
}

WHOLE = {"format_version": 1, **METADATA}


def frame(index: int, temporal: list[float] | None) -> FrameScore:
    return FrameScore(
        sample_index=index,
        frame_index=10 * index,
        timestamp=index / 3,
        trigger=np.array([0.25, index / 10], np.float32),
        temporal=None if temporal is None else np.array(temporal, np.float32),
    )


def write(path: Path, frames: list[FrameScore], **changes: Any) -> Path:
    with ScoreWriter(path, ("a", "b")) as writer:
        for one in frames:
            writer.add(one)
        writer.finish({**METADATA, **changes})
    return path


def test_round_trip(tmp_path: Path) -> None:
    frames = [frame(0, None), frame(1, [0.5, 1.0]), frame(2, [0.0, 0.125]), frame(3, None)]
    scores = SavedScores.read(write(tmp_path / "a.scores.npz", frames))
    assert scores.labels == ("a", "b")
    assert len(scores) == 4
    for read, written in zip(scores.frames(), frames, strict=True):
        assert read.sample_index == written.sample_index
        assert read.frame_index == written.frame_index
        assert read.timestamp == written.timestamp
        np.testing.assert_array_equal(read.trigger, written.trigger)
        np.testing.assert_array_equal(read.confidence, written.confidence)
        assert (read.temporal is None) == (written.temporal is None)
    assert scores.video_path == "dir/vidéo.mp4"
    assert scores.source_duration_seconds == 12.5
    assert scores.loss.notes == ["two packets"]
    assert list(tmp_path.iterdir()) == [tmp_path / "a.scores.npz"]


def test_no_frame(tmp_path: Path) -> None:
    scores = SavedScores.read(write(tmp_path / "a.scores.npz", []))
    assert list(scores.frames()) == []


def test_plain_numpy_reads_it(tmp_path: Path) -> None:
    path = write(tmp_path / "a.scores.npz", [frame(0, None)])
    with np.load(path, allow_pickle=False) as archive:
        assert archive["trigger"].dtype == np.float32
        assert np.isnan(archive["temporal"]).all()
        assert archive["timestamp"].dtype == np.float64
        assert archive["frame_index"].dtype == np.int64
        assert json.loads(str(archive["metadata"]))["format_version"] == 1


def test_interrupted_writer_leaves_nothing(tmp_path: Path) -> None:
    with ScoreWriter(tmp_path / "a.scores.npz", ("a", "b")) as writer:
        writer.add(frame(0, None))
    assert list(tmp_path.iterdir()) == []


def test_thresholds_of_each_class(tmp_path: Path) -> None:
    path = write(tmp_path / "a.scores.npz", [frame(0, None)], threshold={"b": 0.2, "a": 0.1})
    assert SavedScores.read(path).threshold == (0.1, 0.2)


def rewrite(path: Path, **changes: Any) -> None:
    with np.load(path) as archive:
        arrays = {name: archive[name] for name in archive}
    arrays.update(changes)
    with path.open("wb") as file:
        np.savez(file, **arrays)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"timestamp": np.array([0.0, 0.0, 1.0])}, "damaged: its timestamps do not rise"),
        ({"timestamp": np.array([0.0, 1.0])}, r"damaged: frame_index is \(3,\) where \(2,\) is"),
        ({"trigger": np.zeros((3, 3), np.float32)}, r"damaged: trigger is \(3, 3\) where \(3, 2\)"),
        ({"trigger": np.full((3, 2), np.nan, np.float32)}, "trigger holds what is no probability"),
        ({"temporal": np.full((3, 2), 1.5, np.float32)}, "temporal holds what is no probability"),
        (
            {"temporal": np.array([[0.5, np.nan]] * 3, np.float32)},
            "temporal holds what is no probability",
        ),
        ({"metadata": np.array("[]")}, "format version None, and this program reads 1"),
        ({"metadata": np.array("{")}, "not a score file, or damaged"),
        (
            {"metadata": np.array('{"format_version": 2}')},
            "format version 2, and this program reads 1",
        ),
        ({"metadata": np.array('{"format_version": 1}')}, "its metadata lacks video_path, model"),
        (
            {"metadata": np.array(json.dumps({**WHOLE, "threshold": {"a": 0.5, "c": 0.1}}))},
            r"damaged: its threshold names 'c', which is no class of the model; its classes: a, b",
        ),
        ({"labels": np.array([{}], dtype=object)}, "not a score file, or damaged"),
    ],
)
def test_damage_is_found(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = write(tmp_path / "a.scores.npz", [frame(0, None), frame(1, None), frame(2, [0, 1])])
    rewrite(path, **changes)
    with pytest.raises(UsageError, match=message):
        SavedScores.read(path)


@pytest.mark.parametrize("content", [b"", b"no archive at all", b"PK\x03\x04 cut off"])
def test_not_a_score_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.scores.npz"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"a\.scores\.npz: not a score file, or damaged"):
        SavedScores.read(path)


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"gone\.scores\.npz: no such score file"):
        SavedScores.read(tmp_path / "gone.scores.npz")
