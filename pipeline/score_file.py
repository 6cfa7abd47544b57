"""Saved scores: what every frame scored, so that another threshold needs no second decode.

``NAME.scores.npz`` is a NumPy archive without pickled objects::

    timestamp    (T,)   float64  seconds
    frame_index  (T,)   int64    position in the source
    trigger      (T, K) float32  probabilities of the trigger head
    temporal     (T, K) float32  probabilities of the temporal encoder; NaN where it did not look
    labels       (K,)   str
    metadata     ()     str      JSON: format_version, video_path, model, sampling, thresholds, ...;
                                 ``config``: how events were made (absent in older files)
"""

from __future__ import annotations

import json
import os
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from utils.errors import UsageError
from utils.events.records import FrameScore
from utils.thresholds import Threshold, in_order
from utils.video.source import DecodeLoss

SCORES_SUFFIX = ".scores.npz"
FORMAT_VERSION = 1
_ARRAYS = ("timestamp", "frame_index", "trigger", "temporal")
_METADATA_KEYS = (
    "video_path",
    "model",
    "sampling",
    "threshold",
    "candidate_threshold",
    "context_seconds",
    "max_gap_seconds",
    "source",
    "loss",
)


class ScoreWriter:
    """Writes scores to disk as they come; memory does not grow with the video.

    Rows go to an unnamed file beside ``path``; `finish` makes the archive of them.

    Args:
        path: The archive.
        labels: K class names.
    """

    def __init__(self, path: Path, labels: tuple[str, ...]) -> None:
        self._path = path
        self._labels = labels
        num_classes = len(labels)
        self._row = np.dtype(
            [
                ("timestamp", "<f8"),
                ("frame_index", "<i8"),
                ("trigger", "<f4", (num_classes,)),
                ("temporal", "<f4", (num_classes,)),
            ]
        )
        self._num_rows = 0
        self._file = tempfile.TemporaryFile(dir=path.parent)  # noqa: SIM115 - closed by `close`

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Drop the rows. After `finish` the archive stays."""
        self._file.close()

    def add(self, score: FrameScore) -> None:
        """Take the next frame."""
        row = np.zeros((), self._row)
        row["timestamp"] = score.timestamp
        row["frame_index"] = score.frame_index
        row["trigger"] = score.trigger
        row["temporal"] = np.nan if score.temporal is None else score.temporal
        self._file.write(row.tobytes())
        self._num_rows += 1

    def finish(self, metadata: Mapping[str, Any]) -> None:
        """Write the archive.

        Args:
            metadata: See the module; ready for JSON.
        """
        self._file.flush()
        rows: NDArray[Any] = (
            np.memmap(self._file, self._row, "r", shape=(self._num_rows,))
            if self._num_rows
            else np.zeros(0, self._row)
        )
        plain = {"format_version": FORMAT_VERSION, **metadata}
        with zipfile.ZipFile(self._path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in _ARRAYS:
                _add_array(archive, name, rows[name])
            _add_array(archive, "labels", np.array(self._labels))
            _add_array(archive, "metadata", np.array(json.dumps(plain, allow_nan=False)))


def _add_array(archive: zipfile.ZipFile, name: str, array: NDArray[Any]) -> None:
    with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
        np.lib.format.write_array(file, array, allow_pickle=False)


@dataclass(frozen=True, kw_only=True, eq=False)
class SavedScores:
    """A score file that was read and checked.

    Attributes:
        path: Of the file.
        labels: K class names.
        timestamps: ``(T,)`` seconds, rising.
        frame_indices: ``(T,)``.
        trigger: ``(T, K)`` probabilities.
        temporal: ``(T, K)`` probabilities; NaN where the temporal encoder did not look.
        metadata: Where the scores come from, and with which settings.
    """

    path: Path
    labels: tuple[str, ...]
    timestamps: NDArray[np.float64]
    frame_indices: NDArray[np.int64]
    trigger: NDArray[np.float32]
    temporal: NDArray[np.float32]
    metadata: Mapping[str, Any]

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Self:
        """Read a score file.

        Raises:
            UsageError: It is missing, damaged, or no score file; the message says what is wrong.
        """
        path = Path(path)
        try:
            # Opened here: NumPy leaves a file open in which it finds no archive.
            with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in _ARRAYS}
                labels = tuple(str(label) for label in archive["labels"])
                metadata = json.loads(str(archive["metadata"]))
        except FileNotFoundError:
            raise UsageError(f"{path}: no such score file") from None
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
            raise UsageError(
                f"{path}: not a score file, or damaged ({error}); --save-scores writes one"
            ) from error
        _check_metadata(path, metadata, labels)
        _check_arrays(path, arrays, len(labels))
        return cls(
            path=path,
            labels=labels,
            timestamps=arrays["timestamp"],
            frame_indices=arrays["frame_index"],
            trigger=arrays["trigger"],
            temporal=arrays["temporal"],
            metadata=metadata,
        )

    def __len__(self) -> int:
        return len(self.timestamps)

    @property
    def video_path(self) -> str:
        """The video that was scored, as it was given then."""
        return str(self.metadata["video_path"])

    @property
    def threshold(self) -> Threshold:
        """Of the run that saved the scores."""
        return in_order(self.metadata["threshold"], self.labels)

    @property
    def candidate_threshold(self) -> float:
        """Of the run that saved the scores."""
        return float(self.metadata["candidate_threshold"])

    @property
    def max_gap_seconds(self) -> float:
        """A larger jump between frames is a hole."""
        return float(self.metadata["max_gap_seconds"])

    @property
    def source_duration_seconds(self) -> float | None:
        """As the video's container claimed."""
        duration = self.metadata["source"]["duration_seconds"]
        return None if duration is None else float(duration)

    @property
    def loss(self) -> DecodeLoss:
        """What the video lost when it was decoded."""
        return DecodeLoss(**self.metadata["loss"])

    def frames(self) -> Iterator[FrameScore]:
        """The records, in order."""
        is_scored: NDArray[np.bool_] = ~np.isnan(self.temporal[:, 0])
        for index in range(len(self)):
            yield FrameScore(
                sample_index=index,
                frame_index=int(self.frame_indices[index]),
                timestamp=float(self.timestamps[index]),
                trigger=self.trigger[index],
                temporal=self.temporal[index] if is_scored[index] else None,
            )

    def lacks(self, timestamp: float) -> UsageError:
        """The error for settings that need a temporal score which is not there."""
        return UsageError(
            f"{self.path}: holds no temporal score at {timestamp:.2f} s; it was saved with "
            f"candidate_threshold {self.candidate_threshold:g} and context_seconds "
            f"{self.metadata['context_seconds']:g}. A lower candidate threshold or more context "
            "needs the video: run with --video and --save-scores"
        )


def _check_metadata(path: Path, metadata: Any, labels: tuple[str, ...]) -> None:
    if not isinstance(metadata, dict) or metadata.get("format_version") != FORMAT_VERSION:
        version = metadata.get("format_version") if isinstance(metadata, dict) else None
        raise UsageError(
            f"{path}: format version {version}, and this program reads {FORMAT_VERSION}"
        )
    missing = [key for key in _METADATA_KEYS if key not in metadata]
    if missing:
        raise UsageError(f"{path}: damaged: its metadata lacks {', '.join(missing)}")
    try:
        in_order(metadata["threshold"], labels)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{path}: damaged: its threshold {error}") from error


def _check_arrays(path: Path, arrays: Mapping[str, NDArray[Any]], num_classes: int) -> None:
    num_frames = len(arrays["timestamp"]) if arrays["timestamp"].ndim else -1
    shapes = {
        "timestamp": (num_frames,),
        "frame_index": (num_frames,),
        "trigger": (num_frames, num_classes),
        "temporal": (num_frames, num_classes),
    }
    for name, shape in shapes.items():
        if arrays[name].shape != shape:
            raise UsageError(
                f"{path}: damaged: {name} is {arrays[name].shape} where {shape} is expected"
            )
    if not np.all(np.diff(arrays["timestamp"]) > 0):
        raise UsageError(f"{path}: damaged: its timestamps do not rise")
    for name in ("trigger", "temporal"):
        scores = arrays[name]
        is_allowed = (scores >= 0) & (scores <= 1)
        if name == "temporal":
            is_allowed |= np.isnan(scores).all(axis=1, keepdims=True)
        if not np.all(is_allowed):
            raise UsageError(f"{path}: damaged: {name} holds what is no probability")
