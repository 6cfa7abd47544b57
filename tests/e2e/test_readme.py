"""The README: every command and the Python example, run in its order on miniature data.

The commands run as they are written, in a folder that looks like a checkout: the programs are the
project's own, ``configs/config.yaml`` is a tiny model's, and at the paths that the README names lie
tiny videos. A command that is new in the README fails here until it is run or has a reason not to.
"""

from __future__ import annotations

import json
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import training_files
from scripts import (
    compare_runs,
    evaluate,
    make_synthetic_dataset,
    preprocess_data,
    show_dataset,
)

import inference  # isort: skip
import train  # isort: skip

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")

NOT_RUN_HERE = {
    "make demo": "takes minutes and sets up an environment; what it would run is checked below",
    "make test": "is what runs this test",
    "tensorboard --logdir logs": "serves until it is stopped; it reads the logs once below",
    "torchrun --nproc_per_node 2 train.py --config configs/config.yaml": (
        "starts processes of its own; test_torchrun.py does"
    ),
}
SHORTENED = ("--num-train", "1", "--num-val", "1", "--num-test", "1", "--duration", "8")
"""Added to commands that draw videos: thirty-six, or three of an hour, are too many for a test."""
PARSERS = {
    "train.py": train.build_parser,
    "inference.py": inference.build_parser,
    "scripts/compare_runs.py": compare_runs.build_parser,
    "scripts/evaluate.py": evaluate.build_parser,
    "scripts/make_synthetic_dataset.py": make_synthetic_dataset.build_parser,
    "scripts/preprocess_data.py": preprocess_data.build_parser,
    "scripts/show_dataset.py": show_dataset.build_parser,
}


def code_blocks(language: str) -> list[str]:
    """Of fenced code, without the indentation that a list gives it."""
    blocks = re.findall(rf"^( *)```{language}\n(.*?)^ *```$", README, re.MULTILINE | re.DOTALL)
    return [re.sub(rf"^{indent}", "", body, flags=re.MULTILINE) for indent, body in blocks]


def commands() -> list[str]:
    """Every line of the shell's code, without comments."""
    lines = (shlex.join(shlex.split(line, comments=True)) for block in code_blocks("bash")
             for line in block.splitlines())  # fmt: skip
    return [line for line in lines if line]


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to run the README's commands in; the current one."""
    for name in ("train.py", "inference.py", "scripts"):
        (tmp_path / name).symlink_to(ROOT / name)
    config = training_files.plain_config(tmp_path, tmp_path)
    config["data"].update(
        train_annotations="data/train/annotations.json", val_annotations="data/val/annotations.json"
    )
    config["training"].update(checkpoint_dir="checkpoints", log_dir="logs")
    # The default, with its watchdog: this is what people run.
    del config["data"]["decoder"]
    # The README resumes from epoch 10, and has a command that wants saved scores.
    config["training"].update(num_epochs=10, clips_per_epoch=2)
    config["inference"] = {"save_scores": True}
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "config.yaml").write_text(yaml.safe_dump(config))
    for seed, split in enumerate(("train", "val")):
        folder = tmp_path / "data" / split
        folder.mkdir(parents=True)
        events = training_files.write_video(folder / "clip.mp4", seed=seed)
        content = {
            "labels": training_files.LABELS,
            "videos": [{"video": "clip.mp4", "events": events}],
        }
        (folder / "annotations.json").write_text(json.dumps(content))
    rows = ["video,start,end,label"]
    for seed in range(4):
        events = training_files.write_video(tmp_path / f"{seed}.mp4", seconds=4, seed=seed)
        rows += [f"{seed}.mp4,{one['start']},{one['end']},{one['label']}" for one in events]
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    for name in ("PATH", "video.mp4"):
        shutil.copy(tmp_path / "data" / "val" / "clip.mp4", tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_python(command: str, monkeypatch: pytest.MonkeyPatch, *more: str) -> int:
    """``python FILE ...`` in this process, which has torch already; returns the exit code."""
    program, *arguments = shlex.split(command)
    assert program == "python", f"no test knows how to run: {command}"
    monkeypatch.setattr(sys, "argv", [*arguments, *more])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(arguments[0], run_name="__main__")
    code = ended.value.code
    return code if isinstance(code, int) else int(code is not None)


def keys(content: Any, prefix: str = "") -> set[str]:
    """Of all objects in ``content``, with those around them."""
    if isinstance(content, list):
        return set().union(*(keys(item, prefix) for item in content))
    if not isinstance(content, dict):
        return set()
    here = {f"{prefix}{key}" for key in content}
    return here.union(*(keys(value, f"{prefix}{key}.") for key, value in content.items()))


def test_every_command_runs_in_the_order_of_the_readme(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    ran = [command for command in commands() if command not in NOT_RUN_HERE]
    assert len(ran) >= 8, "the README's code was not found"
    for command in ran:
        more = SHORTENED if "make_synthetic_dataset.py" in command else ()
        # The name of a run is the time at which it began.
        runs = sorted(path.name for path in Path("logs").glob("*"))
        code = run_python(
            command.replace("logs/RUN", f"logs/{runs[-1]}" if runs else ""), monkeypatch, *more
        )
        assert code == 0, f"{command}\n{capfd.readouterr().err}"

    # What the README says that they leave behind.
    for name in ("checkpoint_epoch_10.pt", "best_checkpoint.pt", "final_checkpoint.pt"):
        assert (workplace / "checkpoints" / name).is_file()
    report = json.loads((workplace / "outputs" / "analysis.json").read_text())
    (shown,) = (json.loads(block) for block in code_blocks("json"))
    assert keys(shown) <= keys(report), "the README's report has keys that ours has not"
    stricter = json.loads((workplace / "outputs" / "stricter.json").read_text())
    assert stricter["config"]["threshold"] == 0.5
    assert json.loads((workplace / "metrics.json").read_text())["num_videos"] == 1
    assert (workplace / "data" / "street" / "test" / "annotations.json").is_file()
    for split in ("train", "val", "test"):
        assert (workplace / "data" / "mine" / split / "annotations.json").is_file()
    assert "<img " in (workplace / "page.html").read_text()
    assert (workplace / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((workplace / "comparison.json").read_text())

    (example,) = code_blocks("python")
    found: dict[str, Any] = {}
    exec(compile(example, "README.md", "exec"), found)
    assert len(found["timestamps"]) == 18
    assert found["results"]["num_frames_analyzed"] == 18

    # TensorBoard, which would serve for ever, reads what training logged.
    board = Path(sys.executable).with_name("tensorboard")
    inspected = subprocess.run(
        [board, "--inspect", "--logdir", "logs"], capture_output=True, text=True, check=False
    )
    assert inspected.returncode == 0, inspected.stderr
    assert "frame_ap" in inspected.stdout


def test_what_is_not_run_has_a_reason_and_is_in_the_readme() -> None:
    assert set(NOT_RUN_HERE) <= set(commands())
    assert all(NOT_RUN_HERE.values())


@pytest.mark.parametrize("target", ["demo", "test", "lint", "bench"])
def test_what_make_would_run(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its programs exist and take the arguments that they are given; its configs load."""
    monkeypatch.delenv("MAKEFLAGS", raising=False)
    shown = subprocess.run(
        ["make", "--dry-run", "--always-make", target],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.replace("\\\n", " ")  # fmt: skip
    ran = 0
    for line in shown.splitlines():
        words = shlex.split(line)
        program = words[1] if len(words) > 1 else ""
        if words[:1] != [".venv/bin/python"] or not program.endswith(".py"):
            continue
        arguments = PARSERS[program]().parse_args(words[2:])
        config = getattr(arguments, "config", None)
        assert config is None or (ROOT / config).is_file(), line
        ran += 1
    assert ran == (4 if target == "demo" else 0)
    expected = {
        "demo": "inference.py",
        "test": "pytest",
        "lint": "mypy",
        "bench": ".venv/bin/python benchmarks",
    }
    assert expected[target] in shown


def test_links_lead_somewhere() -> None:
    links = re.findall(r"\[[^\]]*\]\(([^)#:]+)\)", README)
    assert links
    assert not [link for link in links if not (ROOT / link).exists()]


@pytest.mark.slow
def test_the_street_is_drawn_as_the_readme_says(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At its full length, which takes a minute or two."""
    (command,) = (line for line in commands() if "data/street" in line)
    assert run_python(command, monkeypatch) == 0
    street = workplace / "data" / "street"
    for split, count in (("train", 24), ("val", 6), ("test", 6)):
        assert len(list((street / split).glob("*.mp4"))) == count
