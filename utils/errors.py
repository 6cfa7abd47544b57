"""The one exception tree: every error that a user can cause or meet, for all rooms of the house.

A message says what is wrong, the offending value, and the remedy or the allowed values. Commands
print it as one ``error:`` line (`utils.cli`) and exit with the class's ``exit_code``.
"""

from __future__ import annotations

import os
from pathlib import Path


class VideoTriggerError(Exception):
    """Base of all errors that are meant for the user; anything else is a bug."""

    exit_code = 1


class UsageError(VideoTriggerError, ValueError):
    """The command or call was given something that it cannot take."""

    exit_code = 2


class ConfigError(UsageError):
    """A configuration file or override is wrong; the message names file, key and value."""


class UnknownNameError(UsageError):
    """A name that is in no table; the message lists the known ones."""


class MissingPackageError(VideoTriggerError, ImportError):
    """An optional package is absent; the message names the entry and the ``pip install``."""


class VideoError(VideoTriggerError):
    """A video that cannot be used.

    Attributes:
        path: The file or URL, as given.
        reason: What is wrong with it, without the path.
    """

    def __init__(self, path: str | os.PathLike[str], reason: str) -> None:
        self.path = os.fspath(path)
        self.reason = reason
        super().__init__(f"{self.path}: {reason}")

    def __reduce__(self) -> tuple[type[VideoError], tuple[str, str]]:
        # Exceptions cross process borders in loader workers; the default rebuilds from `args`.
        return type(self), (self.path, self.reason)


class VideoNotFoundError(VideoError, FileNotFoundError):
    """There is no such file, or it is no regular file."""

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class EmptyVideoError(VideoError):
    """The file has no bytes, or no frame that can be decoded."""


class NotAVideoError(VideoError):
    """The bytes are in no container that the decoder knows."""


class NoVideoStreamError(VideoError):
    """The container is sound but holds no video, such as an audio file."""


class VideoDecodeError(VideoError):
    """Decoding broke off where nothing more could be used."""


class AnnotationError(UsageError):
    """An annotation file is wrong; the message names file, video, event and field."""


class CheckpointError(VideoTriggerError):
    """A checkpoint is missing, damaged, of another kind, or does not fit the model."""


class DamagedCheckpointError(CheckpointError):
    """A checkpoint was cut off or its bytes have changed; an earlier one may be whole.

    Attributes:
        path: The file.
        reason: What is wrong with it, without the path.
    """

    def __init__(self, path: Path, reason: str) -> None:
        self.path = path
        self.reason = reason
        super().__init__(f"{path}: {reason}; take an earlier one")

    def __reduce__(self) -> tuple[type[DamagedCheckpointError], tuple[Path, str]]:
        # As for `VideoError`.
        return type(self), (self.path, self.reason)


class TrainingError(VideoTriggerError):
    """Training cannot go on; the message names the step, and the clips where they matter."""
