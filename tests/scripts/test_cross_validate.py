"""The command: its table, its file, how it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scripts.cross_validate import build_parser, main
from training_files import CACHED, write_config, write_data
from utils import cli


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


def test_table_and_file(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changes = {key.replace("__", "."): value for key, value in CACHED.items()}
    config = write_config(data, tmp_path / "work", **changes)
    output = tmp_path / "folds.json"
    arguments = ["--config", str(config), "--device", "cpu", "--folds", "3", "--seeds", "0", "1"]
    arguments += ["--set", "training.num_epochs=1", "--output", str(output)]
    assert cli.run(main, build_parser(), arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    content = json.loads(output.read_text())
    assert [(fold["seed"], fold["fold"]) for fold in content["folds"]] == [
        (0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2),
    ]  # fmt: skip
    assert content["config"]["training"]["num_epochs"] == 1
    headings = "frame AP trigger head AP frame AUROC event F1 false alarms/h"
    assert lines[0].split() == headings.split()
    assert lines[1].startswith("seed 0, ")
    mean = content["summary"]["frame_ap"]["mean"]
    assert lines[7].startswith(f"mean {'':>21}  {mean:>15.3f}")
    assert [line[:20] for line in lines[8:10]] == ["deviation over folds", "deviation over seeds"]
    assert lines[-1] == f"figures: {output}"


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--folds", "1"], "cross-validation needs two folds or more, got 1"),
        (["--folds", "9"], "3 groups cannot be cut into 9 folds"),
        (["--seeds", "1", "1"], "--seeds 1 1: give each seed once, and none below 0"),
        (
            ["--set", "data.train_annotations=null", "--set", "data.val_annotations=null"],
            "there is nothing to validate on; give --annotations FILE",
        ),
    ],
)
def test_refusals(
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    extra: list[str],
    message: str,
) -> None:
    config = write_config(data, tmp_path / "work")
    assert cli.run(main, build_parser(), ["--config", str(config), *extra]) == 2
    assert message in capsys.readouterr().err
