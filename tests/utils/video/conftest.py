"""Fixtures of the video tests: the generated files, and a source without a file."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from utils.video.decoders import DECODERS
from utils.video.source import DecodedFrame, DecodeLoss, Image, VideoInfo, VideoSource

ROOT = Path(__file__).resolve().parents[3]


def _load_video_files() -> ModuleType:
    # Test folders are no packages, so the helper beside them is loaded by its path.
    name = "video_trigger_test_video_files"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, ROOT / "tests" / "video_files.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "recipe" in metafunc.fixturenames:
        recipes = _load_video_files().RECIPES
        metafunc.parametrize("recipe", recipes, ids=lambda recipe: recipe.name)
    if "decoder" in metafunc.fixturenames:
        metafunc.parametrize("decoder", list(DECODERS))


@pytest.fixture(scope="session")
def video_files() -> ModuleType:
    """The module ``tests/video_files.py``."""
    return _load_video_files()


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Any], Path]:
    """Writes a recipe once a session and gives its path."""
    folder = tmp_path_factory.mktemp("videos")
    paths: dict[str, Path] = {}

    def write(recipe: Any) -> Path:
        if recipe.name not in paths:
            paths[recipe.name] = recipe.write(folder)
        return paths[recipe.name]

    return write


@pytest.fixture(scope="session")
def real_videos() -> list[Path]:
    """The validation streams of the fight data set."""
    data = Path(os.environ.get("VIDEO_TRIGGER_DATA", ROOT.parent / "shared"))
    folder = data / "data" / "fight_streams" / "val"
    videos = sorted(folder.glob("*.mp4"))
    if not videos:
        pytest.skip(f"no real videos: {folder} holds no MP4; set VIDEO_TRIGGER_DATA")
    return videos


class FakeFrame(DecodedFrame):
    """A frame whose pixels are its index; counts how often it is converted."""

    def __init__(self, frame_index: int, timestamp: float) -> None:
        self.frame_index = frame_index
        self.timestamp = timestamp
        self.num_conversions = 0

    def rgb(self) -> Image:
        self.num_conversions += 1
        return np.full((2, 2, 3), self.frame_index % 256, np.uint8)


class FakeSource(VideoSource):
    """Frames at given times, without a file."""

    def __init__(self, times: Sequence[float]) -> None:
        self.info = VideoInfo(
            path="fake.mp4",
            codec="none",
            width=2,
            height=2,
            rotation=0,
            source_fps=None,
            duration_seconds=None,
        )
        self.loss = DecodeLoss()
        self.given = [FakeFrame(index, time) for index, time in enumerate(times)]
        self.num_decoded = 0

    def frames(self, start_seconds: float = 0.0) -> Iterator[DecodedFrame]:
        for frame in self.given:
            if frame.timestamp >= start_seconds:
                self.num_decoded += 1
                yield frame

    def close(self) -> None:
        pass


@pytest.fixture(scope="session")
def fake_source() -> type[FakeSource]:
    """The class: ``fake_source(times)``."""
    return FakeSource
