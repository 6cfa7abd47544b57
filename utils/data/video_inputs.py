"""`VideoInputs`: what a model reads of one annotated video, and the two ways to get it from disk.

`load_frames` decodes once and caches the processed frames; `load_features` runs them through a
frozen backbone once and caches what comes out, so that training touches neither decoder nor
backbone again.
"""

from __future__ import annotations

import itertools
import logging
import zlib
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from utils.config.schema import DataConfig
from utils.data.annotations import AnnotatedEvent, VideoAnnotation, frame_targets
from utils.data.array_cache import ArrayCache, CacheEntry, CacheError, file_hash
from utils.errors import EmptyVideoError
from utils.video.decoders.file_checks import check_file
from utils.video.processor import VideoProcessor
from utils.video.sampler import FrameSampler, SampledFrame
from utils.video.source import VideoSource

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

_CHUNK_FRAMES = 16
_ENTRY_VERSION = 3
"""Part of every key: raised whenever the same settings would give other pixels or side arrays."""

_Time = tuple[float, int]
"""Timestamp in seconds and frame_index of one sample."""

_Chunk = tuple["torch.Tensor", list[_Time]]
"""Processed frames ``(T, C, S, S)`` uint8, and the time of each."""

EncodeChunk = Callable[["torch.Tensor", int], NDArray[np.float32]]
"""``(frames (T, C, S, S) uint8, draw) -> backbone features (T, R)``; draw 0 is plain, any other
number stands for the one augmentation of a copy."""


@dataclass(kw_only=True)
class _Shortfall:
    """What a video could not give; complete after its last chunk.

    Attributes:
        notes: One sentence per kind of loss.
        is_unfinished: Whether the decoder gave up, so that another try may give more.
    """

    notes: list[str] = field(default_factory=list)
    is_unfinished: bool = False


@dataclass(frozen=True, kw_only=True)
class VideoInputs:
    """One video as arrays.

    Attributes:
        video: Its name in the annotations.
        inputs: Frames ``(T, C, S, S)`` uint8, or backbone features ``(T, R)`` float32.
        copies: Augmented copies of ``inputs``; empty for frames, which are augmented on the fly.
        timestamps: ``(T,)`` float64 seconds.
        frame_indices: ``(T,)`` int64 positions in the source.
        targets: ``(T, K)`` float32, 0 or 1; with soft borders in [0, 1].
        events: The ground truth.
        group: As annotated.

    Raises:
        ValueError: The arrays are not of one length, or empty.
    """

    video: str
    inputs: NDArray[Any]
    copies: tuple[NDArray[Any], ...]
    timestamps: NDArray[np.float64]
    frame_indices: NDArray[np.int64]
    targets: NDArray[np.float32]
    events: tuple[AnnotatedEvent, ...]
    group: str | None

    def __post_init__(self) -> None:
        lengths = {
            len(array)
            for array in (
                self.inputs,
                *self.copies,
                self.timestamps,
                self.frame_indices,
                self.targets,
            )
        }
        if len(lengths) != 1 or 0 in lengths:
            raise ValueError(f"{self.video}: arrays of {sorted(lengths)} frames")

    def __len__(self) -> int:
        return len(self.timestamps)


class VideoInputsLoader:
    """Makes `VideoInputs`, through the cache where there is one.

    Args:
        config: Sampling, preprocessing and cache folder.
        labels: K class names, in the model's order.
        neighbor_offsets_seconds: What the encoder's motion images want; see `FrameSampler`.
        soft_border_seconds: Of the targets; see `frame_targets`. For training alone: metrics are
            measured on hard ones.
        read_ahead: Put around what is decoded for features, such as
            `pipeline.executor.prefetch`: the next frames are decoded while these are encoded.
    """

    def __init__(
        self,
        config: DataConfig,
        labels: Sequence[str],
        *,
        neighbor_offsets_seconds: Sequence[float] = (),
        soft_border_seconds: float = 0.0,
        read_ahead: Callable[[Iterator[_Chunk]], Iterator[_Chunk]] = iter,
    ) -> None:
        self._config = config
        self._read_ahead = read_ahead
        self._soft_border_seconds = soft_border_seconds
        self._labels = tuple(labels)
        self._offsets = tuple(neighbor_offsets_seconds)
        self._sampler = FrameSampler(
            config.frame_sampling_rate,
            max_frames=config.max_frames,
            neighbor_offsets_seconds=self._offsets,
            decoder=config.decoder,
            short_side=config.decode_short_side,
            is_sparse=config.skip_nonref_frames,
        )
        self._processor = VideoProcessor(config.image_size, resize_mode=config.resize_mode)
        max_gb = config.cache_max_gb
        self._cache = (
            None
            if config.cache_dir is None
            else ArrayCache(
                config.cache_dir, max_bytes=None if max_gb is None else round(max_gb * 1e9)
            )
        )

    def load_frames(self, video: VideoAnnotation) -> VideoInputs:
        """Processed frames of ``video``; in memory where there is no cache.

        Raises:
            VideoError: The video cannot be used.
        """
        lost = _Shortfall()
        if self._cache is None:
            chunks = list(self._chunks(video, lost))
            frames = np.concatenate([frames.numpy() for frames, _ in chunks])
            side = _side_arrays([time for _, times in chunks for time in times], lost)
            return self._from_entry(video, CacheEntry(data=frames, side=side), frames, ())
        entry = self._entry(
            video,
            self._cache,
            {**self._key(video), "content": "frames"},
            ((frames.numpy(), times) for frames, times in self._chunks(video, lost)),
            lost,
        )
        return self._from_entry(video, entry, entry.data, ())

    def load_features(
        self, video: VideoAnnotation, encode: EncodeChunk, *, encoder_key: str, num_copies: int = 0
    ) -> VideoInputs:
        """Backbone features of ``video``, and of ``num_copies`` augmented copies of it.

        Args:
            video: Which.
            encode: Runs one chunk of frames through the frozen backbone.
            encoder_key: Changes whenever ``encode`` would give other features.
            num_copies: Augmented copies beside the plain one.

        Raises:
            VideoError: The video cannot be used.
        """
        assert self._cache is not None, "the config holds that cached features have a cache_dir"
        key = {
            **self._key(video),
            "content": "features",
            "encoder": encoder_key,
            "num_copies": num_copies,
        }
        if num_copies:
            from utils.data.augmentation import AUGMENTATION_VERSION

            key["augmentation_version"] = AUGMENTATION_VERSION
        draws = [0, *(draw_number(key["video"], copy) for copy in range(1, num_copies + 1))]
        lost = _Shortfall()
        rows = (
            (np.stack([encode(frames, draw) for draw in draws], axis=1), times)
            for frames, times in self._read_ahead(self._chunks(video, lost))
        )
        entry = self._entry(video, self._cache, key, rows, lost)
        return self._from_entry(
            video,
            entry,
            entry.data[:, 0],
            tuple(entry.data[:, copy] for copy in range(1, num_copies + 1)),
        )

    def _entry(
        self,
        video: VideoAnnotation,
        cache: ArrayCache,
        key: Mapping[str, Any],
        chunks: Generator[tuple[NDArray[Any], list[_Time]]],
        lost: _Shortfall,
    ) -> CacheEntry:
        """The entry of ``key``, made from ``chunks``, which fill ``lost``, where there is none.

        One that a decoder broke off is made anew by the next run. Where it is broken off again it
        is the file's fault, and what there is stays.
        """
        entry = cache.get(key)
        if entry is None:
            with cache.create(key) as writer:
                times: list[_Time] = []
                for rows, chunk_times in chunks:
                    writer.append(rows)
                    times += chunk_times
                writer.side.update(_side_arrays(times, lost))
                writer.is_provisional = lost.is_unfinished and not writer.is_retry
                if writer.is_provisional:
                    logger.warning(
                        "%s: the next run will read it again, in the hope that its decoder gets "
                        "further then",
                        video.path,
                    )
            entry = cache.get(key)
        if entry is None:
            raise CacheError(
                f"{cache.folder}: what was just written cannot be read back; is the disk sound?"
            )
        return entry

    def _key(self, video: VideoAnnotation) -> dict[str, Any]:
        config = self._config
        # First, so that a missing file has the error that opening it would give.
        check_file(str(video.path))
        content = file_hash(video.path)
        return {
            "version": _ENTRY_VERSION,
            "video": content,
            "fps": config.frame_sampling_rate,
            "max_frames": config.max_frames,
            "neighbor_offsets_seconds": list(self._offsets),
            "decoder": config.decoder,
            "decode_short_side": config.decode_short_side,
            "skip_nonref_frames": config.skip_nonref_frames,
            "image_size": config.image_size,
            "resize_mode": config.resize_mode,
        }

    def _chunks(self, video: VideoAnnotation, lost: _Shortfall) -> Iterator[_Chunk]:
        """Decode; after the last chunk ``lost`` says what the file could not give."""
        with VideoSource.open(video.path, decoder=self._config.decoder) as source:
            samples = self._sampler.stream(source)
            is_empty = True
            while chunk := list(itertools.islice(samples, _CHUNK_FRAMES)):
                is_empty = False
                times = [(sample.timestamp, sample.frame_index) for sample in chunk]
                yield self._processor.process_uint8(stack_samples(chunk)), times
            if is_empty:
                raise EmptyVideoError(video.path, "no frame could be sampled")
            lost.notes += source.loss.notes
            lost.is_unfinished = source.gave_up
            if self._config.skip_nonref_frames:
                logger.info("%s: %s", video.path, source.skipping)

    def _from_entry(
        self,
        video: VideoAnnotation,
        entry: CacheEntry,
        inputs: NDArray[Any],
        copies: tuple[NDArray[Any], ...],
    ) -> VideoInputs:
        timestamps = entry.side["timestamps"]
        # Each time, not only when it is decoded: later runs train on what is left, too.
        if lost := entry.side["lost"].tolist():
            logger.warning("%s: %s", video.path, "; ".join(lost))
        return VideoInputs(
            video=video.video,
            inputs=inputs,
            copies=copies,
            timestamps=timestamps,
            frame_indices=entry.side["frame_indices"],
            targets=self._targets(video, timestamps),
            events=video.events,
            group=video.group,
        )

    def _targets(
        self, video: VideoAnnotation, timestamps: NDArray[np.float64]
    ) -> NDArray[np.float32]:
        return frame_targets(
            video.events,
            self._labels,
            timestamps,
            point_radius_seconds=self._config.point_radius_seconds,
            soft_border_seconds=self._soft_border_seconds,
        )


def draw_number(content: str, copy: int) -> int:
    """The number that a copy's augmentation is drawn from: another for each video and copy.

    Args:
        content: Hash of the video's bytes, so that neither its name nor its place in a list
            matters.
        copy: From 1.
    """
    return 1 + zlib.crc32(f"{content} {copy}".encode())


def stack_samples(samples: Sequence[SampledFrame]) -> NDArray[np.uint8]:
    """``(T, H, W, 3)``, or with neighbours ``(T, 1 + 2S, H, W, 3)``, for `VideoProcessor`."""
    if not samples[0].neighbors:
        return np.stack([sample.image for sample in samples])
    return np.stack([np.stack((sample.image, *sample.neighbors)) for sample in samples])


def _side_arrays(times: Sequence[_Time], lost: _Shortfall) -> dict[str, NDArray[Any]]:
    return {
        "timestamps": np.array([timestamp for timestamp, _ in times], np.float64),
        "frame_indices": np.array([frame_index for _, frame_index in times], np.int64),
        "lost": np.array(lost.notes, np.str_),
    }
