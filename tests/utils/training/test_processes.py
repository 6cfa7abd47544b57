"""Which processes belong together; what several do is in `test_joint_training`."""

from __future__ import annotations

import os

import pytest
import torch
from accelerate.commands.launch import launch_command_parser
from accelerate.utils.launch import prepare_simple_launcher_cmd_env
from torch import distributed

from utils.errors import TrainingError, UsageError
from utils.training import processes as module
from utils.training.processes import Processes, connect

CPU = torch.device("cpu")
LAUNCHERS = (
    *("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE"),
    *("SLURM_STEP_NUM_TASKS", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"),
)


@pytest.fixture(autouse=True)
def without_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in {*LAUNCHERS, *(n for n in os.environ if n.startswith("ACCELERATE_"))}:
        monkeypatch.delenv(name, raising=False)


def test_one_process_has_nobody_to_talk_to() -> None:
    processes, device = connect(CPU)
    assert (processes, device) == (Processes(), CPU)
    assert processes.is_main
    assert not distributed.is_initialized()
    assert processes.gather("a") == ["a"]
    assert processes.gather_shares([1, 2]) == [1, 2]
    assert processes.share([1, 2, 3]) == [1, 2, 3]
    assert processes.from_main("a") == "a"
    assert processes.sum_(torch.ones(2)).tolist() == [1, 1]
    processes.check_agreement({"config": 1})
    processes.wait()
    processes.leave()


def test_errors_of_one_process_stay_as_they_are() -> None:
    with (
        pytest.raises(RuntimeError, match=r"^Connection closed by peer$"),
        Processes().losing_none(),
    ):
        raise RuntimeError("Connection closed by peer")


@pytest.mark.parametrize(
    "text",
    [
        "[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:4242",
        "NCCL communicator was aborted on rank 1",
        "Timed out waiting 900000ms for recv operation to complete",
    ],
)
def test_a_lost_process_is_said(text: str) -> None:
    with pytest.raises(TrainingError) as caught, Processes(index=1, count=3).losing_none():
        raise RuntimeError(text)
    assert str(caught.value).startswith("process 1 lost another one of the 3: its own error says")
    assert text in str(caught.value)
    assert str(caught.value).endswith("; go on with --resume latest")


def test_what_is_no_loss_stays_as_it_is() -> None:
    with pytest.raises(RuntimeError, match="shapes"), Processes(index=1, count=3).losing_none():
        raise RuntimeError("shapes cannot be multiplied")


@pytest.mark.parametrize(
    ("number", "environment"),
    [
        (1, {}),
        (4, {"WORLD_SIZE": "4"}),
        (1, {"WORLD_SIZE": "1", "SLURM_STEP_NUM_TASKS": "2"}),
        (2, {"SLURM_STEP_NUM_TASKS": "2"}),
        (3, {"OMPI_COMM_WORLD_SIZE": "3"}),
        (1, {"MASTER_ADDR": "somewhere"}),
        (1, {"ACCELERATE_MIXED_PRECISION": "no"}),
    ],
)
def test_number_of_processes(number: int, environment: dict[str, str]) -> None:
    assert module._launched_processes(environment) == number


def test_a_launch_that_runs_one_process_is_an_error() -> None:
    """What `accelerate launch --cpu --num_processes 2` does."""
    asked = ["--cpu", "--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no"]
    asked += ["--dynamo_backend", "no", "--num_cpu_threads_per_process", "1", "train.py"]
    _, left = prepare_simple_launcher_cmd_env(launch_command_parser().parse_args(asked))
    assert left["ACCELERATE_USE_CPU"] == "True"
    with pytest.raises(TrainingError) as caught:
        module._launched_processes(left)
    assert str(caught.value) == (
        "accelerate launch was to start several processes, and started one (it left "
        "MASTER_ADDR=127.0.0.1 and no WORLD_SIZE); start it with: torchrun --nproc_per_node N "
        "train.py ..., or without a launcher"
    )


def test_processes_that_train_by_themselves_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slurm started two, and neither knows where to meet the other."""
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    with pytest.raises(TrainingError) as caught:
        connect(CPU)
    assert str(caught.value).startswith(
        "2 processes were started, but each would train by itself (1 found); start it with: torch"
    )


def test_processes_that_do_not_meet_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """No place to meet, and a rank that there is not."""
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "not a port")
    # As torchrun does; accelerate warns where nobody has.
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with pytest.raises(TrainingError, match=r"^the 2 processes do not find each other: .*torchrun"):
        connect(CPU)


class TestDevices:
    @pytest.fixture(autouse=True)
    def two_gpus(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)

    @pytest.mark.parametrize("index", [0, 1])
    def test_each_process_has_its_own_gpu(
        self, monkeypatch: pytest.MonkeyPatch, index: int
    ) -> None:
        monkeypatch.setenv("LOCAL_RANK", str(index))
        assert module._own_device(torch.device("cuda", 0), 2) == torch.device("cuda", index)
        assert module._own_device(CPU, 2) == CPU

    def test_a_gpu_too_few(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LOCAL_RANK", "2")
        with pytest.raises(UsageError) as caught:
            module._own_device(torch.device("cuda", 0), 3)
        assert str(caught.value) == (
            "process 2 of this machine has no GPU: there are 2; lower --nproc_per_node, or use "
            "--device cpu"
        )

    def test_one_gpu_for_all(self) -> None:
        with pytest.raises(UsageError, match=r"--device cuda:1 is one GPU, and a launcher gives"):
            module._own_device(torch.device("cuda", 1), 2)

    def test_a_device_that_cannot_be_shared(self) -> None:
        with pytest.raises(UsageError, match=r"2 processes cannot share the device 'mps'; use cpu"):
            module._own_device(torch.device("mps"), 2)
