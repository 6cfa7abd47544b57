"""Fixtures of the inference tests."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

import pipeline_files

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def helpers() -> ModuleType:
    """The module ``tests/pipeline_files.py``."""
    return pipeline_files


@pytest.fixture(scope="session")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten seconds at 10 frames a second."""
    path: Path = pipeline_files.write_video(tmp_path_factory.mktemp("videos") / "clip.mp4")
    return path


@pytest.fixture(scope="session")
def checkpoint(video: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a tiny bidirectional model."""
    path: Path = pipeline_files.write_checkpoint(
        tmp_path_factory.mktemp("checkpoints") / "final_checkpoint.pt", video
    )
    return path
