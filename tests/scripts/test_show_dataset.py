"""The command: the page that it writes, and what it does where a video is broken."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from scripts.show_dataset import command
from utils.video.decoders.isolated import IsolatedPyAvSource
from utils.video.source import VideoSource
from video_files import Recipe

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "show_dataset.py"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("set")
    Recipe(name="a.mp4", ticks=range(200)).write(folder)
    events = [
        {"start": 1, "end": 2, "label": "x"},
        {"start": 1.5, "end": 3, "label": "y & z"},
        {"time": 7, "label": "x"},
    ]
    broken = {"video": "gone.mp4", "events": [{"time": 1, "label": "x"}]}
    videos = [{"video": "a.mp4", "duration": 8, "events": events}]
    labels = ["x", "y & z"]
    (folder / "a.json").write_text(json.dumps({"labels": labels, "videos": videos}))
    (folder / "broken.json").write_text(json.dumps({"labels": labels, "videos": [broken, *videos]}))
    return folder


def test_as_a_person_runs_it(dataset: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--annotations", str(dataset / "a.json"),
         "--output", "new/page.html"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"page: {Path('new/page.html')} (4 strips)\n"
    page = (tmp_path / "new" / "page.html").read_text(encoding="utf-8")
    assert page.startswith("<!DOCTYPE html>")
    assert page.endswith("</html>\n")
    assert page.count("<article>") == 4
    assert page.count("<img ") == 8 + 5 + 8 + 8  # The point's last moments are past the end.
    # Everything is inside, nothing runs, and nothing is fetched.
    assert "<script" not in page
    assert "http:" not in page
    assert "https:" not in page
    assert "y &amp; z" in page


def test_fewer(dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--annotations", str(dataset / "a.json"), "--output", str(tmp_path / "p.html")]
    assert command([*arguments, "--per-class", "1", "--labels", "x", "--height", "24"]) == 0
    # One of x, one of background.
    assert capsys.readouterr().out.endswith("(2 strips)\n")
    assert "y &amp; z" not in (tmp_path / "p.html").read_text().replace("at the same time", "")


def test_a_broken_video_does_not_stop_the_others(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        "--annotations",
        str(dataset / "broken.json"),
        "--output",
        str(tmp_path / "p.html"),
    ]
    assert command(arguments) == 1
    page = (tmp_path / "p.html").read_text()
    assert "gone.mp4: no such file" in page
    assert page.count("<img ") > 20
    assert "error: 1 videos could not be shown; the page says why" in capsys.readouterr().err


def test_each_video_is_opened_once(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    honest = VideoSource.open

    def counted(path: Any, *, decoder: str = "pyav") -> VideoSource:
        opened.append(Path(path).name)
        return honest(path, decoder=decoder)

    monkeypatch.setattr(VideoSource, "open", counted)
    Recipe(name="b.mp4", ticks=range(200)).write(tmp_path)
    (tmp_path / "a.mp4").symlink_to(dataset / "a.mp4")
    videos = json.loads((dataset / "a.json").read_text())["videos"]
    content = {"labels": ["x", "y & z"], "videos": [*videos, {**videos[0], "video": "b.mp4"}]}
    (tmp_path / "two.json").write_text(json.dumps(content))
    arguments = ["--annotations", str(tmp_path / "two.json"), "--output", str(tmp_path / "p.html")]
    assert command(arguments) == 0
    assert sorted(opened) == ["a.mp4", "b.mp4"]
    page = (tmp_path / "p.html").read_text()
    # By class, and the videos of each in order, whatever the order in which they were read.
    assert re.findall(r"<h3>(\w)\.mp4", page) == list("aabbabab")
    assert 'height="48"' in page, "pictures are not enlarged"


def test_a_decoder_that_dies_in_one_strip_is_not_missed_in_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[1]))
    monkeypatch.setattr(IsolatedPyAvSource, "target", "misbehaving_decoders:Crashing")
    (tmp_path / "a.mp4").touch()
    events = [{"start": start, "end": start + 0.4, "label": "x"} for start in (0.1, 0.3, 6.0)]
    videos = [{"video": "a.mp4", "duration": 10, "events": events}]
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"labels": ["x"], "videos": videos}))
    arguments = ["--annotations", str(path), "--output", str(tmp_path / "p.html")]
    assert command([*arguments, "--labels", "x"]) == 1
    page, said = (tmp_path / "p.html").read_text(), capsys.readouterr().err
    # It gives frames up to 1 s: the first two strips have some, the third has none.
    assert page.count("<img ") >= 4
    assert "was killed by SIGSEGV before a frame at or after 5.500 s" in page
    assert "was killed by SIGSEGV after 1.000 s" in said


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (("--per-class", "0"), "error: --per-class must be 1 or more, got 0"),
        (("--height", "-1"), "error: --height must be 1 or more, got -1"),
        (("--labels", "xx"), "error: --labels: no class 'xx' in {path}; it has x, y & z"),
        (("--from", "nativ"), "error: unknown annotation format 'nativ'; known: "),
        (("--output", "{folder}"), "error: {folder}: cannot be written: "),
    ],
)
def test_refusals(
    dataset: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    extra: tuple[str, ...],
    message: str,
) -> None:
    path = dataset / "a.json"
    arguments = ["--annotations", str(path), "--output", str(tmp_path / "p.html")]
    assert command([*arguments, *(part.format(folder=tmp_path) for part in extra)]) == 2
    assert capsys.readouterr().err.startswith(message.format(path=path, folder=tmp_path))
    assert not (tmp_path / "p.html").exists()
