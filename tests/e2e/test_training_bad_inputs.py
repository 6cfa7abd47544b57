"""`train.py` on bad inputs: each has its own message, and what was trained so far is not lost."""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import train
import training_files
from utils import cli
from utils.checkpoint import check_whole
from utils.data.array_cache import file_hash
from utils.training.run_record import read_metrics
from utils.training.updates import UpdateStep

CHANGES = {"training.clips_per_epoch": 32, "training.save_every_steps": 4}
"""Two epochs of 16 updates."""

IN_EPOCH_2 = 18
"""An update; loader workers read no more than a few behind it."""

EPOCH_1 = ["best_checkpoint.pt", "checkpoint_epoch_1.pt"]


def run(config: Path, *arguments: object) -> int:
    """The command in this process, on the CPU."""
    given = ["--config", str(config), "--device", "cpu", *map(str, arguments)]
    return cli.run(train.main, train.build_parser(), given)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, config, and all that a run of two epochs leaves."""
    work = tmp_path_factory.mktemp("run")
    training_files.write_data(work / "data")
    assert run(training_files.write_config(work / "data", work, **CHANGES)) == 0
    return work


@pytest.fixture
def work(finished: Path, tmp_path: Path) -> Path:
    """A copy of it, as if the run had been killed after its first epoch."""
    work = tmp_path / "work"
    shutil.copytree(finished, work)
    for name in ("checkpoint_epoch_2.pt", "final_checkpoint.pt"):
        (work / "checkpoints" / name).unlink()
    training_files.write_config(work / "data", work, **CHANGES)
    return work


Error = Callable[..., str]


@pytest.fixture
def error_of(capsys: pytest.CaptureFixture[str]) -> Error:
    """Run the command, which fails; its one error line without the beginning."""

    def of(config: Path, *arguments: object, code: int = 1) -> str:
        capsys.readouterr()
        assert run(config, *arguments) == code
        out, err = capsys.readouterr()
        assert out == ""
        assert "Traceback" not in err
        lines: list[str] = [line for line in err.splitlines() if line.startswith("error: ")]
        assert lines == err.splitlines()[-1:]
        return lines[0].removeprefix("error: ")

    return of


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.pt"))


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in names(folder)}


def assert_goes_on_to_the_same_end(work: Path, finished: Path) -> None:
    """Whatever happened, ``--resume latest`` ends as the run to which nothing did."""
    for path in (work / "checkpoints").glob("*.pt"):
        check_whole(path)
    assert run(work / "config.yaml", "--resume", "latest") == 0
    one, other = (
        torch.load(folder / "checkpoints" / "final_checkpoint.pt") for folder in (work, finished)
    )
    assert one["global_step"] == other["global_step"]
    assert one["loss"] == other["loss"]
    assert one["metadata"]["metrics"] == other["metadata"]["metrics"]
    for name, tensor in one["model_state_dict"].items():
        assert torch.equal(tensor, other["model_state_dict"][name]), name


@pytest.fixture
def in_update(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Callable[[], Any]], None]:
    """Let something happen as an update begins; once, a run that goes on does it in peace."""
    plain = UpdateStep.run

    def install(number: int, happen: Callable[[], Any]) -> None:
        steps = [number]

        def update(self: UpdateStep, batches: Any, *, step: int, **settings: Any) -> Any:
            if step in steps:
                steps.remove(step)
                happen()
            return plain(self, batches, step=step, **settings)

        monkeypatch.setattr(UpdateStep, "run", update)

    return install


InUpdate = Callable[[int, Callable[[], Any]], None]

# Checkpoints that are not ours


@pytest.mark.parametrize(
    ("foreign", "message"),
    [
        (
            nn.Linear(2, 2).state_dict(),
            "not a checkpoint of this project: it holds weights alone (2 tensors); where its "
            "weights fit the encoder, set model.visual_encoder.weights to it",
        ),
        (
            {"pytorch-lightning_version": "2.5.0", "state_dict": nn.Linear(2, 2).state_dict()},
            "not a checkpoint of this project: it is one of PyTorch Lightning; where its weights "
            "fit the encoder, set model.visual_encoder.weights to it",
        ),
        (
            nn.Linear(2, 2),
            "holds Python objects besides tensors and plain containers, which could run code when "
            "read; save its state_dict() alone where it comes from",
        ),
    ],
    ids=["weights", "lightning", "module"],
)
def test_a_foreign_checkpoint(work: Path, error_of: Error, foreign: Any, message: str) -> None:
    path = work / "foreign.pt"
    torch.save(foreign, path)
    before = contents(work / "checkpoints")
    assert error_of(work / "config.yaml", "--resume", path) == f"{path}: {message}"
    assert contents(work / "checkpoints") == before, "the run that is there was not moved aside"


def test_a_foreign_checkpoint_under_our_name(work: Path, error_of: Error) -> None:
    path = work / "checkpoints" / "checkpoint_epoch_9.pt"
    torch.save(nn.Linear(2, 2).state_dict(), path)
    assert error_of(work / "config.yaml", "--resume", "latest").startswith(
        f"{path}: not a checkpoint of this project: it holds weights alone"
    )
    path.unlink()
    assert names(work / "checkpoints") == EPOCH_1


# Full disks


@contextmanager
def files_limited_to(num_bytes: int) -> Iterator[None]:
    """Writing more to a file fails, as with a quota, in its middle."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_checkpoint_that_finds_no_room(work: Path, finished: Path, error_of: Error) -> None:
    folder = work / "checkpoints"
    before = contents(folder)
    size = (folder / "checkpoint_epoch_1.pt").stat().st_size
    with files_limited_to(size // 2):
        message = error_of(work / "config.yaml", "--resume", "latest")
    assert message == (
        f"{folder}/checkpoint_epoch_1_batch_4.pt: could not be written ([Errno 27] File too "
        "large); earlier checkpoints are untouched: free disk space or set training.checkpoint_dir"
    )
    assert contents(folder) == before
    assert [path for path in folder.iterdir() if path.suffix != ".pt"] == []
    assert_goes_on_to_the_same_end(work, finished)


@contextmanager
def disk_of(size: str, folder: Path) -> Iterator[Path]:
    """A small file system; the test is skipped where this user may not mount one."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("this user may not mount a file system")
    try:
        yield folder
    finally:
        # Later, where files in it are still mapped.
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_cache_that_finds_no_room(work: Path, finished: Path, error_of: Error) -> None:
    before = contents(work / "checkpoints")
    with disk_of("200k", work / "disk") as disk:
        message = error_of(
            work / "config.yaml", "--resume", "latest", "--set", f"data.cache_dir={disk}"
        )
    assert message == (
        f"the cache in {disk} cannot be written: [Errno 28] No space left on device; free disk "
        "space or set data.cache_dir to another folder"
    )
    assert contents(work / "checkpoints") == before
    assert_goes_on_to_the_same_end(work, finished)


def test_logs_that_find_no_room(work: Path, finished: Path, error_of: Error) -> None:
    with disk_of("16k", work / "disk") as disk:
        message = error_of(
            work / "config.yaml", "--resume", "latest", "--set", f"training.log_dir={disk}"
        )
    assert_names_the_logs(message, disk)
    assert_goes_on_to_the_same_end(work, finished)


def test_logs_that_find_no_room_after_some_epochs(work: Path, error_of: Error) -> None:
    """What was saved by then goes on, with logs elsewhere."""
    changes = ("--set", "training.num_epochs=6", "--set", "training.save_every_steps=null")
    with disk_of("64k", work / "disk") as disk:
        message = error_of(work / "config.yaml", *changes, "--set", f"training.log_dir={disk}")
    assert_names_the_logs(message, disk)
    saved = [name for name in names(work / "checkpoints") if name.startswith("checkpoint_")]
    assert saved
    for name in saved:
        check_whole(work / "checkpoints" / name)
    assert run(work / "config.yaml", *changes, "--resume", "latest") == 0
    assert torch.load(work / "checkpoints" / "final_checkpoint.pt")["epoch"] == 6


def assert_names_the_logs(message: str, folder: Path) -> None:
    assert message.startswith(f"{folder}/")
    assert message.endswith(
        ": cannot be written: No space left on device; the checkpoints so far are sound: free "
        "disk space, or set training.log_dir to another folder"
    )


# Videos that go in the middle of an epoch


def remove(path: Path) -> None:
    path.unlink()


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut_off(path: Path) -> None:
    """Who reads behind the end of a file in mapped memory is ended by the system."""
    with path.open("r+b") as file:
        file.truncate(100)


@pytest.mark.parametrize(
    ("harm", "what", "num_workers"),
    [
        (remove, "cannot be read (No such file or directory)", 0),
        (flip_a_bit, "was changed", 0),
        (cut_off, "was changed", 2),
    ],
)
def test_a_cache_entry_that_goes_in_the_middle_of_an_epoch(
    finished: Path,
    tmp_path: Path,
    error_of: Error,
    in_update: InUpdate,
    harm: Callable[[Path], None],
    what: str,
    num_workers: int,
) -> None:
    work = tmp_path
    shutil.copytree(finished / "cache", work / "cache")
    shutil.copytree(finished / "data", work / "data")
    config = training_files.write_config(
        work / "data", work, **CHANGES, **{"data.num_workers": num_workers}
    )
    videos = {file_hash(path) for path in (work / "data").glob("train_*.mp4")}

    def harm_training_videos() -> None:
        for header in (work / "cache").glob("*/entry.json"):
            if json.loads(header.read_text())["key"]["video"] in videos:
                harm(header.with_name("data.raw"))

    in_update(IN_EPOCH_2, harm_training_videos)
    message = error_of(config)
    video, _, rest = message.partition(": its cache entry ")
    assert video in ("train_0.mp4", "train_1.mp4")
    assert rest.startswith(f"{work}/cache/")
    assert rest.endswith(
        f"/data.raw {what} while training reads it; the checkpoints so far are sound: go on with "
        "--resume latest, which reads the video anew"
    )
    assert names(work / "checkpoints")[:2] == EPOCH_1
    assert_goes_on_to_the_same_end(work, finished)


def test_a_video_that_goes_when_it_is_cached_is_not_missed(
    work: Path, finished: Path, in_update: InUpdate
) -> None:
    in_update(IN_EPOCH_2, lambda: (work / "data" / "train_1.mp4").write_bytes(b"no video any more"))
    assert_goes_on_to_the_same_end(work, finished)


def test_a_validation_entry_that_is_cut_off(
    work: Path, finished: Path, error_of: Error, in_update: InUpdate
) -> None:
    (video,) = (work / "data").glob("val_*.mp4")

    def cut_off_validation_video() -> None:
        for header in (work / "cache").glob("*/entry.json"):
            if json.loads(header.read_text())["key"]["video"] == file_hash(video):
                cut_off(header.with_name("data.raw"))

    in_update(IN_EPOCH_2, cut_off_validation_video)
    message = error_of(work / "config.yaml", "--resume", "latest")
    assert message.startswith(f"val_0.mp4: its cache entry {work}/cache/")
    assert message.endswith(
        "/data.raw was changed while training reads it; the checkpoints so far are sound: go on "
        "with --resume latest, which reads the video anew"
    )
    assert_goes_on_to_the_same_end(work, finished)


def further_video(work: Path) -> dict[str, Any]:
    """30 frames, which no cache holds at first."""
    path = work / "data" / "further.mp4"
    return {"video": path.name, "events": training_files.write_video(path, seed=5)}


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_video_that_cannot_be_read_any_more(
    work: Path,
    finished: Path,
    error_of: Error,
    capsys: pytest.CaptureFixture[str],
    split: str,
) -> None:
    """Without it the run would go on with other clips, or be judged by other frames."""
    annotate(work, split, lambda content: content["videos"].append(further_video(work)))
    assert run(work / "config.yaml") == 0
    shutil.copytree(work / "checkpoints", work / "whole" / "checkpoints")
    for name in ("checkpoint_epoch_2.pt", "final_checkpoint.pt"):
        (work / "checkpoints" / name).unlink()
    before = contents(work / "checkpoints")
    further, aside = work / "data" / "further.mp4", work / "data" / "aside"
    further.rename(aside)
    further.write_bytes(b"no video any more")
    num_videos, num_frames = (3, 83) if split == "train" else (2, 60)
    difference = (
        f"data.{split}_annotations: {num_videos} of {num_videos} videos with {num_frames} frames "
        f"then, {num_videos - 1} of {num_videos} videos with {num_frames - 30} frames now (left "
        "out now alone: further.mp4)"
    )
    first = work / "checkpoints" / "checkpoint_epoch_1.pt"
    assert error_of(work / "config.yaml", "--resume", "latest") == (
        f"{first}: the videos that can be read are not those it was trained on: {difference}; "
        "bring back what has changed, give --allow-config-change to go on with what there is now, "
        "or start anew without --resume"
    )
    assert contents(work / "checkpoints") == before
    aside.replace(further)
    assert_goes_on_to_the_same_end(work, work / "whole")
    further.write_bytes(b"no video any more")
    assert run(work / "config.yaml", "--resume", first, "--allow-config-change") == 0
    assert f"the run goes on with a change: {difference}" in capsys.readouterr().err


# Annotations


def annotate(work: Path, split: str, change: Callable[[dict[str, Any]], Any]) -> None:
    path = work / "data" / f"{split}.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "the file is empty; it needs 'labels' and 'videos'"),
        ("{}", "'labels' must be a list of at least one name"),
        ('{"labels": ["flash", "dim"]}', "'videos' must be a list with at least one video"),
    ],
)
def test_an_empty_annotation_file(
    work: Path, error_of: Error, split: str, text: str, reason: str
) -> None:
    """Neither a run that goes on nor one that starts anew touches the checkpoints for it."""
    path = work / "data" / f"{split}.json"
    path.write_text(text)
    before = contents(work / "checkpoints")
    for arguments in ((), ("--resume", "latest")):
        assert error_of(work / "config.yaml", *arguments, code=2) == f"{path}: {reason}"
    assert contents(work / "checkpoints") == before


def test_no_event_at_all(work: Path, error_of: Error) -> None:
    annotate(work, "train", lambda content: [v["events"].clear() for v in content["videos"]])
    before = contents(work / "checkpoints")
    assert error_of(work / "config.yaml", code=2) == (
        f"{work}/data/train.json: no training video has an event that a sampled frame falls into; "
        "there is nothing to learn: check the annotations, or raise data.frame_sampling_rate"
    )
    assert contents(work / "checkpoints") == before


def test_a_class_without_example(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is said, it is scored as unknown, and the other classes are learned."""
    for split in ("train", "val"):
        annotate(work, split, lambda content: content["labels"].append("never"))
    assert run(work / "config.yaml") == 0
    err = capsys.readouterr().err
    assert "class 'never' has no positive frame in the training videos" in err
    assert "class 'never' has no positive frame in the validation videos" in err
    newest = max((work / "logs").iterdir())
    for row in read_metrics(newest / "metrics.jsonl"):
        assert row["metrics"]["frame_ap/never"] is None
        assert row["metrics"]["frame_ap"] == pytest.approx(
            (row["metrics"]["frame_ap/flash"] + row["metrics"]["frame_ap/dim"]) / 2
        )
    content = torch.load(work / "checkpoints" / "final_checkpoint.pt")
    assert content["metadata"]["labels"] == ["flash", "dim", "never"]


# Numbers that are none


def test_a_loss_that_is_not_finite(work: Path, finished: Path, error_of: Error) -> None:
    """The numbers run away in the second epoch; what was good before is as it was."""
    before = contents(work / "checkpoints")
    message = error_of(
        work / "config.yaml",
        *("--resume", "latest", "--allow-config-change"),
        *("--set", "training.learning_rate=1e4", "--set", "training.weight_decay=1e30"),
        *("--set", "training.save_every_steps=null"),
    )
    found, _, clips = message.partition(" (clips: ")
    assert found in [f"at update {IN_EPOCH_2}, the loss is {what}" for what in ("nan", "inf")]
    clips, _, remedy = clips.partition("); ")
    assert remedy == (
        "the checkpoints so far are sound: try a lower training.learning_rate, or "
        "training.use_mixed_precision=false"
    )
    for clip in clips.split(", "):
        video, _, seconds = clip.partition(" at ")
        assert (work / "data" / video).exists()
        assert seconds.endswith(" s")
    assert len(clips.split(", ")) == 2, "the batch"
    assert contents(work / "checkpoints") == before
    assert_goes_on_to_the_same_end(work, finished)


@pytest.mark.parametrize("has_validation", [True, False])
def test_weights_that_the_last_update_of_an_epoch_ruins(
    work: Path, error_of: Error, has_validation: bool
) -> None:
    """The loss would tell in the next epoch; by then they would be saved."""
    settings = ["training.clips_per_epoch=2", "training.learning_rate=1e4"]
    settings += ["training.weight_decay=1e30", "training.save_every_steps=null"]
    settings += [] if has_validation else ["data.val_annotations=null"]
    message = error_of(work / "config.yaml", *(part for s in settings for part in ("--set", s)))
    assert message == (
        "after update 1, the norm of the weights is inf, and they are not saved; the checkpoints "
        "so far are sound: try a lower training.learning_rate, or "
        "training.use_mixed_precision=false"
    )
    assert [name for name in names(work / "checkpoints") if "/" not in name] == []


@pytest.mark.parametrize("key", ["learning_rate", "learning_rates.trigger_detector"])
def test_a_learning_rate_that_no_weights_bear(work: Path, error_of: Error, key: str) -> None:
    message = error_of(work / "config.yaml", "--set", f"training.{key}=1e39", code=2)
    assert message == (
        f"--set training.{key}=1e39: training.{key}: should be less than or equal to 10000, got "
        "1e+39"
    )
