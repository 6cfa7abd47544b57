"""`Processes`: the processes that train one model together, and what they tell each other.

Below the trainer. ``torchrun --nproc_per_node N train.py ...`` starts N processes of the same
command; they find each other through accelerate, exchange gradients over gloo (CPU) or NCCL (GPUs),
and all but the first keep silent. One process alone is the case of nobody to talk to.
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed

from utils.errors import TrainingError, UsageError

logger = logging.getLogger(__name__)

_T = TypeVar("_T")

_NUMBER_OF_PROCESSES = (
    "WORLD_SIZE",
    "OMPI_COMM_WORLD_SIZE",
    "PMI_SIZE",
    "MV2_COMM_WORLD_SIZE",
    "SLURM_STEP_NUM_TASKS",
)
"""Where launchers say how many processes they start: torchrun, MPI, Slurm. The first set counts."""
_REMEDY = "start it with: torchrun --nproc_per_node N train.py ..., or without a launcher"
_STEP_TIMEOUT = timedelta(minutes=15)
"""The longest that a process waits for the gradients of the others, or for a checkpoint's disk."""
_WORK_TIMEOUT = timedelta(days=1)
"""For work whose shares differ: videos are decoded, features made, validation is scored."""
_LOST = ("gloo", "connection closed", "connection reset", "broken pipe", "nccl", "timed out")
"""How torch words that another process is gone, or does not answer."""


@dataclass(frozen=True, kw_only=True)
class Processes:
    """This process among those that train together; alone by default.

    Attributes:
        index: From 0; what only one may do (write, show, log), the process 0 does.
        count: Of all machines together.
    """

    index: int = 0
    count: int = 1

    @property
    def is_main(self) -> bool:
        return self.index == 0

    def share(self, items: Sequence[_T]) -> Sequence[_T]:
        """What of ``items`` is for this process: every ``count``-th."""
        return items[self.index :: self.count]

    def gather(self, value: _T) -> list[_T]:
        """``value`` of each process, in their order; plain data. However long the others take."""
        if self.count == 1:
            return [value]
        gathered: list[Any] = [None] * self.count
        distributed.all_gather_object(gathered, value, group=_patient_group())
        return gathered

    def gather_shares(self, own: Sequence[_T]) -> list[_T]:
        """The results of all `share`s, in the order of the items that were shared out."""
        shares = self.gather(list(own))
        total = sum(len(share) for share in shares)
        return [shares[place % self.count][place // self.count] for place in range(total)]

    def from_main(self, value: _T) -> _T:
        """``value`` of process 0. Numbers that all decide by must be the same to the last bit."""
        if self.count == 1:
            return value
        box = [value]
        distributed.broadcast_object_list(box, src=0, group=_patient_group())
        return box[0]

    def wait(self) -> None:
        """Until all processes have come here, however long that takes."""
        self.gather(None)

    def sum_(self, values: Tensor) -> Tensor:
        """Replace ``values``, on the training device, by their sum over the processes."""
        if self.count > 1:
            distributed.all_reduce(values)
        return values

    def check_agreement(self, what: Mapping[str, Any]) -> None:
        """Hold that all processes were started alike.

        Args:
            what: Plain values by name, for the message.

        Raises:
            TrainingError: A process has another value than process 0.
        """
        everyone = self.gather(dict(what))
        for index, other in enumerate(everyone):
            for name, value in everyone[0].items():
                if other[name] != value:
                    raise TrainingError(
                        f"process {index} has another {name} than process 0: {other[name]!r:.80}, "
                        f"not {value!r:.80}; start all with the same command, and let all see the "
                        "same files"
                    )

    @contextmanager
    def losing_none(self) -> Iterator[None]:
        """Inside, a process that is gone is an error in words, in all the others.

        Raises:
            TrainingError: Another process has failed, or answers no more.
        """
        try:
            yield
        except RuntimeError as error:
            text = str(error).strip()
            is_lost = isinstance(error, distributed.DistError) or any(
                word in text.lower() for word in _LOST
            )
            if self.count == 1 or not is_lost:
                raise
            raise TrainingError(
                f"process {self.index} lost another one of the {self.count}: its own error says "
                f"why ({text.splitlines()[0][:120]}); go on with --resume latest"
            ) from error

    def leave(self) -> None:
        """End the connection when the work is done; none of the others is left waiting."""
        self.wait()
        if distributed.is_initialized():
            distributed.destroy_process_group()
            _patient_group.cache_clear()


def connect(device: torch.device) -> tuple[Processes, torch.device]:
    """Find the processes that this one was started with; the others log errors alone.

    Args:
        device: That the command resolved; every process does so by itself.

    Returns:
        The processes, and the device of this one: with several on GPUs each has its own.

    Raises:
        TrainingError: A launcher was to start several, but they do not find each other.
        UsageError: They cannot share this device.
    """
    wanted = _launched_processes(os.environ)
    if wanted == 1 and "LOCAL_RANK" not in os.environ:
        return Processes(), device
    device = _own_device(device, wanted)
    from accelerate import PartialState

    try:
        state = PartialState(cpu=device.type == "cpu", timeout=_STEP_TIMEOUT)
    except (RuntimeError, ValueError) as error:
        raise TrainingError(
            f"the {wanted} processes do not find each other: {str(error).splitlines()[0]:.200}; "
            f"{_REMEDY}"
        ) from error
    if state.num_processes != wanted:
        raise TrainingError(
            f"{wanted} processes were started, but each would train by itself "
            f"({state.num_processes} found); {_REMEDY}"
        )
    processes = Processes(index=state.process_index, count=state.num_processes)
    if not processes.is_main:
        logging.getLogger().setLevel(logging.ERROR)
    logger.info("%d processes train together; batch_size is per process", processes.count)
    return processes, device


def _launched_processes(environment: Mapping[str, str]) -> int:
    """How many processes a launcher started, of which this is one.

    Raises:
        TrainingError: It was to start several, and started one.
    """
    for name in _NUMBER_OF_PROCESSES:
        if environment.get(name):
            return int(environment[name])
    # `accelerate launch --cpu --num_processes 2` says where the processes are to meet, and starts
    # one that knows of no other.
    if "MASTER_ADDR" in environment and any(name.startswith("ACCELERATE_") for name in environment):
        raise TrainingError(
            "accelerate launch was to start several processes, and started one (it left "
            f"MASTER_ADDR={environment['MASTER_ADDR']} and no WORLD_SIZE); {_REMEDY}"
        )
    return 1


def _own_device(device: torch.device, num_processes: int) -> torch.device:
    if device.type == "cpu":
        return device
    if device.type != "cuda":
        if num_processes == 1:
            return device
        raise UsageError(f"{num_processes} processes cannot share the device '{device}'; use cpu")
    # Not told from the default, 0, which is what the first process gets anyway.
    if device.index not in (None, 0):
        raise UsageError(
            f"--device {device} is one GPU, and a launcher gives each process its own; leave it "
            "out, or choose GPUs with CUDA_VISIBLE_DEVICES"
        )
    index = int(os.environ.get("LOCAL_RANK", 0))
    if index >= torch.cuda.device_count():
        raise UsageError(
            f"process {index} of this machine has no GPU: there are {torch.cuda.device_count()}; "
            "lower --nproc_per_node, or use --device cpu"
        )
    return torch.device("cuda", index)


@functools.cache
def _patient_group() -> Any:
    """Beside the gradients' own: for plain data, and for waiting."""
    return distributed.new_group(backend="gloo", timeout=_WORK_TIMEOUT)
