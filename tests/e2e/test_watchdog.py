"""No decoder can hang or crash a command: one that tries is stopped, and what is missing is said.

With the default decoder, whose process runs one of ``tests/misbehaving_decoders.py`` here: it gives
three frames, up to 1.0 s, of a video that claims ten seconds.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

import inference
import pipeline_files
import train
import training_files
from scripts import evaluate
from utils import cli
from utils.video.decoders.isolated import IsolatedPyAvSource

WHY = {
    "Stuck": "the decoder made no progress for 2 s and was stopped after 1.000 s",
    "Crashing": "the decoder was killed by SIGSEGV after 1.000 s",
}


@pytest.fixture(params=sorted(WHY))
def why(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What is said of the decoder that every video gets."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[1]))
    monkeypatch.setattr(IsolatedPyAvSource, "target", f"misbehaving_decoders:{request.param}")
    defaults = IsolatedPyAvSource.__init__.__kwdefaults__
    assert defaults is not None
    monkeypatch.setitem(defaults, "stall_seconds", 2.0)
    return WHY[request.param]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    video = pipeline_files.write_video(tmp_path / "clip.mp4", num_frames=40)
    plain = pipeline_files.tiny_config().to_plain()
    del plain["data"]["decoder"]
    path: Path = pipeline_files.write_checkpoint(tmp_path / "c.pt", video, config=plain)
    return path


def test_inference(tmp_path: Path, checkpoint: Path, why: str) -> None:
    arguments = ["--checkpoint", checkpoint, "--video", tmp_path / "clip.mp4"]
    arguments += ["--output", tmp_path / "out.json", "--device", "cpu"]
    assert inference.main([str(part) for part in arguments]) == 0
    report = json.loads((tmp_path / "out.json").read_text())
    assert report["num_frames_analyzed"] == 3
    assert report["data_loss"]["notes"] == [f"{why}: 8.50 s at the end are missing"]
    assert report["data_loss"]["lost_seconds"] == 8.5


@pytest.mark.parametrize("why", ["Crashing"], indirect=True)
def test_evaluate(tmp_path: Path, checkpoint: Path, why: str) -> None:
    truth = {
        "labels": list(pipeline_files.LABELS),
        "videos": [{"video": "clip.mp4", "events": [{"time": 0.5, "label": "person_walking"}]}],
    }
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    arguments = ["--checkpoint", checkpoint, "--annotations", tmp_path / "truth.json"]
    arguments += ["--output", tmp_path / "metrics.json", "--device", "cpu"]
    assert cli.run(evaluate.main, evaluate.build_parser(), [str(part) for part in arguments]) == 0
    assert json.loads((tmp_path / "metrics.json").read_text())["num_videos"] == 1


@pytest.mark.parametrize("why", ["Crashing"], indirect=True)
def test_training(tmp_path: Path, why: str, capsys: pytest.CaptureFixture[str]) -> None:
    data = training_files.write_data(tmp_path / "data")
    for path in data.glob("*.json"):
        content = json.loads(path.read_text())
        # Within the second that can be decoded.
        for video in content["videos"]:
            video["events"] = [{"time": 0.5, "label": "flash"}]
        path.write_text(json.dumps(content))
    plain = training_files.plain_config(data, tmp_path / "run")
    del plain["data"]["decoder"]
    plain["training"]["num_epochs"] = 1
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(plain))
    assert cli.run(train.main, train.build_parser(), ["--config", str(path), "--device=cpu"]) == 0
    assert (tmp_path / "run" / "checkpoints" / "final_checkpoint.pt").is_file()
    assert capsys.readouterr().err.count(f"{why}: 8.50 s at the end are missing") == 3
