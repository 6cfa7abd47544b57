"""What a run ran in: revision of the code, versions of packages, device, and the memory it took.

Read by `utils.training.run_record`, so that two runs can be told apart years later.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import logging
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

PACKAGES = ("torch", "torchvision", "timm", "accelerate", "transformers", "numpy", "av")
"""Whose versions can change what is learned."""

_ROOT = Path(__file__).resolve().parents[2]
_GIT_SECONDS = 20.0
"""A checkout on a network drive may take long to look at; a run must not wait for it forever."""


def package_versions() -> dict[str, str | None]:
    """Versions of `PACKAGES` and of Python; None for a package that is not installed."""
    import torch

    versions: dict[str, str | None] = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    # With the CUDA that it is built for, which its metadata may leave out.
    return {**versions, "torch": str(torch.__version__)}


def device_name(device: torch.device) -> str:
    """The device with its model, such as ``cuda:0 (NVIDIA H200)``."""
    if device.type == "cuda":
        import torch

        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"{device} ({_processor()}, {os.cpu_count()} cores)"


def _processor() -> str:
    # Linux names the model here alone.
    cpus = Path("/proc/cpuinfo")
    if cpus.exists():
        for line in cpus.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def peak_memory_bytes(device: torch.device) -> int | None:
    """The most memory that this process has held so far.

    Returns:
        On CUDA, of tensors on ``device``; elsewhere of the process in main memory, without its
        loader workers; None where the system does not say.
    """
    if device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # macOS counts bytes, the others kibibytes.
    return peak if sys.platform == "darwin" else peak * 1024


def code_revision(root: Path = _ROOT) -> dict[str, str | bool | None] | None:
    """The commit that the code is at.

    Args:
        root: Folder of the project.

    Returns:
        ``revision`` (the commit's hash), ``is_dirty`` (whether tracked files differ from it) and
        ``diff_hash`` (of that difference: two dirty runs with the same one ran the same code; None
        where there is none). None where ``root`` is no git checkout or there is no git.
    """
    # Installed into a folder inside of some other project's checkout, it would be that one's.
    if _git(root, "ls-files", "--error-unmatch", "train.py") is None:
        return None
    revision = _git(root, "rev-parse", "--verify", "HEAD")
    difference = _git(root, "diff", "--binary", "--no-ext-diff", "--no-textconv", "HEAD")
    if revision is None or difference is None:
        return None
    return {
        "revision": revision.decode().strip(),
        "is_dirty": bool(difference),
        "diff_hash": hashlib.sha256(difference).hexdigest()[:16] if difference else None,
    }


def _git(root: Path, *arguments: str) -> bytes | None:
    """What git prints, or None, with the reason in the log, where it can say nothing."""
    program = shutil.which("git")
    if program is None:
        logger.debug("there is no git: the revision of the code is not recorded")
        return None
    # A hook that starts a run sets variables of its own repository.
    surroundings = {name: value for name, value in os.environ.items() if name[:4] != "GIT_"}
    try:
        done = subprocess.run(  # noqa: S603 (git, with arguments of our own)
            [program, "--no-optional-locks", "-C", str(root), *arguments],
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=_GIT_SECONDS,
            env=surroundings,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        logger.warning("git cannot be asked for the revision of the code: %s", error)
        return None
    if done.returncode:
        logger.debug("git %s: %s", arguments[0], done.stderr.decode(errors="replace").strip())
        return None
    return done.stdout
