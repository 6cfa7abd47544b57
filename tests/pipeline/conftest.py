"""Fixtures of the inference tests."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


def _load_helpers() -> ModuleType:
    # Test folders are no packages, so the helper beside them is loaded by its path.
    name = "video_trigger_test_pipeline_files"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, ROOT / "tests" / "pipeline_files.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


@pytest.fixture(scope="session")
def helpers() -> ModuleType:
    """The module ``tests/pipeline_files.py``."""
    return _load_helpers()


@pytest.fixture(scope="session")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten seconds at 10 frames a second."""
    path: Path = _load_helpers().write_video(tmp_path_factory.mktemp("videos") / "clip.mp4")
    return path


@pytest.fixture(scope="session")
def checkpoint(video: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a tiny bidirectional model."""
    path: Path = _load_helpers().write_checkpoint(
        tmp_path_factory.mktemp("checkpoints") / "final_checkpoint.pt", video
    )
    return path
