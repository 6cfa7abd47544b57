"""Batches as the trainer gets them: the clips of their places, with and without loader workers."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest
import torch

from tiny_trainer import WINDOW, video
from utils.config.schema import AugmentationConfig
from utils.data.clip_batches import EpochPlan
from utils.data.clips import Clip, ClipDataset, ClipPosition
from utils.errors import TrainingError
from utils.training.batch_loading import BatchLoader
from utils.training.processes import Processes
from utils.training.updates import Batch

PLAN = EpochPlan(clips_per_epoch=11, batch_size=2, accumulation=2)


def make_dataset() -> ClipDataset:
    return ClipDataset(
        [video("a.mp4", 20, seed=0), video("b.mp4", 3, seed=1)],
        window_size=WINDOW,
        event_fraction=0.5,
        augmentation=AugmentationConfig(),
        seed=0,
    )


def make_loader(
    dataset: ClipDataset, *, num_workers: int = 0, plan: EpochPlan = PLAN, index: int = 0
) -> BatchLoader:
    return BatchLoader(
        dataset,
        plan,
        processes=Processes(index=index, count=plan.num_processes),
        num_workers=num_workers,
        device=torch.device("cpu"),
    )


def check_clips(dataset: ClipDataset, batch: Batch) -> None:
    for row in range(len(batch.clip.valid)):
        clip = dataset[ClipPosition(batch.epoch, batch.place + row)]
        for name, value in clip._asdict().items():
            got = getattr(batch.clip, name)[row]
            assert torch.equal(got, torch.as_tensor(value)), (name, batch.place + row)


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("first", [0, 4, 8])
def test_batches_hold_the_clips_of_their_places(first: int, num_workers: int) -> None:
    dataset = make_dataset()
    with make_loader(dataset, num_workers=num_workers) as loader:
        # Twice: workers live on from one epoch to the next.
        for epoch in (2, 3):
            place = first
            for places, num_frames, batches in loader.updates(epoch, first):
                assert places[0] == place
                assert num_frames == dataset.num_valid_frames(epoch, places)
                for batch in batches:
                    assert (batch.epoch, batch.place, batch.is_idle) == (epoch, place, False)
                    check_clips(dataset, batch)
                    place += len(batch.clip.valid)
                    assert batch.is_last == (place == places[-1] + 1)
            assert place == 11


def test_a_process_without_a_clip_computes_along() -> None:
    plan = EpochPlan(clips_per_epoch=5, batch_size=2, num_processes=2)
    (_, _, first), (_, _, second) = [
        (places, num_frames, list(batches))
        for places, num_frames, batches in make_loader(make_dataset(), plan=plan, index=1).updates(
            0, 0
        )
    ]
    assert [(b.place, b.is_idle, len(b.clip.valid)) for b in first] == [(2, False, 2)]
    assert [(b.place, b.is_idle, len(b.clip.valid)) for b in second] == [(4, True, 1)]


class _Killing(ClipDataset):
    """A worker that the system ends, as it does for want of memory."""

    def __getitem__(self, place: ClipPosition) -> Clip:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError


def test_a_worker_that_is_killed_is_said() -> None:
    dataset: Any = make_dataset()
    dataset.__class__ = _Killing
    loader = make_loader(dataset, num_workers=1)
    with loader, pytest.raises(TrainingError) as caught:
        [list(batches) for _, _, batches in loader.updates(0, 0)]
    assert "a process that reads clips was ended (DataLoader worker (pid" in str(caught.value)
    assert "lower data.num_workers or training.batch_size, and go on with" in str(caught.value)
