"""Helpers of the training tests: a tiny problem for `Trainer`, and what it leaves behind."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

from utils.config import Config, parse_config
from utils.data.clips import ClipDataset
from utils.data.video_inputs import VideoInputs
from utils.training.losses import build_loss
from utils.training.randomness import seed_everything
from utils.training.trainer import Trainer

DIM, WINDOW = 4, 5
CPU = torch.device("cpu")


class Killed(BaseException):
    """Stands for ``kill -9``: nothing of ours catches it."""


class TwoHeads(nn.Module):
    """Stands for the trigger model: logits of two heads."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.hidden = nn.Sequential(nn.Linear(DIM, 16), nn.GELU(), nn.Dropout(dropout))
        self.trigger = nn.Linear(16, 1)
        self.temporal = nn.Linear(16, 1)

    def forward(self, inputs: Tensor, timestamps: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.hidden(inputs)
        return self.trigger(hidden), self.temporal(hidden)


def video(name: str, length: int, *, seed: int) -> VideoInputs:
    """Features whose first number says whether the frame is positive."""
    random = np.random.default_rng(seed)
    targets = (random.random((length, 1)) < 0.4).astype(np.float32)
    targets[0] = 1
    inputs = random.normal(size=(length, DIM)).astype(np.float32)
    inputs[:, :1] += 6 * targets
    return VideoInputs(
        video=name,
        inputs=inputs,
        copies=(),
        timestamps=np.arange(length) / 3,
        frame_indices=np.arange(length),
        targets=targets,
        events=(),
        group=None,
    )


def make_config(folder: Path, **training: Any) -> Config:
    settings: dict[str, Any] = {
        "batch_size": 4,
        "num_epochs": 2,
        "clips_per_epoch": 16,
        "learning_rate": 0.01,
        "use_mixed_precision": False,
        "checkpoint_dir": str(folder / "checkpoints"),
        "log_dir": str(folder / "logs"),
        **training,
    }
    num_workers = settings.pop("num_workers", 0)
    return parse_config(
        {
            "data": {"clip_window_size": WINDOW, "num_workers": num_workers},
            "model": {"labels": ["a"], "visual_encoder": {"type": "resnet18"}},
            "training": settings,
        }
    )


Evaluate = Callable[[Any, torch.device], Mapping[str, float]]


def make_trainer(
    config: Config,
    *,
    lengths: tuple[int, ...] = (20, 30),
    dropout: float = 0.0,
    evaluator: Evaluate | None = None,
    loss: Callable[[Tensor, Tensor], Tensor] | None = None,
    model: nn.Module | None = None,
    **settings: Any,
) -> Trainer:
    seed_everything(config.training.seed)
    model = model or TwoHeads(dropout)
    dataset = ClipDataset(
        [video(f"{i}.mp4", length, seed=i) for i, length in enumerate(lengths)],
        window_size=WINDOW,
        event_fraction=0.5,
        augmentation=config.training.augmentation,
        seed=config.training.seed,
    )
    return Trainer(
        model=model,
        config=config,
        dataset=dataset,
        parameter_groups=[("trigger_detector", list(model.parameters()))],
        loss=loss or build_loss(config.training.loss, None),
        evaluator=evaluator,
        device=CPU,
        metadata={"labels": ["a"]},
        **settings,
    )


def scalars(config: Config) -> dict[str, list[tuple[int, float]]]:
    """``(step, value)`` by tag, over all event files of the one run; without times and memory."""
    (folder,) = Path(config.training.log_dir).iterdir()
    events = EventAccumulator(str(folder))
    events.Reload()
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
        if not tag.startswith(("throughput/", "memory/"))
    }


def metric_lines(config: Config) -> list[dict[str, Any]]:
    """The lines of ``metrics.jsonl`` of the one run, without times and memory."""
    (folder,) = Path(config.training.log_dir).iterdir()
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    measured = ("seconds", "_second", "_bytes")
    return [{k: v for k, v in row.items() if not k.endswith(measured)} for row in rows]


def assert_same(one: Any, other: Any, where: str = "") -> None:
    """Bit-identical, through all containers."""
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_same(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for index, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_same(a, b, f"{where}[{index}]")
    elif isinstance(one, Tensor):
        assert torch.equal(one, other), where
    else:
        assert one == other or (one != one and other != other), (where, one, other)


def rising_then_falling() -> Evaluate:
    """Frame AP 0.2, 0.9, 0.5, ..."""
    values = iter([0.2, 0.9, 0.5, 0.4, 0.3])

    def evaluate(model: Any, device: torch.device) -> Mapping[str, float]:
        return {"frame_ap": np.float64(next(values)), "frame_ap/a": 0.1}

    return evaluate


def killing(config: Config, after_batches: int) -> Any:
    """The configured loss, until the run is killed in the middle of that batch."""
    plain = build_loss(config.training.loss, None)
    calls: list[int] = []

    def loss(logits: Tensor, targets: Tensor) -> Tensor:
        calls.append(1)
        if len(calls) == 2 * after_batches:
            raise Killed
        return plain(logits, targets)

    return loss


def interrupting(config: Config, after_batches: int, number: signal.Signals) -> Any:
    """The configured loss, and a signal in the middle of that batch."""
    plain = build_loss(config.training.loss, None)
    calls: list[int] = []

    def loss(logits: Tensor, targets: Tensor) -> Tensor:
        calls.append(1)
        if len(calls) == 2 * after_batches:
            os.kill(os.getpid(), number)
        return plain(logits, targets)

    return loss


def rest_of_evaluation(finished_epochs: int) -> Evaluate:
    """The evaluator of a run that goes on."""
    evaluate = rising_then_falling()
    for _ in range(finished_epochs):
        evaluate(None, CPU)
    return evaluate
