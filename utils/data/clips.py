"""`ClipDataset` and `ClipSampler`: fixed-length training clips from videos of any length.

Which clip stands at which place of which epoch, and how it is augmented, is a function of (seed,
epoch, position) alone: no iterator carries state, so a run can be resumed anywhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from utils.config.schema import AugmentationConfig
from utils.data.augmentation import ClipAugmentation, generator_for, to_unit_range
from utils.data.video_inputs import VideoInputs
from utils.errors import AnnotationError

_CLIP, _AUGMENTATION = 0, 1
"""Separate random streams, so that another augmentation does not change which clips are drawn."""


class ClipPosition(NamedTuple):
    """A place in the run: what the sampler hands to the dataset."""

    epoch: int
    position: int


class Clip(NamedTuple):
    """One training clip, or a batch of them with a leading B.

    Attributes:
        inputs: Frames ``(T, C, S, S)`` float32 in [0, 1], or backbone features ``(T, R)`` float32.
        timestamps: ``(T,)`` float32 seconds from the clip's first frame.
        targets: ``(T, K)`` float32 in [0, 1].
        valid: ``(T,)`` bool; False on the padding behind a video shorter than the clip.
        video_index: Position of the video in the dataset.
        first_sample: ``sample_index`` of the clip's first frame.
    """

    inputs: Tensor
    timestamps: Tensor
    targets: Tensor
    valid: Tensor
    video_index: int
    first_sample: int


class ClipDataset(Dataset[Clip]):
    """Random clips, balanced between events and background.

    Args:
        videos: At least one.
        window_size: T, frames a clip.
        event_fraction: Share of clips that are placed on an event; which one is drawn by class
            first, so that a rare class is seen as often as a common one. The others are placed on
            background.
        augmentation: For frames; of backbone features, one of the cached copies is drawn instead.
        seed: Of the run.

    Raises:
        AnnotationError: No video has an event: there is nothing to learn.
    """

    def __init__(
        self,
        videos: Sequence[VideoInputs],
        *,
        window_size: int,
        event_fraction: float,
        augmentation: AugmentationConfig,
        seed: int,
    ) -> None:
        self.videos = tuple(videos)
        self._window_size = window_size
        self._event_fraction = event_fraction
        self._augmentation = augmentation
        self._seed = seed
        targets = np.concatenate([video.targets for video in self.videos])
        self._starts = np.cumsum([0] + [len(video) for video in self.videos])
        # Frame numbers run through all videos.
        self._frames_of_class = [
            found for column in targets.T if len(found := np.flatnonzero(column > 0))
        ]
        self._background = np.flatnonzero(~(targets > 0).any(axis=1))
        if not self._frames_of_class:
            raise AnnotationError(
                "no training video has an event that a sampled frame falls into; there is nothing "
                "to learn: check the annotations, or raise data.frame_sampling_rate"
            )

    @property
    def num_frames(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, place: ClipPosition) -> Clip:
        generator = generator_for(self._seed, place.epoch, place.position, _CLIP)
        video_index, first = self._place(generator)
        video = self.videos[video_index]
        changes = generator_for(self._seed, place.epoch, place.position, _AUGMENTATION)
        part = slice(first, min(first + self._window_size, len(video)))
        inputs = self._inputs(video, part, changes)
        length = len(inputs)
        # Relative in float64 first: float32 seconds of a long recording are coarser than a frame.
        timestamps = video.timestamps[part] - video.timestamps[first]
        padded = self._window_size - length
        return Clip(
            inputs=_pad(inputs, padded),
            timestamps=_pad(torch.from_numpy(timestamps.astype(np.float32)), padded),
            targets=_pad(torch.from_numpy(np.array(video.targets[part])), padded),
            valid=torch.arange(self._window_size) < length,
            video_index=video_index,
            first_sample=first,
        )

    def targets_at(self, place: ClipPosition) -> Tensor:
        """Targets of the clip at ``place``, padding left out, without reading its frames."""
        video_index, first = self._place(
            generator_for(self._seed, place.epoch, place.position, _CLIP)
        )
        targets = self.videos[video_index].targets[first : first + self._window_size]
        return torch.from_numpy(np.array(targets))

    def describe(self, clip: Clip, row: int) -> str:
        """Video and time of the clip in ``row`` of a batch, for error messages."""
        video = self.videos[int(torch.as_tensor(clip.video_index)[row])]
        first = int(torch.as_tensor(clip.first_sample)[row])
        return f"{video.video} at {video.timestamps[first]:.2f} s"

    def _place(self, generator: np.random.Generator) -> tuple[int, int]:
        """Draw the video and the clip's first frame in it."""
        is_event = generator.random() < self._event_fraction or not len(self._background)
        choices: NDArray[np.int64] = (
            self._frames_of_class[generator.integers(len(self._frames_of_class))]
            if is_event
            else self._background
        )
        frame = int(choices[generator.integers(len(choices))])
        video_index = int(np.searchsorted(self._starts, frame, side="right")) - 1
        length = len(self.videos[video_index])
        # The drawn frame lies anywhere in the clip, so that the model learns no favourite place.
        first = frame - int(self._starts[video_index]) - int(generator.integers(self._window_size))
        return video_index, max(0, min(first, length - self._window_size))

    def _inputs(self, video: VideoInputs, part: slice, changes: np.random.Generator) -> Tensor:
        is_features = video.inputs.dtype != np.uint8
        if is_features:
            choices = (video.inputs, *video.copies)
            chosen = (
                choices[changes.integers(len(choices))]
                if self._augmentation.enabled
                else (video.inputs)
            )
            return torch.from_numpy(np.array(chosen[part], np.float32))
        frames = torch.from_numpy(np.array(video.inputs[part]))
        if self._augmentation.enabled:
            frames = ClipAugmentation.draw(self._augmentation, changes).apply(frames)
        return to_unit_range(frames)


class ClipSampler(Sampler[ClipPosition]):
    """Places ``0 .. clips_per_epoch - 1`` of one epoch, or from ``first`` on.

    Args:
        clips_per_epoch: Length of an epoch.
    """

    def __init__(self, clips_per_epoch: int) -> None:
        self.clips_per_epoch = clips_per_epoch
        self.epoch = 0
        self.first = 0

    def set_position(self, epoch: int, first: int = 0) -> None:
        """Start the next iteration at place ``first`` of ``epoch``."""
        self.epoch = epoch
        self.first = first

    def __iter__(self) -> Iterator[ClipPosition]:
        for position in range(self.first, self.clips_per_epoch):
            yield ClipPosition(self.epoch, position)

    def __len__(self) -> int:
        # A run may be resumed with shorter epochs, beyond the end of the one it was stopped in.
        return max(0, self.clips_per_epoch - self.first)


def _pad(values: Tensor, num_frames: int) -> Tensor:
    """``num_frames`` rows of zeros behind ``values``."""
    if num_frames == 0:
        return values
    return torch.cat((values, values.new_zeros(num_frames, *values.shape[1:])))
