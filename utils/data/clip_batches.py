"""`EpochPlan` and `ClipBatchSampler`: how the clips of an epoch become updates and batches.

Between `ClipDataset`, which knows the clip at every place, and the trainer. Updates take the places
of an epoch in turn and each process takes its rows of every batch, so the order of clips is the
same for any number of processes, and where a run stands in an epoch is one number: clips done.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch.utils.data import Sampler

from utils.data.clips import ClipPosition


@dataclass(frozen=True, kw_only=True)
class EpochPlan:
    """Cuts an epoch into updates, these into batches, and a batch into the shares of processes.

    Attributes:
        clips_per_epoch: Places ``0 .. clips_per_epoch - 1``.
        batch_size: Clips that one process takes at once.
        accumulation: Batches of an update.
        num_processes: That train together; a batch is ``num_processes * batch_size`` clips.
    """

    clips_per_epoch: int
    batch_size: int
    accumulation: int = 1
    num_processes: int = 1

    @property
    def clips_per_batch(self) -> int:
        return self.batch_size * self.num_processes

    @property
    def clips_per_update(self) -> int:
        return self.clips_per_batch * self.accumulation

    def num_updates(self, first: int = 0) -> int:
        """Updates from place ``first`` to the end of the epoch."""
        return -(-max(0, self.clips_per_epoch - first) // self.clips_per_update)

    def updates(self, first: int = 0) -> Iterator[range]:
        """Places of each update from ``first`` on; the last may be smaller."""
        return _parts(range(first, self.clips_per_epoch), self.clips_per_update)

    def batches(self, update: range) -> Iterator[range]:
        """Places of each batch of an update, all processes together; the last may be smaller."""
        return _parts(update, self.clips_per_batch)

    def share(self, batch: range, process: int) -> range:
        """Places that ``process``, from 0, takes of ``batch``; none where a short one ends."""
        return batch[process * self.batch_size : (process + 1) * self.batch_size]


def _parts(places: range, size: int) -> Iterator[range]:
    return (places[start : start + size] for start in range(0, len(places), size))


class ClipBatchSampler(Sampler[list[ClipPosition]]):
    """The batches of one process, from a place of an epoch to its end.

    A process that a short batch has no clip for gets the batch's last one: it must take part in the
    exchange of gradients, to which the trainer lets it add nothing.

    Args:
        plan: Of every epoch.
        process: Whose share; from 0.
    """

    def __init__(self, plan: EpochPlan, *, process: int = 0) -> None:
        self._plan = plan
        self._process = process
        self._epoch = 0
        self._first = 0

    def set_position(self, epoch: int, first: int = 0) -> None:
        """Start the next iteration at place ``first`` of ``epoch``, at the start of an update."""
        self._epoch = epoch
        self._first = first

    def __iter__(self) -> Iterator[list[ClipPosition]]:
        # Captured: the position may be set anew while loader workers still run ahead.
        epoch, first = self._epoch, self._first
        for update in self._plan.updates(first):
            for batch in self._plan.batches(update):
                places = self._plan.share(batch, self._process) or batch[-1:]
                yield [ClipPosition(epoch, place) for place in places]

    def __len__(self) -> int:
        left = max(0, self._plan.clips_per_epoch - self._first)
        return -(-left // self._plan.clips_per_batch)
