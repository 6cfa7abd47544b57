"""Fixtures of the inference tests and of the training tests."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import pipeline_files
import training_files
from utils.config import Config, parse_config

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


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two annotated videos to train on and one to validate."""
    folder: Path = training_files.write_data(tmp_path_factory.mktemp("data"))
    return folder


@pytest.fixture
def make_config(data: Path, tmp_path: Path) -> training_files.MakeConfig:
    """``(folder to write to, changes by dotted key with __ for dots) -> config``."""

    def make(work: str = "run", **changes: Any) -> Config:
        dotted = {key.replace("__", "."): value for key, value in changes.items()}
        return parse_config(
            training_files.merge(training_files.plain_config(data, tmp_path / work), dotted)
        )

    return make
