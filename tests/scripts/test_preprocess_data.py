"""The command: what it prints, what it writes, how it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.preprocess_data import command
from utils.data.annotations import load_annotations
from video_files import Recipe

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "preprocess_data.py"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six videos of two seconds in three groups, as CSV and in our own format."""
    folder = tmp_path_factory.mktemp("set")
    rows = ["video,start,end,label"]
    videos = []
    for number in range(6):
        name = f"v/{number}.mp4"
        (folder / "v").mkdir(exist_ok=True)
        # No two are the same: each starts with another picture.
        Recipe(name=f"{number}.mp4", ticks=range(40 + number)).write(folder / "v")
        rows += [f"{name},0.2,1,x", f"{name},1.2,,y"]
        events = [{"start": 0.2, "end": 1, "label": "x"}, {"time": 1.2, "label": "y"}]
        videos.append({"video": name, "group": f"g{number // 2}", "events": events})
    (folder / "a.csv").write_text("\n".join(rows))
    (folder / "a.json").write_text(json.dumps({"labels": ["y", "x"], "videos": videos}))
    return folder


def test_as_a_person_runs_it(dataset: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--input", str(dataset / "a.csv"), "--from", "csv",
         "--output", "out"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == f"{dataset / 'a.csv'}: 6 videos, 12 events, 0 errors, 0 warnings"
    assert lines[1].startswith("all: 6 videos (0 without events), ")
    assert lines[-2:] == [
        f"picture: {Path('out/dataset.png')}",
        f"written: {Path('out/annotations.json')}",
    ]
    assert done.stderr == ""
    written = load_annotations(tmp_path / "out" / "annotations.json")
    assert written.labels == ("x", "y")
    for video in written.videos:
        # The paths lead from the new file to the old videos; what the files say is filled in.
        assert video.path.is_file()
        assert video.fps == 25
        assert video.duration is not None


def test_split(dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--input", str(dataset / "a.json"), "--output", str(tmp_path / "out")]
    assert command([*arguments, "--split", "0.4", "0.3", "0.3"]) == 0
    groups = []
    for name in ("train", "val", "test"):
        written = load_annotations(tmp_path / "out" / name / "annotations.json")
        assert written.labels == ("y", "x")
        assert all(video.path.is_file() for video in written.videos)
        (group,) = {video.group for video in written.videos}
        groups.append(group)
        assert (
            f"{name}: 2 videos (0 without events), " in capsys.readouterr().out or name != "train"
        )
    assert sorted(group or "" for group in groups) == ["g0", "g1", "g2"]
    assert (tmp_path / "out" / "dataset.png").stat().st_size > 5000


def test_videos_without_group(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--input", str(dataset / "a.csv"), "--from", "csv", "--split", "0.5", "0.5"]
    assert command([*arguments, "--output", str(tmp_path / "out")]) == 0
    assert "6 of 6 videos have no 'group': each may land in any split" in (capsys.readouterr().err)


def test_conversion_says_what_is_lost(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "out" / "annotations.json"
    arguments = ["--input", str(dataset / "a.json"), "--output", str(tmp_path / "out")]
    assert command([*arguments, "--to", "e2e_spot"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[lines.index(f"written: {place}") + 1 :] == [
        f"lost in {place}: E2E-Spot: 6 intervals became points at their start",
        f"lost in {place}: E2E-Spot: the groups of 6 videos are lost",
    ]
    assert (tmp_path / "out" / "class.txt").read_text() == "y\nx\n"
    # And back.
    again = ["--input", str(place), "--from", "e2e_spot", "--output", str(tmp_path / "again")]
    assert command(again) == 0
    back = load_annotations(tmp_path / "again" / "annotations.json")
    assert all(video.path.is_file() for video in back.videos)


@pytest.mark.parametrize("name", ["cvat", "label_studio", "activitynet", "csv"])
def test_there_and_back(dataset: Path, tmp_path: Path, name: str) -> None:
    """Whatever the format, the videos are found again from where the annotations now lie."""
    from utils.data.formats import get_format

    arguments = ["--input", str(dataset / "a.json"), "--output", str(tmp_path / "out")]
    assert command([*arguments, "--to", name]) == 0
    place = tmp_path / "out" / get_format(name).default_name
    again = ["--input", str(place), "--from", name, "--output", str(tmp_path / "again")]
    assert command(again) == 0
    back = load_annotations(tmp_path / "again" / "annotations.json")
    assert all(video.path.is_file() for video in back.videos)
    assert [len(video.events) for video in back.videos] == [2] * 6


def test_all_that_is_wrong_is_listed_and_nothing_written(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = dataset / "wrong.csv"
    path.write_text(
        "video,start,end,label\nv/0.mp4,1,0.5,x\nv/0.mp4,0,99,x\nv/0.mp4,1,1.4,x\n"
        "gone.mp4,1,2,z\nv/1.mp4,one,2,x\n"
    )
    arguments = ["--input", str(path), "--from", "csv", "--labels", "x", "y"]
    assert command([*arguments, "--output", str(tmp_path / "out")]) == 2
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    where = f"{path}: video"
    assert (
        f"error: {where} 'v/1.mp4', line 6: 'start' must be a number of seconds, got 'one'" in lines
    )
    assert (
        f"error: {where} 'v/0.mp4', line 2 ('x'): 'end' (0.5) must lie after 'start' (1)" in lines
    )
    assert f"error: {where} 'gone.mp4', line 5 ('z'): unknown label 'z'; known: x, y" in lines
    assert any("'gone.mp4'" in line and line.endswith("no such file") for line in lines)
    assert any("lies past the end of the video" in line for line in lines)
    assert any(line.startswith("warning: ") and "overlaps line 3" in line for line in lines)
    assert lines[-1] == f"{path}: 3 videos, 4 events, 5 errors, 3 warnings"
    assert captured.err.splitlines()[-1] == (
        f"error: {path}: 5 errors, listed above; nothing was written"
    )
    assert not (tmp_path / "out").exists()


def test_check_only(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(dataset.rglob("*"))
    assert command(["--input", str(dataset / "a.json"), "--check-only"]) == 0
    assert sorted(dataset.rglob("*")) == before
    assert "0 errors, 0 warnings" in capsys.readouterr().out


def test_without_the_videos(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.csv").write_text("video,start,end,label\ngone.mp4,1,2,x\n")
    arguments = ["--input", str(tmp_path / "a.csv"), "--from", "csv", "--no-check-files"]
    assert command([*arguments, "--output", str(tmp_path / "out")]) == 0
    # Frames can be counted where somebody says how many there are.
    more = ["--fps", "10", "--to", "label_studio", "--output", str(tmp_path / "out2")]
    assert command([*arguments, *more]) == 0
    (task,) = json.loads((tmp_path / "out2" / "tasks.json").read_text())
    assert task["annotations"][0]["result"][0]["value"]["ranges"] == [{"start": 11, "end": 20}]


def test_overwrite(dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--input", str(dataset / "a.json"), "--output", str(tmp_path)]
    assert command(arguments) == 0
    assert command(arguments) == 2
    place = tmp_path / "annotations.json"
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"error: {place} exists already; choose another --output, or add --overwrite"
    )
    assert command([*arguments, "--overwrite"]) == 0
    cvat = [*arguments, "--to", "cvat", "--overwrite"]
    assert command(cvat) == 0
    assert command(cvat) == 2
    assert "cvat exists already; choose another --output, or remove it first" in (
        capsys.readouterr().err
    )


def test_build_cache(dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.yaml").write_text(
        f"data: {{cache_dir: {tmp_path / 'cache'}, image_size: 32, frame_sampling_rate: 5}}\n"
    )
    arguments = ["--input", str(dataset / "a.json"), "--config", str(tmp_path / "config.yaml")]
    arguments += ["--output", str(tmp_path / "out"), "--split", "0.5", "0.5", "--build-cache"]
    assert command(arguments) == 0
    assert capsys.readouterr().out.splitlines()[-1] == (
        f"cache: frames of 6 videos, sampled 53 times, in {tmp_path / 'cache'}"
    )
    assert len(list((tmp_path / "cache").glob("*/entry.json"))) == 6
    encoder = {"type": "timm:test_resnet", "weights": None}
    settings = {"model.visual_encoder": encoder, "training.cache_features": True}
    settings["freezing.visual_backbone"] = True
    given = [f"--set={key}={json.dumps(value)}" for key, value in settings.items()]
    assert command([*arguments, "--overwrite", "--device", "cpu", *given]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == (
        f"cache: features of 6 videos, sampled 53 times, in {tmp_path / 'cache'}"
    )
    assert len(list((tmp_path / "cache").glob("*/entry.json"))) == 12
    assert command([*arguments, "--overwrite", "--set", "data.cache_dir=null"]) == 2
    assert "there is no cache to build: data.cache_dir is null" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ((), "error: --output names the folder for the result; or give --check-only"),
        (("--check-only", "--fps", "0"), "error: --fps must be above 0, got 0"),
        (("--check-only", "--split", "1"), "error: --split takes two or three shares"),
        (("--check-only", "--build-cache"), "error: --check-only writes nothing, not even a cache"),
        (("--check-only", "--from", "cvst"), "error: unknown annotation format 'cvst'; known: act"),
        (("--check-only", "--to", "x"), "error: unknown annotation format 'x'; known: activitynet"),
        (("--check-only", "--from", "csv"), "error: {path}: the first line must name the columns"),
        (
            ("--check-only", "--split", "1", "1", "0"),
            "error: the fraction of split 'test' must be above 0, got 0",
        ),
    ],
)
def test_refusals(
    dataset: Path, capsys: pytest.CaptureFixture[str], extra: tuple[str, ...], message: str
) -> None:
    path = dataset / "a.json"
    assert command(["--input", str(path), *extra]) == 2
    captured = capsys.readouterr()
    assert message.format(path=path) in captured.err
