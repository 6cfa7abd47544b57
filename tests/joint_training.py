"""Started by torchrun from `test_joint_training`: what several processes do together.

Each process writes what it saw to ``FOLDER/SCENARIO_RANK.json``.
"""

from __future__ import annotations

import json
import logging
import math
import os
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import tiny_trainer
from models.video_trigger_model import VideoTriggerModel
from pipeline.validator import Validator
from utils.checkpoint import load_checkpoint
from utils.config import parse_config
from utils.errors import TrainingError
from utils.training.losses import build_loss
from utils.training.processes import Processes, connect
from utils.training.trainer import Trainer

CURVES = {
    "clips_per_epoch": 18,
    "num_epochs": 3,
    "gradient_accumulation_steps": 2,
    "ema_decay": 0.9,
}
LENGTHS = (2, 3, 30)
"""Some clips are padded, so that batches differ in their number of valid frames."""


class WithNorm(tiny_trainer.TwoHeads):
    """With batch norm whose statistics are frozen."""

    def __init__(self) -> None:
        super().__init__(dropout=0.0)
        self.norm = nn.BatchNorm1d(tiny_trainer.DIM)
        self.norm.running_mean.copy_(torch.linspace(-1, 1, tiny_trainer.DIM))

    def train(self, mode: bool = True) -> WithNorm:
        super().train(mode)
        self.norm.eval()
        return self

    def forward(self, inputs: Tensor, timestamps: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        return super().forward(self.norm(inputs.mT).mT, timestamps, valid)


def make_trainer(folder: Path, processes: Processes, batch_size: int, **changes: Any) -> Trainer:
    config = tiny_trainer.make_config(folder, batch_size=batch_size, **{**CURVES, **changes})
    torch.manual_seed(0)
    return tiny_trainer.make_trainer(
        config, model=WithNorm(), lengths=LENGTHS, processes=processes, evaluator=_weight_sum
    )


def _weight_sum(model: Any, device: torch.device) -> Mapping[str, float]:
    return {"frame_ap": float(sum(p.detach().sum() for p in model.parameters()))}


def curve(folder: Path, processes: Processes) -> dict[str, Any]:
    """Padded clips, accumulation, and a last batch that has none for the second process."""
    config = tiny_trainer.make_config(folder / "two", batch_size=4, **CURVES)
    result = make_trainer(folder / "two", processes, 4).fit()
    losses = tiny_trainer.scalars(config)["train/loss"] if processes.is_main else None
    return {"losses": losses, "metric": result.progress.metrics["frame_ap"]}


def stop(folder: Path, processes: Processes) -> dict[str, Any]:
    """A signal to the second process alone stops both at one step; then they go on."""
    config = tiny_trainer.make_config(folder / "broken", batch_size=4, **CURVES)
    plain = build_loss(config.training.loss, None)
    calls: list[int] = []

    def loss(logits: Tensor, targets: Tensor) -> Tensor:
        calls.append(1)
        if processes.index == 1 and len(calls) == 10:
            os.kill(os.getpid(), signal.SIGTERM)
        return plain(logits, targets)

    def trainer(name: str, loss: Any = None, dropout: float = 0.3) -> Trainer:
        return tiny_trainer.make_trainer(
            tiny_trainer.make_config(folder / name, batch_size=4, **CURVES),
            lengths=LENGTHS,
            dropout=dropout,
            loss=loss,
            processes=processes,
        )

    whole = trainer("whole").fit()
    broken = trainer("broken", loss).fit()
    step = broken.progress.global_step
    torch.rand(3)
    again = trainer("broken")
    again.resume(broken.checkpoint_path)
    result = again.fit()
    contents = [load_checkpoint(r.checkpoint_path) for r in (whole, result)]
    for content in contents:
        del content["config"], content["metadata"]["run_name"]
    tiny_trainer.assert_same(*contents)
    # Each draws its own dropout.
    (other,) = contents[0]["other_rng_states"]
    assert not torch.equal(contents[0]["rng_state"]["torch"], other["torch"])
    return {"exit_code": broken.exit_code, "step": step, "path": broken.checkpoint_path.name}


def not_finite(folder: Path, processes: Processes) -> dict[str, Any]:
    """The clips of the second process are named by both."""
    config = tiny_trainer.make_config(folder / "nan", batch_size=2)
    plain = build_loss(config.training.loss, None)

    def loss(logits: Tensor, targets: Tensor) -> Tensor:
        return plain(logits, targets) * (math.nan if processes.index == 1 else 1)

    trainer = tiny_trainer.make_trainer(config, loss=loss, processes=processes)
    try:
        trainer.fit()
    except TrainingError as error:
        return {"error": str(error)}
    raise AssertionError("the loss is not finite")


def validation(folder: Path, processes: Processes) -> dict[str, Any]:
    """Metrics and pictures of both are to the bit those of one."""
    config = parse_config(
        {
            "model": {
                "labels": ["a"],
                "visual_encoder": {"type": "timm:test_resnet", "weights": "none"},
                "time_aware_encoder": {"hidden_dim": 16, "num_layers": 1, "num_heads": 2},
            }
        }
    )
    torch.manual_seed(0)
    model = VideoTriggerModel.from_config(config.model)
    random = np.random.default_rng(0)
    videos = []
    for number, length in enumerate((20, 9, 33)):
        video = tiny_trainer.video(f"{number}.mp4", length, seed=number)
        width = model.visual_encoder.backbone_dim
        inputs = random.normal(size=(length, width)).astype(np.float32)
        videos.append(type(video)(**{**vars(video), "inputs": inputs}))
    together = Validator(videos, ["a"], batch_size=8, processes=processes)
    alone = Validator(videos, ["a"], batch_size=8)
    metrics = together(model, torch.device("cpu"))
    assert metrics == alone(model, torch.device("cpu"))
    for one, other in zip(together._last_scores, alone._last_scores, strict=True):
        assert np.array_equal(one.temporal, other.temporal)
        assert np.array_equal(one.trigger, other.trigger)
    return {"frame_ap": metrics["frame_ap"]}


def words(folder: Path, processes: Processes) -> dict[str, Any]:
    """What processes tell each other."""
    items = list(range(7))
    own = [10 * item for item in processes.share(items)]
    assert processes.gather_shares(own) == [10 * item for item in items]
    assert processes.gather(processes.index) == [0, 1]
    assert processes.from_main(processes.index) == 0
    assert processes.sum_(torch.tensor([1.0, processes.index])).tolist() == [2.0, 1.0]
    processes.check_agreement({"config": {"a": 1}})
    try:
        processes.check_agreement({"config": 1, "data": f"of {processes.index}"})
    except TrainingError as error:
        return {"error": str(error), "level": logging.getLogger().level}
    raise AssertionError("they differ")


def lost(folder: Path, processes: Processes) -> dict[str, Any]:
    """The second fails by itself, in the midst of an epoch; this one must not wait for it."""
    config = tiny_trainer.make_config(folder / "lost", batch_size=2)
    trainer = tiny_trainer.make_trainer(config, processes=processes)
    if processes.index == 1:
        plain = trainer._dataset.__class__.__getitem__

        class Failing(trainer._dataset.__class__):
            def __getitem__(self, place: Any) -> Any:
                if place.position > 7:
                    raise TrainingError("this clip cannot be read")
                return plain(self, place)

        trainer._dataset.__class__ = Failing
    started = time.monotonic()
    try:
        trainer.fit()
    except TrainingError as error:
        return {"error": str(error), "seconds": time.monotonic() - started}
    raise AssertionError("one is gone")


SCENARIOS = (words, curve, stop, not_finite, validation, lost)


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    processes, _ = connect(torch.device("cpu"))
    # Several runs in one launch: the connection stays.
    Processes.leave = Processes.wait  # type: ignore[method-assign]
    for scenario in SCENARIOS:
        found = scenario(folder, processes)
        path = folder / f"{scenario.__name__}_{processes.index}.json"
        path.write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
