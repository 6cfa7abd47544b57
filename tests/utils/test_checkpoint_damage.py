"""Checkpoints on disks that are full and disks that forget: what is noticed, and what stands."""

from __future__ import annotations

import io
import os
import pickle
import random
import resource
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from utils.checkpoint import (
    FORMAT_VERSION,
    check_whole,
    load_checkpoint,
    load_weights_file,
    save_checkpoint,
)
from utils.errors import CheckpointError, DamagedCheckpointError

ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def files_limited_to(num_bytes: int) -> Iterator[None]:
    """Writing more fails, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def content(**changes: Any) -> dict[str, Any]:
    return {
        "model_state_dict": {"w": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2)},
        "config": {},
        "format_version": FORMAT_VERSION,
        **changes,
    }


def error_of(function: Callable[..., Any], *arguments: Any) -> str:
    with pytest.raises(CheckpointError) as caught:
        function(*arguments)
    return str(caught.value)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "checkpoint_epoch_2.pt"


@pytest.fixture
def saved(path: Path) -> Path:
    save_checkpoint(content(), path)
    return path


# Full disks


def large(num_numbers: int) -> dict[str, Any]:
    return content(model_state_dict={"w": torch.zeros(num_numbers)})


def test_a_file_that_may_grow_no_larger(saved: Path) -> None:
    """A quota, or what the file system can hold."""
    old = saved.read_bytes()
    with files_limited_to(50_000):
        message = error_of(save_checkpoint, large(100_000), saved)
    assert message == (
        f"{saved}: could not be written ([Errno 27] File too large); earlier checkpoints are "
        "untouched: free disk space or set training.checkpoint_dir"
    )
    assert saved.read_bytes() == old
    assert os.listdir(saved.parent) == [saved.name]
    save_checkpoint(large(100_000), saved)
    assert len(load_checkpoint(saved)["model_state_dict"]["w"]) == 100_000


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("this user may not mount a file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


# The first is full in the midst of the tensor, the last once all is written but the end.
@pytest.mark.parametrize("num_numbers", [1_000_000, 190_000, 160_600])
def test_a_full_disk(small_disk: Path, num_numbers: int) -> None:
    first, second = small_disk / "checkpoint_epoch_1.pt", small_disk / "checkpoint_epoch_2.pt"
    save_checkpoint(large(100_000), first)
    message = error_of(save_checkpoint, large(num_numbers), second)
    assert message == (
        f"{second}: could not be written ([Errno 28] No space left on device); earlier "
        "checkpoints are untouched: free disk space or set training.checkpoint_dir"
    )
    assert os.listdir(small_disk) == [first.name]
    check_whole(first)
    first.unlink()
    save_checkpoint(large(160_000), second)
    check_whole(second)


def test_a_writer_that_is_killed_leaves_the_old_file(saved: Path) -> None:
    """By the signal that a process gets at the limit of its files, if it does not ignore it."""
    old = saved.read_bytes()
    code = (
        "import resource, signal, sys, torch\n"
        "from pathlib import Path\n"
        "from utils.checkpoint import save_checkpoint\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_DFL)\n"
        "resource.setrlimit(resource.RLIMIT_CORE, (0, 0))\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))\n"
        "save_checkpoint({'w': torch.zeros(100_000)}, Path(sys.argv[1]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(saved)], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGXFSZ
    assert saved.read_bytes() == old
    (left,) = set(os.listdir(saved.parent)) - {saved.name}
    assert left.startswith(f".{saved.name}.")
    assert (saved.parent / left).stat().st_size == 50_000
    # What a rename without a sync, and then a power cut, would have left.
    (saved.parent / left).rename(saved)
    assert "not a checkpoint, or damaged (cut off?): BadZipFile" in error_of(check_whole, saved)


# Bytes that changed


def same_content(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Bit by bit."""
    files = []
    for checkpoint in (one, other):
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        files.append(buffer.getvalue())
    return files[0] == files[1]


def test_any_flipped_bit_is_noticed_or_harmless(path: Path) -> None:
    """Of each byte one bit: weights, structure, the zip's own tables, the space between."""
    save_checkpoint(content(), path)
    whole = path.read_bytes()
    expected = load_checkpoint(path)
    generator = random.Random(0)
    num_noticed = 0
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << generator.randrange(8)
        path.write_bytes(damaged)
        try:
            loaded = load_checkpoint(path)
        except CheckpointError:
            num_noticed += 1
        else:
            assert same_content(loaded, expected), place
    assert num_noticed > len(whole) / 4


def test_a_flipped_bit_of_a_weight_is_named(saved: Path) -> None:
    """torch itself reads such a file without a word, and gives a model that is a little wrong."""
    whole = saved.read_bytes()
    weight = torch.arange(6.0).numpy().tobytes()
    damaged = bytearray(whole)
    damaged[whole.index(weight) + 7] ^= 1
    saved.write_bytes(damaged)
    assert not torch.equal(torch.load(saved)["model_state_dict"]["w"].flatten(), torch.arange(6.0))
    for read in (load_checkpoint, load_weights_file, check_whole):
        message = error_of(read, saved)
        assert message.startswith(f"{saved}: damaged: the checksum of its record '")
        assert message.endswith("/data/0' does not fit; take an earlier one")


def test_a_record_that_claims_to_be_a_folder(saved: Path) -> None:
    """torch gives out whatever lay in memory for it, and the checksum is never compared."""
    with zipfile.ZipFile(saved) as archive:
        names = [info.filename for info in archive.infolist()]
    number = next(i for i, name in enumerate(names) if name.endswith("/data/0"))
    damaged = bytearray(saved.read_bytes())
    place = -1
    for _ in range(number + 1):
        place = damaged.index(b"PK\x01\x02", place + 1)
    # The attributes of DOS, 38 bytes into the record's place in the central directory.
    damaged[place + 38] |= 0x10
    saved.write_bytes(damaged)
    assert "/data/0' is marked as a folder; take an earlier one" in error_of(load_checkpoint, saved)


@pytest.mark.parametrize("zeroed", [slice(0, 512), slice(-512, None), slice(512, 1024)])
def test_a_block_that_never_reached_the_disk(saved: Path, zeroed: slice) -> None:
    damaged = bytearray(saved.read_bytes())
    damaged[zeroed] = bytes(len(damaged[zeroed]))
    saved.write_bytes(damaged)
    with pytest.raises(DamagedCheckpointError):
        check_whole(saved)
    with pytest.raises(DamagedCheckpointError) as caught:
        load_checkpoint(saved)
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (copy.path, str(copy)) == (saved, str(caught.value))


def test_a_whole_file_is_whole(saved: Path, tmp_path: Path) -> None:
    check_whole(saved)
    assert error_of(check_whole, tmp_path / "gone.pt") == f"{tmp_path / 'gone.pt'}: no such file"
    (tmp_path / "empty.pt").touch()
    assert error_of(check_whole, tmp_path / "empty.pt") == (
        f"{tmp_path / 'empty.pt'}: the file is empty; take an earlier one"
    )
