"""Fixtures of the video tests: the generated files, and a source without a file."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import video_files as files
from utils.errors import MissingPackageError
from utils.video.decoders import DECODERS
from utils.video.source import DecodedFrame, DecodeLoss, Image, VideoInfo, VideoSource

ROOT = Path(__file__).resolve().parents[3]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case" in metafunc.fixturenames:
        cases = [
            (decoder, recipe)
            for decoder in DECODERS
            for recipe in files.RECIPES
            if recipe.name not in files.REFUSALS.get(decoder, {})
        ]
        metafunc.parametrize("case", cases, ids=_case_name, indirect=True, scope="module")
    if "refused" in metafunc.fixturenames:
        by_name = {recipe.name: recipe for recipe in files.RECIPES}
        refused = [
            (decoder, by_name[name], why)
            for decoder, table in files.REFUSALS.items()
            for name, why in table.items()
        ]
        metafunc.parametrize("refused", refused, ids=_case_name)
    if "decoder" in metafunc.fixturenames:
        metafunc.parametrize("decoder", list(DECODERS))


def _case_name(case: tuple[Any, ...]) -> str:
    return f"{case[0]}-{case[1].name}"


def require(decoder: str) -> None:
    """Skip the test where the decoder's package is not installed."""
    try:
        DECODERS.resolve(decoder)
    except MissingPackageError as error:
        pytest.skip(str(error))


@dataclass(frozen=True, kw_only=True)
class Case:
    """A generated file, open in one of the decoders."""

    decoder: str
    recipe: Any
    source: VideoSource


@pytest.fixture(scope="module")
def case(request: pytest.FixtureRequest, written: Callable[[Any], Path]) -> Iterator[Case]:
    """Every decoder with every recipe that it does not refuse, opened once for all tests."""
    decoder, recipe = request.param
    require(decoder)
    with VideoSource.open(written(recipe), decoder=decoder) as source:
        yield Case(decoder=decoder, recipe=recipe, source=source)


@pytest.fixture(scope="session")
def video_files() -> ModuleType:
    """The module ``tests/video_files.py``."""
    return files


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
        self.short_side: int | None = None
        self.frame_index = frame_index
        self.timestamp = timestamp
        self.num_conversions = 0

    def rgb(self, *, short_side: int | None = None) -> Image:
        self.num_conversions += 1
        self.short_side = short_side
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
