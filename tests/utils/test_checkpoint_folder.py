"""`CheckpointFolder`: what stays, what goes, and which one a run goes on from."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.checkpoint import FORMAT_VERSION, load_checkpoint
from utils.checkpoint_folder import (
    CheckpointFolder,
    epoch_checkpoint_name,
    resolve_resume,
    step_checkpoint_name,
)
from utils.config import Config
from utils.errors import CheckpointError

ROOT = Path(__file__).resolve().parents[2]
CONFIG = Config().to_plain()


def content(epoch: int = 0, batch: int = 0) -> dict[str, Any]:
    return {
        "model_state_dict": {"w": torch.full((100,), float(epoch + batch / 100))},
        "config": CONFIG,
        "epoch": epoch,
        "data_position": {"batch": batch},
        "format_version": FORMAT_VERSION,
    }


def save(folder: CheckpointFolder, *places: tuple[int, int]) -> None:
    for epoch, batch in places:
        folder.save_numbered(content(epoch, batch), epoch=epoch, batch=batch)


def names(folder: CheckpointFolder | Path) -> list[str]:
    path = folder if isinstance(folder, Path) else folder.path
    return sorted(os.listdir(path))


def places(folder: CheckpointFolder) -> list[tuple[int, int]]:
    return [place for place, _ in folder.numbered()]


def error_of(function: Callable[..., Any], *arguments: Any, **options: Any) -> str:
    with pytest.raises(CheckpointError) as caught:
        function(*arguments, **options)
    return str(caught.value)


def flip_a_weight(path: Path) -> None:
    data = bytearray(path.read_bytes())
    weight = load_checkpoint(path)["model_state_dict"]["w"].numpy().tobytes()
    data[data.index(weight)] ^= 1
    path.write_bytes(data)


def cut_in_half(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path) -> None:
    os.truncate(path, 0)


DAMAGES = pytest.mark.parametrize("damage", [flip_a_weight, cut_in_half, empty])


@pytest.fixture
def folder(tmp_path: Path) -> CheckpointFolder:
    return CheckpointFolder(tmp_path / "run")


# Names


def test_names_are_ordered_by_number(folder: CheckpointFolder) -> None:
    folder.path.mkdir()
    for name in (
        *(epoch_checkpoint_name(epoch) for epoch in (1, 2, 9, 10)),
        *(step_checkpoint_name(epoch, batch) for epoch, batch in ((0, 5), (2, 10), (2, 9))),
        "best_checkpoint.pt",
        "final_checkpoint.pt",
        "checkpoint_epoch_99.pt.tmp",
        ".checkpoint_epoch_98.pt.abc.tmp",
        "checkpoint_epoch_x.pt",
        "my_checkpoint_epoch_97.pt",
    ):
        (folder.path / name).touch()
    (folder.path / "checkpoint_epoch_96.pt").mkdir()
    assert places(folder) == [(0, 5), (1, 0), (2, 0), (2, 9), (2, 10), (9, 0), (10, 0)]


def test_a_folder_that_is_not_there_is_empty_and_is_not_made(folder: CheckpointFolder) -> None:
    assert folder.numbered() == []
    folder.begin()
    assert not folder.path.exists()


def test_where_they_are_saved(folder: CheckpointFolder) -> None:
    run = folder.path
    assert folder.save_numbered(content(1), epoch=1) == run / "checkpoint_epoch_1.pt"
    assert folder.save_numbered(content(1, 7), epoch=1, batch=7) == (
        run / "checkpoint_epoch_1_batch_7.pt"
    )
    assert folder.save_best(content(1)) == folder.best_path == run / "best_checkpoint.pt"
    assert folder.save_final(content(2)) == folder.final_path == run / "final_checkpoint.pt"
    assert len(names(folder)) == 4
    for name in names(folder):
        assert load_checkpoint(run / name)["format_version"] == FORMAT_VERSION


# Pruning


def test_the_last_ones_stay_with_the_best_and_the_final_one(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, keep_last=2)
    for epoch in range(1, 12):
        save(folder, (epoch, 0))
        if epoch == 3:
            folder.save_best(content(3))
    folder.save_final(content(11))
    assert names(folder) == [
        "best_checkpoint.pt",
        "checkpoint_epoch_10.pt",
        "checkpoint_epoch_11.pt",
        "final_checkpoint.pt",
    ]


def test_all_stay_where_no_number_is_given(folder: CheckpointFolder) -> None:
    save(folder, *((epoch, 0) for epoch in range(1, 8)))
    assert len(places(folder)) == 7


def test_places_inside_an_epoch_go_once_there_is_one_behind_them(folder: CheckpointFolder) -> None:
    save(folder, (0, 5), (0, 10))
    assert places(folder) == [(0, 10)]
    save(folder, (1, 0))
    assert places(folder) == [(1, 0)]
    save(folder, (1, 5), (1, 10))
    assert places(folder) == [(1, 0), (1, 10)]
    save(folder, (2, 0))
    assert places(folder) == [(1, 0), (2, 0)]


@settings(deadline=None, max_examples=15)
@given(
    steps=st.lists(st.integers(0, 3), min_size=1, max_size=6),
    keep_last=st.none() | st.integers(1, 3),
)
def test_the_newest_always_stays_and_no_more_than_asked(
    tmp_path_factory: pytest.TempPathFactory, steps: list[int], keep_last: int | None
) -> None:
    """``steps``: how many checkpoints each epoch saves inside itself."""
    folder = CheckpointFolder(tmp_path_factory.mktemp("run"), keep_last=keep_last)
    for epoch, num_inside in enumerate(steps):
        saved = [(epoch, batch) for batch in range(1, num_inside + 1)] + [(epoch + 1, 0)]
        for place in saved:
            save(folder, place)
            standing = places(folder)
            assert standing[-1] == place
            assert len(standing) <= (keep_last or len(steps) + 1)
            assert [at for at in standing[:-1] if at[1]] == []
            ends = [at for at in standing if not at[1]]
            # Those at the ends of epochs that stay are the last ones, without a hole.
            assert ends == [(number, 0) for number in range(place[0] - len(ends) + 1, place[0] + 1)]


def test_the_one_just_written_is_never_pruned(tmp_path: Path) -> None:
    """Also where others are in the folder that got further."""
    save(CheckpointFolder(tmp_path), (7, 0), (8, 0), (9, 0))
    folder = CheckpointFolder(tmp_path, keep_last=2)
    save(folder, (3, 0))
    assert places(folder) == [(3, 0), (8, 0), (9, 0)]


def test_nothing_goes_before_the_new_one_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = CheckpointFolder(tmp_path, keep_last=1)
    save(folder, (1, 0))
    done: list[str] = []
    replace, unlink, fsync = os.replace, Path.unlink, os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (done.append("sync"), fsync(fd)))
    monkeypatch.setattr(os, "replace", lambda *names: (done.append("rename"), replace(*names)))
    monkeypatch.setattr(
        Path, "unlink", lambda path, **how: (done.append(f"remove {path.name}"), unlink(path))
    )
    save(folder, (2, 0))
    # The file, and then the folder that now has its name.
    assert done == ["sync", "rename", "sync", "remove checkpoint_epoch_1.pt"]


def test_a_failed_save_prunes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = CheckpointFolder(tmp_path, keep_last=1)
    save(folder, (1, 0))

    def save_half(data: Any, file: Any) -> None:
        file.write(bytes(1000))
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", save_half)
    assert error_of(folder.save_numbered, content(2), epoch=2) == (
        f"{tmp_path / 'checkpoint_epoch_2.pt'}: could not be written ([Errno 28] No space left on "
        "device); earlier checkpoints are untouched: free disk space or set training.checkpoint_dir"
    )
    assert names(folder) == ["checkpoint_epoch_1.pt"]
    assert folder.latest().name == "checkpoint_epoch_1.pt"


def test_one_that_cannot_be_removed_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = CheckpointFolder(tmp_path, keep_last=1)
    save(folder, (1, 0))

    def refuse(path: Path, missing_ok: bool = False) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "unlink", refuse)
    save(folder, (2, 0))
    assert places(folder) == [(1, 0), (2, 0)]
    assert caplog.messages == [
        f"{tmp_path / 'checkpoint_epoch_1.pt'}: an old checkpoint that cannot be removed "
        "(Operation not permitted): it stays"
    ]


def test_none_to_keep_is_no_number(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="keep_last must be 1 or more, or None, got 0"):
        CheckpointFolder(tmp_path, keep_last=0)


# The latest


def test_the_latest_is_the_furthest(folder: CheckpointFolder) -> None:
    save(folder, (2, 0), (9, 0), (10, 0))
    assert folder.latest().name == "checkpoint_epoch_10.pt"
    save(folder, (10, 3))
    assert folder.latest().name == "checkpoint_epoch_10_batch_3.pt"


@DAMAGES
def test_the_one_before_a_damaged_one_is_taken(
    folder: CheckpointFolder, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], None]
) -> None:
    save(folder, (1, 0), (2, 0), (3, 0), (3, 4))
    damaged = [folder.path / step_checkpoint_name(3, 4), folder.path / epoch_checkpoint_name(3)]
    for path in damaged:
        damage(path)
    assert folder.latest() == folder.path / "checkpoint_epoch_2.pt"
    assert len(caplog.messages) == 2
    for path, message in zip(damaged, caplog.messages, strict=True):
        assert message.startswith(f"{path}: ")
        assert message.endswith("; going on from checkpoint_epoch_2.pt")


@DAMAGES
def test_none_is_whole(folder: CheckpointFolder, damage: Callable[[Path], None]) -> None:
    save(folder, (1, 0), (2, 0))
    folder.save_final(content(2))
    for path in folder.path.iterdir():
        damage(path)
    message = error_of(folder.latest)
    assert message.startswith(f"{folder.path}: none of the checkpoints is whole (final_check")
    assert "; checkpoint_epoch_2.pt: " in message
    assert "; checkpoint_epoch_1.pt: " in message
    assert message.endswith("); leave --resume out to start anew")


@pytest.mark.parametrize("is_there", [True, False])
def test_no_latest(folder: CheckpointFolder, is_there: bool) -> None:
    if is_there:
        folder.save_best(content(1))
    assert error_of(folder.latest) == (
        f"{folder.path}: no checkpoint_epoch_N.pt to resume from; leave --resume out to start anew"
    )


def test_the_final_one_counts_where_it_got_further(
    folder: CheckpointFolder, caplog: pytest.LogCaptureFixture
) -> None:
    save(folder, (1, 0), (2, 0))
    folder.save_final(content(2))
    assert folder.latest().name == "checkpoint_epoch_2.pt"
    (folder.path / "checkpoint_epoch_2.pt").unlink()
    assert folder.latest().name == "final_checkpoint.pt"
    (folder.path / "checkpoint_epoch_1.pt").unlink()
    assert folder.latest().name == "final_checkpoint.pt"
    save(folder, (2, 1))
    assert folder.latest().name == "checkpoint_epoch_2_batch_1.pt"
    assert not caplog.messages


def test_a_damaged_final_one_is_named(
    folder: CheckpointFolder, caplog: pytest.LogCaptureFixture
) -> None:
    save(folder, (1, 0))
    flip_a_weight(folder.save_final(content(2)))
    assert folder.latest().name == "checkpoint_epoch_1.pt"
    (message,) = caplog.messages
    assert message.startswith(f"{folder.final_path}: damaged: the checksum of its record '")
    assert message.endswith("' does not fit; going on from checkpoint_epoch_1.pt")


# What --resume means


def test_resume_latest_or_a_path(folder: CheckpointFolder) -> None:
    save(folder, (1, 0), (2, 0))
    first = folder.path / "checkpoint_epoch_1.pt"
    assert resolve_resume("latest", folder).name == "checkpoint_epoch_2.pt"
    assert resolve_resume(str(first), folder) == first
    assert error_of(resolve_resume, "gone.pt", folder) == "gone.pt: no such file"


@DAMAGES
def test_a_damaged_path_and_what_to_take_instead(
    folder: CheckpointFolder, damage: Callable[[Path], None]
) -> None:
    save(folder, (1, 0), (2, 0), (3, 0), (4, 0))
    first, second, third, fourth = (path for _, path in folder.numbered())
    best = folder.save_best(content(2))
    for path in (third, second, best):
        damage(path)
    message = error_of(resolve_resume, str(third), folder)
    assert message.startswith(f"{third}: ")
    assert message.endswith(f"; the one before it is whole: --resume {first}")
    # How far the best one got is not in its name.
    assert error_of(resolve_resume, str(best), folder).endswith(f"--resume {fourth}")
    damage(first)
    assert error_of(resolve_resume, str(third), folder).endswith(
        "; there is no whole one before it; start anew without --resume"
    )


# Where a run begins


def test_a_new_run_moves_an_earlier_one_aside(
    folder: CheckpointFolder, caplog: pytest.LogCaptureFixture
) -> None:
    save(folder, (1, 0), (2, 0))
    folder.save_best(content(1))
    folder.save_final(content(2))
    (folder.path / "notes.txt").touch()
    before = set(names(folder)) - {"notes.txt"}
    folder.begin()
    (aside,) = folder.path.glob("before_*")
    assert set(names(aside)) == before
    assert names(folder) == [aside.name, "notes.txt"]
    assert caplog.messages == [
        f"moved 4 checkpoints of an earlier run to {aside}; to go on with a run use --resume"
    ]
    # A second one in the same second.
    save(folder, (1, 0))
    folder.begin()
    assert len(list(folder.path.glob("before_*"))) == 2
    assert names(aside) == sorted(before)
    folder.begin()
    assert len(list(folder.path.glob("before_*"))) == 2


def test_a_run_that_goes_on_keeps_what_it_comes_from(folder: CheckpointFolder) -> None:
    save(folder, (1, 0), (2, 0), (2, 5))
    folder.save_best(content(1))
    before = names(folder)
    folder.begin(resumed_from=folder.latest(), place=(2, 5))
    assert names(folder) == before


def test_what_lies_beyond_the_place_of_resuming_is_of_another_run(folder: CheckpointFolder) -> None:
    """Else ``latest`` would mean it until this run got as far."""
    save(folder, (1, 0), (2, 0), (3, 0))
    folder.save_best(content(3))
    folder.save_final(content(3))
    folder.begin(resumed_from=folder.path / "." / "checkpoint_epoch_1.pt", place=(1, 0))
    (aside,) = folder.path.glob("before_*")
    assert names(aside) == [
        "checkpoint_epoch_2.pt",
        "checkpoint_epoch_3.pt",
        "final_checkpoint.pt",
    ]
    assert names(folder) == [aside.name, "best_checkpoint.pt", "checkpoint_epoch_1.pt"]
    assert folder.latest().name == "checkpoint_epoch_1.pt"


def test_a_final_one_that_is_longer_trained_stays(folder: CheckpointFolder) -> None:
    save(folder, (1, 0), (2, 0))
    final = folder.save_final(content(2))
    folder.begin(resumed_from=final, place=(2, 0))
    assert not list(folder.path.glob("before_*"))


def test_a_run_that_comes_from_elsewhere_starts_with_a_clear_folder(
    folder: CheckpointFolder, tmp_path: Path
) -> None:
    elsewhere = CheckpointFolder(tmp_path / "elsewhere")
    save(elsewhere, (2, 0))
    save(folder, (1, 0))
    folder.begin(resumed_from=elsewhere.latest(), place=(2, 0))
    assert places(folder) == []
    assert places(elsewhere) == [(2, 0)]


def test_they_cannot_be_moved_aside(
    folder: CheckpointFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(folder, (1, 0))

    def refuse(path: Path, target: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "rename", refuse)
    assert error_of(folder.begin) == (
        f"{folder.path}: the checkpoints of an earlier run cannot be moved aside ([Errno 13] "
        "Permission denied); set training.checkpoint_dir to another folder"
    )


WRITER = """
import signal, sys, torch
from pathlib import Path
from utils.checkpoint_folder import CheckpointFolder

def save_half(content, file):
    file.write(bytes(1000))
    file.flush()
    print("half", flush=True)
    signal.pause()

torch.save = save_half
CheckpointFolder(Path(sys.argv[1])).save_numbered({}, epoch=4, batch=2)
"""


def test_what_a_killed_run_left_half_written_goes(
    folder: CheckpointFolder, caplog: pytest.LogCaptureFixture
) -> None:
    save(folder, (4, 0))
    others = [".notes.txt.abcdefgh.tmp", ".checkpoint_epoch_4.pt.tmp", "half.tmp"]
    for name in others:
        (folder.path / name).touch()
    caplog.set_level(logging.INFO)
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, folder.path], cwd=ROOT, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == b"half\n"
    (left,) = folder.path.glob(".checkpoint_epoch_4_batch_2.pt.*.tmp")
    at = {"resumed_from": folder.path / "checkpoint_epoch_4.pt", "place": (4, 0)}
    folder.begin(**at)
    assert left.stat().st_size == 1000, "its writer lives"
    process.send_signal(signal.SIGKILL)
    process.wait()
    folder.begin(**at)
    assert names(folder) == sorted([*others, "checkpoint_epoch_4.pt"])
    assert caplog.messages == [f"{left}: removed what a run that was killed left half written"]
