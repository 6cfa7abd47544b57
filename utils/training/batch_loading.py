"""`BatchLoader`: the batches of one process, read ahead by loader workers, onto the device."""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

import torch
from torch.utils.data import DataLoader, Dataset, default_collate
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from utils.data.clip_batches import ClipBatchSampler, EpochPlan
from utils.data.clips import Clip, ClipDataset, ClipPosition
from utils.errors import TrainingError
from utils.training.processes import Processes
from utils.training.stopping import leave_signals_to_parent
from utils.training.updates import Batch


class BatchLoader:
    """Reads the clips of updates; its workers live until the end of its ``with`` block.

    Args:
        dataset: Clips by place.
        plan: How an epoch is cut.
        processes: Of which this one takes its share.
        num_workers: 0: this process reads.
        device: For the batches.
    """

    def __init__(
        self,
        dataset: ClipDataset,
        plan: EpochPlan,
        *,
        processes: Processes,
        num_workers: int,
        device: torch.device,
    ) -> None:
        self._dataset = dataset
        self._plan = plan
        self._processes = processes
        self._device = device
        self._sampler = ClipBatchSampler(plan, process=processes.index)
        self._loader = DataLoader(
            _BatchDataset(dataset),
            batch_size=None,
            sampler=self._sampler,
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            pin_memory=device.type == "cuda",
            collate_fn=_as_it_is,
            worker_init_fn=leave_signals_to_parent,
            # Its own: the default takes the base seed of workers from the global generator, and a
            # resumed epoch would draw once more than one that was never stopped.
            generator=torch.Generator().manual_seed(0),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # torch has no name for it, and does it when the iterator is garbage. Where an error holds
        # that, its queues may go first, and then each worker is waited for in vain.
        iterator = self._loader._iterator
        if isinstance(iterator, _MultiProcessingDataLoaderIter):
            iterator._shutdown_workers()

    def updates(self, epoch: int, first: int) -> Iterator[tuple[range, int, Iterator[Batch]]]:
        """The updates of an epoch from place ``first`` on.

        Yields:
            Places of the update, its number of valid frames over all processes, and its batches,
            which are to be used up before the next one.
        """
        self._sampler.set_position(epoch, first)
        clips = self._clips()
        for update in self._plan.updates(first):
            yield (
                update,
                self._dataset.num_valid_frames(epoch, update),
                self._batches(epoch, update, clips),
            )

    def _batches(self, epoch: int, update: range, clips: Iterator[Clip]) -> Iterator[Batch]:
        for places in self._plan.batches(update):
            own = self._plan.share(places, self._processes.index)
            yield Batch(
                clip=next(clips),
                epoch=epoch,
                place=own[0] if own else places[-1],
                is_idle=not own,
                is_last=places[-1] == update[-1],
            )

    def _clips(self) -> Iterator[Clip]:
        try:
            for found in self._loader:
                if isinstance(found, TrainingError):
                    raise found
                yield Clip(*(value.to(self._device, non_blocking=True) for value in found))
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise TrainingError(
                f"a process that reads clips was ended ({str(error).splitlines()[0]:.120}), for "
                "lack of memory perhaps: lower data.num_workers or training.batch_size, and go on "
                "with --resume latest"
            ) from error


class _BatchDataset(Dataset[Clip | TrainingError]):
    """Whole batches by their places; an error is handed over, so that it keeps its own words.

    Raised in a worker, it would come with the worker's traceback for a message.
    """

    def __init__(self, dataset: ClipDataset) -> None:
        self._dataset = dataset

    def __getitem__(self, places: list[ClipPosition]) -> Clip | TrainingError:
        try:
            batch: Clip = default_collate([self._dataset[place] for place in places])
        except TrainingError as error:
            return error
        return batch


def _as_it_is(batch: Any) -> Any:
    return batch
