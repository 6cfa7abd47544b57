"""`CheckpointFolder`: the checkpoints of one run, by name: saved, pruned, and found again.

Beside `utils.checkpoint`, which knows what is in one file. A checkpoint is written aside, synced
and renamed; only once it stands are earlier ones removed. So there is always one to go on from.
"""

from __future__ import annotations

import itertools
import logging
import re
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from utils.atomic_file import remove_abandoned
from utils.checkpoint import check_whole, load_checkpoint, save_checkpoint
from utils.errors import CheckpointError, DamagedCheckpointError

logger = logging.getLogger(__name__)

BEST_NAME = "best_checkpoint.pt"
FINAL_NAME = "final_checkpoint.pt"
_NUMBERED_NAME = re.compile(r"checkpoint_epoch_(\d+)(?:_batch_(\d+))?\.pt")
_BEYOND_ALL = (sys.maxsize, 0)

Place = tuple[int, int]
"""``(finished epochs, batches after them)``."""


def epoch_checkpoint_name(epoch: int) -> str:
    """``checkpoint_epoch_{N}.pt``; ``epoch`` counts finished epochs, from 1."""
    return f"checkpoint_epoch_{epoch}.pt"


def step_checkpoint_name(epoch: int, batch: int) -> str:
    """``checkpoint_epoch_{N}_batch_{M}.pt``: a run stopped M batches after N finished epochs."""
    return f"checkpoint_epoch_{epoch}_batch_{batch}.pt"


class CheckpointFolder:
    """The folder that a run saves to and resumes from.

    One process writes: of several, the first. Nothing is made before the first checkpoint is saved.

    Args:
        path: The folder; it need not exist.
        keep_last: How many numbered checkpoints stay, those inside epochs included; None: all. The
            best and the final one always stay.

    Raises:
        ValueError: ``keep_last`` is below 1.
    """

    def __init__(self, path: Path, *, keep_last: int | None = None) -> None:
        if keep_last is not None and keep_last < 1:
            raise ValueError(f"keep_last must be 1 or more, or None, got {keep_last}")
        self.path = path
        self._keep_last = keep_last

    @property
    def best_path(self) -> Path:
        return self.path / BEST_NAME

    @property
    def final_path(self) -> Path:
        return self.path / FINAL_NAME

    def numbered(self) -> list[tuple[Place, Path]]:
        """Place and path of the numbered checkpoints, in the order of training."""
        found = [
            ((int(match[1]), int(match[2] or 0)), file)
            for file in (self.path.iterdir() if self.path.is_dir() else ())
            if (match := _NUMBERED_NAME.fullmatch(file.name)) and file.is_file()
        ]
        return sorted(found)

    def begin(self, *, resumed_from: Path | None = None, place: Place = (0, 0)) -> None:
        """Clear the folder for a run that begins, anew or again; call it once, before any save.

        What a killed run left half written is removed. Checkpoints that the new run would be
        confused with are moved to a folder ``before_TIME`` inside: of a run that starts anew, or
        goes on from a file elsewhere, all that are here; of one that goes on from a file in here,
        those that lie beyond it.

        Args:
            resumed_from: The checkpoint that the run goes on from.
            place: How far that one got.

        Raises:
            CheckpointError: They cannot be moved.
        """
        if not self.path.is_dir():
            return
        for name in remove_abandoned(self.path, _is_checkpoint_name):
            logger.info("%s: removed what a run that was killed left half written", name)
        if resumed_from is not None and resumed_from.resolve().parent == self.path.resolve():
            self._move_aside([file for at, file in self._with_final() if at > place])
            return
        others = [file for file in (self.best_path, self.final_path) if file.is_file()]
        self._move_aside([*(file for _, file in self.numbered()), *others])

    def save_numbered(self, content: Mapping[str, Any], *, epoch: int, batch: int = 0) -> Path:
        """Save how far training got, then prune; returns the path.

        Args:
            content: Of the checkpoint.
            epoch: Finished epochs.
            batch: Batches done since; above 0 inside an epoch.

        Raises:
            CheckpointError: It cannot be written; the earlier ones are all there.
        """
        name = step_checkpoint_name(epoch, batch) if batch else epoch_checkpoint_name(epoch)
        path = self.path / name
        save_checkpoint(content, path)
        self._prune(path)
        return path

    def save_best(self, content: Mapping[str, Any]) -> Path:
        """Save the best one so far; returns the path. Raises as `save_numbered`."""
        save_checkpoint(content, self.best_path)
        return self.best_path

    def save_final(self, content: Mapping[str, Any]) -> Path:
        """Save the end of the run; returns the path. Raises as `save_numbered`."""
        save_checkpoint(content, self.final_path)
        return self.final_path

    def latest(self) -> Path:
        """The whole checkpoint that got furthest: by number, epoch 10 after 9.

        One that is damaged is named in a warning, and the one before it is taken. The final one
        counts where it got further than any numbered one, or none is left.

        Raises:
            CheckpointError: There is none, or none is whole; the message names all.
        """
        damaged: list[DamagedCheckpointError] = []
        for _, path in reversed(self._with_final()):
            try:
                check_whole(path)
            except DamagedCheckpointError as error:
                damaged.append(error)
                continue
            for found in damaged:
                logger.warning("%s: %s; going on from %s", found.path, found.reason, path.name)
            return path
        if damaged:
            reasons = "; ".join(f"{found.path.name}: {found.reason}" for found in damaged)
            raise CheckpointError(
                f"{self.path}: none of the checkpoints is whole ({reasons}); leave --resume out to "
                "start anew"
            )
        raise CheckpointError(
            f"{self.path}: no checkpoint_epoch_N.pt to resume from; leave --resume out to start "
            "anew"
        )

    def _with_final(self) -> list[tuple[Place, Path]]:
        """As `numbered`, with the final one where it got to; of two equals it comes first."""
        if not self.final_path.is_file():
            return self.numbered()
        try:
            place = _place_of(load_checkpoint(self.final_path))
        except DamagedCheckpointError:
            # Nobody knows; where it counts, it is looked at first, and named.
            place = _BEYOND_ALL
        return sorted([(place, self.final_path), *self.numbered()], key=lambda found: found[0])

    def _prune(self, written: Path) -> None:
        """Remove what ``written`` supersedes, and what is more than is to be kept."""
        numbered = self.numbered()
        (place,) = (at for at, file in numbered if file == written)
        # A place inside an epoch is of no use once there is one behind it.
        superseded = [file for at, file in numbered if at[1] and at < place]
        if self._keep_last is not None:
            staying = [file for _, file in numbered if file not in superseded]
            superseded += staying[: -self._keep_last]
        for file in superseded:
            if file == written:
                continue
            try:
                file.unlink(missing_ok=True)
            except OSError as error:
                # No reason to stop training.
                logger.warning(
                    "%s: an old checkpoint that cannot be removed (%s): it stays",
                    file,
                    error.strerror,
                )

    def _move_aside(self, files: list[Path]) -> None:
        if not files:
            return
        try:
            folder = _new_folder(self.path)
            for file in files:
                file.rename(folder / file.name)
        except OSError as error:
            raise CheckpointError(
                f"{self.path}: the checkpoints of an earlier run cannot be moved aside ({error}); "
                "set training.checkpoint_dir to another folder"
            ) from error
        logger.warning(
            "moved %d checkpoints of an earlier run to %s; to go on with a run use --resume",
            len(files),
            folder,
        )


def _new_folder(parent: Path) -> Path:
    """A folder that was not there, named by the time; two runs may begin in one second."""
    name = f"before_{time.strftime('%Y%m%d-%H%M%S')}"
    for number in itertools.count(1):
        folder = parent / (name if number == 1 else f"{name}_{number}")
        with suppress(FileExistsError):
            folder.mkdir()
            return folder
    raise AssertionError("counting ends")


def _is_checkpoint_name(name: str) -> bool:
    return name in (BEST_NAME, FINAL_NAME) or bool(_NUMBERED_NAME.fullmatch(name))


def _place_of(content: Mapping[str, Any]) -> Place:
    return content.get("epoch", 0), content.get("data_position", {}).get("batch", 0)


def resolve_resume(value: str, folder: CheckpointFolder) -> Path:
    """The checkpoint that ``--resume PATH|latest`` means, which is whole.

    Args:
        value: ``latest``, or a path.
        folder: Where ``latest`` is looked for.

    Raises:
        CheckpointError: There is none, or it is damaged; the message names the one to take instead.
    """
    if value == "latest":
        return folder.latest()
    path = Path(value)
    try:
        check_whole(path)
    except DamagedCheckpointError as error:
        raise CheckpointError(f"{path}: {error.reason}; {_instead_of(path)}") from error
    return path


def _instead_of(path: Path) -> str:
    """What to resume from where ``path`` is damaged: the furthest whole one that is before it."""
    siblings = CheckpointFolder(path.parent).numbered()
    places = [at for at, file in siblings if file.name == path.name]
    for place, file in reversed(siblings):
        if file.name == path.name or (places and place > places[0]):
            continue
        with suppress(DamagedCheckpointError):
            check_whole(file)
            return f"the one before it is whole: --resume {file}"
    return "there is no whole one before it; start anew without --resume"
