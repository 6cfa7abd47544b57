"""`resolve_device`: what is there, and clear words for what is not."""

from __future__ import annotations

import pytest
import torch

from utils.device import resolve_device
from utils.errors import UsageError


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


@pytest.mark.usefixtures("no_gpu")
def test_without_gpu() -> None:
    assert resolve_device(None) == torch.device("cpu")
    assert resolve_device("CPU") == torch.device("cpu")
    with pytest.raises(UsageError, match=r"device 'cuda' is not available: .*use --device cpu"):
        resolve_device("cuda")
    with pytest.raises(UsageError, match="device 'cuda:1' is not available"):
        resolve_device("cuda:1")


@pytest.mark.usefixtures("two_gpus")
def test_with_gpus() -> None:
    assert resolve_device(None) == torch.device("cuda", 0)
    assert resolve_device("cuda") == torch.device("cuda", 0)
    assert resolve_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(UsageError, match=r"device 'cuda:2' does not exist; there: cuda:0, cuda:1"):
        resolve_device("cuda:2")


def test_mps_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(UsageError, match="device 'mps' is not available; use --device cpu"):
        resolve_device("mps")


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:x", "cuda:-1", "", "cpu:", "cuda:²"])
def test_unknown_names(name: str) -> None:
    with pytest.raises(UsageError, match=f"unknown device '{name}'; known: cpu, cuda, cuda:N, mps"):
        resolve_device(name)


def test_there_is_one_cpu() -> None:
    assert resolve_device("cpu:0") == torch.device("cpu")
    with pytest.raises(UsageError, match="device 'cpu:1' does not exist; write cpu"):
        resolve_device("cpu:1")
