"""`ClipDataset`: fixed-length training clips from videos of any length.

Which clip stands at which place of which epoch, and how it is augmented, is a function of (seed,
epoch, position) alone: no iterator carries state, so a run can be resumed anywhere.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from utils.config.schema import AugmentationConfig
from utils.data.augmentation import ClipAugmentation, generator_for, to_unit_range
from utils.data.mapped_files import MappedFiles
from utils.data.video_inputs import VideoInputs
from utils.errors import AnnotationError


class RandomStream(enum.IntEnum):
    """Separate random streams of a place: another augmentation does not change which clip it is."""

    CLIP = 0
    AUGMENTATION = 1
    MIXUP = 2


class ClipPosition(NamedTuple):
    """A place in the run: what `ClipBatchSampler` hands to the dataset."""

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
        source: The annotation file, for messages.

    Raises:
        AnnotationError: No video has an event: there is nothing to learn.

    To index raises TrainingError where the cache entry of the clip's video is no longer as it was.
    """

    def __init__(
        self,
        videos: Sequence[VideoInputs],
        *,
        window_size: int,
        event_fraction: float,
        augmentation: AugmentationConfig,
        seed: int,
        source: str | None = None,
    ) -> None:
        self.videos = tuple(videos)
        self._window_size = window_size
        self._event_fraction = event_fraction
        self._augmentation = augmentation
        self._seed = seed
        self._is_never_padded = min(map(len, self.videos)) >= window_size
        self._files = MappedFiles(self.videos)
        targets = np.concatenate([video.targets for video in self.videos])
        self._starts = np.cumsum([0] + [len(video) for video in self.videos])
        # Frame numbers run through all videos. Soft borders reach 0.5 where the event begins.
        self._frames_of_class = [
            found for column in targets.T if len(found := np.flatnonzero(column >= 0.5))
        ]
        self._background = np.flatnonzero(~(targets >= 0.5).any(axis=1))
        if not self._frames_of_class:
            raise AnnotationError(
                f"{'' if source is None else f'{source}: '}no training video has an event that a "
                "sampled frame falls into; there is nothing to learn: check the annotations, or "
                "raise data.frame_sampling_rate"
            )

    @property
    def num_frames(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, place: ClipPosition) -> Clip:
        video_index, first = self._place(place)
        video = self.videos[video_index]
        self._files.check_unchanged(video_index)
        part = slice(first, min(first + self._window_size, len(video)))
        inputs = self._inputs(video, part, place)
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
        video_index, first = self._place(place)
        targets = self.videos[video_index].targets[first : first + self._window_size]
        return torch.from_numpy(np.array(targets))

    def num_valid_frames(self, epoch: int, places: range) -> int:
        """Frames of the clips at ``places`` of an epoch, padding left out, without reading them."""
        if self._is_never_padded:
            return len(places) * self._window_size
        return sum(
            min(self._window_size, len(self.videos[self._place(ClipPosition(epoch, place))[0]]))
            for place in places
        )

    def describe(self, clip: Clip, row: int) -> str:
        """Video and time of the clip in ``row`` of a batch, for error messages."""
        video = self.videos[int(torch.as_tensor(clip.video_index)[row])]
        first = int(torch.as_tensor(clip.first_sample)[row])
        return f"{video.video} at {video.timestamps[first]:.2f} s"

    def _place(self, place: ClipPosition) -> tuple[int, int]:
        """Draw the video and the clip's first frame in it."""
        generator = generator_for(self._seed, place.epoch, place.position, RandomStream.CLIP)
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

    def _inputs(self, video: VideoInputs, part: slice, place: ClipPosition) -> Tensor:
        is_features = video.inputs.dtype != np.uint8
        inputs = video.inputs
        draw: ClipAugmentation | None = None
        # A generator takes as long as all else that is done for a clip of features.
        if self._augmentation.enabled and (video.copies or not is_features):
            key = (place.epoch, place.position, RandomStream.AUGMENTATION)
            changes = generator_for(self._seed, *key)
            if is_features:
                choices = (video.inputs, *video.copies)
                inputs = choices[changes.integers(len(choices))]
            else:
                draw = ClipAugmentation.draw(self._augmentation, changes)
        if is_features:
            return torch.from_numpy(np.array(inputs[part], np.float32))
        frames = torch.from_numpy(np.array(inputs[part]))
        return to_unit_range(frames if draw is None else draw.apply(frames))


def _pad(values: Tensor, num_frames: int) -> Tensor:
    """``num_frames`` rows of zeros behind ``values``."""
    if num_frames == 0:
        return values
    return torch.cat((values, values.new_zeros(num_frames, *values.shape[1:])))
