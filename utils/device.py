"""`resolve_device`: which device a command runs on, decided once and checked before any work."""

from __future__ import annotations

from typing import TYPE_CHECKING

from utils.errors import UsageError

if TYPE_CHECKING:
    import torch

_KINDS = ("cpu", "cuda", "mps")


def resolve_device(name: str | None = None) -> torch.device:
    """The device behind ``--device``.

    Args:
        name: ``cpu``, ``cuda``, ``cuda:N`` or ``mps``; None takes CUDA where there is a GPU,
            else the CPU.

    Returns:
        A device that is there; ``cuda`` comes back with its number, so that logs and checkpoints
        name the one GPU that was meant.

    Raises:
        UsageError: The name is none of those, or this machine has no such device.
    """
    import torch

    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    kind, separator, number = name.strip().lower().partition(":")
    if kind not in _KINDS or (separator and not (number.isascii() and number.isdigit())):
        raise UsageError(f"unknown device '{name}'; known: cpu, cuda, cuda:N, mps")
    index = int(number) if separator else 0
    if kind == "cuda":
        return _cuda(name, index)
    if index > 0:
        raise UsageError(f"device '{name}' does not exist; write {kind}")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise UsageError(f"device '{name}' is not available; use --device cpu")
    return torch.device(kind)


def _cuda(name: str, index: int) -> torch.device:
    import torch

    if not torch.cuda.is_available():
        reason = (
            "PyTorch sees no GPU; check the driver with nvidia-smi"
            if torch.version.cuda
            else "this PyTorch is built without CUDA; see pytorch.org for one that has it"
        )
        raise UsageError(f"device '{name}' is not available: {reason}, or use --device cpu")
    num_devices = torch.cuda.device_count()
    if index >= num_devices:
        known = ", ".join(f"cuda:{number}" for number in range(num_devices))
        raise UsageError(f"device '{name}' does not exist; there: {known}, cpu")
    return torch.device("cuda", index)
