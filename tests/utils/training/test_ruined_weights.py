"""An update may ruin the weights, of which the loss tells at the next one: they are not saved."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from tiny_trainer import TwoHeads, make_config, make_trainer
from utils.checkpoint_folder import CheckpointFolder
from utils.errors import TrainingError

Ruin = Callable[[int, float], None]


@pytest.fixture
def ruin() -> Iterator[Ruin]:
    """Let an update end with weights of this value."""
    updates: list[float | None] = []

    def after(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        value = updates.pop(0) if updates else None
        if value is not None:
            for parameter in optimizer.param_groups[0]["params"]:
                parameter.data.fill_(value)

    def install(update: int, value: float) -> None:
        updates.extend([*[None] * (update - 1), value])

    handle = register_optimizer_step_post_hook(after)
    yield install
    handle.remove()


@pytest.mark.parametrize(("value", "norm"), [(math.nan, "nan"), (math.inf, "inf"), (1e37, "inf")])
@pytest.mark.parametrize("has_validation", [True, False])
@pytest.mark.parametrize("ema_decay", [None, 0.5])
def test_by_the_last_update_of_an_epoch(
    tmp_path: Path,
    ruin: Ruin,
    value: float,
    norm: str,
    has_validation: bool,
    ema_decay: float | None,
) -> None:
    validated: list[int] = []

    def evaluate(model: Any, device: torch.device) -> Mapping[str, float]:
        validated.append(1)
        return {"frame_ap": 0.5}

    config = make_config(tmp_path, num_epochs=3, ema_decay=ema_decay)
    ruin(8, value)
    trainer = make_trainer(config, evaluator=evaluate if has_validation else None)
    with pytest.raises(TrainingError) as caught:
        trainer.fit()
    assert str(caught.value) == (
        f"after update 8, the norm of the weights is {norm}, and they are not saved; the "
        "checkpoints so far are sound: try a lower training.learning_rate, or "
        "training.use_mixed_precision=false"
    )
    assert len(validated) == has_validation, "of the first epoch alone"
    path = CheckpointFolder(Path(config.training.checkpoint_dir)).latest()
    content = torch.load(path)
    assert content["global_step"] == 4
    assert all(tensor.isfinite().all() for tensor in content["model_state_dict"].values())


def test_within_an_epoch(tmp_path: Path, ruin: Ruin) -> None:
    config = make_config(tmp_path, save_every_steps=1)
    ruin(3, math.nan)
    with pytest.raises(TrainingError, match="after update 3, the norm of the weights is nan"):
        make_trainer(config).fit()
    latest = CheckpointFolder(Path(config.training.checkpoint_dir)).latest()
    assert latest.name == "checkpoint_epoch_0_batch_2.pt"


def test_statistics_of_a_layer(tmp_path: Path) -> None:
    model = TwoHeads()
    model.register_buffer("running_var", torch.full((2,), math.inf))
    with pytest.raises(TrainingError, match="after update 4, the norm of the weights is inf"):
        make_trainer(make_config(tmp_path), model=model).fit()
