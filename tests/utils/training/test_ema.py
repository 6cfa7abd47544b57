"""Averaged weights: the formula by hand, swaps to the last bit, and going on where it stopped."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from utils.training.ema import ExponentialMovingAverage


class TwoHeads(nn.Module):
    """With batch-norm, and with one parameter under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
        self.head = nn.Linear(4, 4, bias=False)
        self.other_head = nn.Linear(4, 4)
        self.other_head.weight = self.head.weight

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.as_tensor(self.other_head(self.head(self.backbone(inputs))))


@pytest.fixture
def model() -> TwoHeads:
    torch.manual_seed(0)
    return TwoHeads()


def step(model: nn.Module, seed: int) -> None:
    """Stands for an optimizer update, and for what batch-norm sees in it."""
    generator = torch.Generator().manual_seed(seed)
    model.train()
    model(torch.randn(5, 3, generator=generator))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


@pytest.mark.parametrize("decay", [0.15, 0.9])
def test_the_formula_by_hand(model: TwoHeads, decay: float) -> None:
    ema = ExponentialMovingAverage(model, decay)
    expected: Any = None
    for number in range(30):
        step(model, number)
        ema.update()
        # 1/10, 2/11, 3/12, ... until `decay` is reached: with 0.15 at once, with 0.9 never.
        share = min(decay, (1 + number) / (10 + number))
        weight = model.head.weight.detach().double().numpy()
        expected = weight if expected is None else share * expected + (1 - share) * weight
    average = ema.state_dict()["averages"]["head.weight"]
    np.testing.assert_allclose(average, expected, atol=1e-6)
    assert not torch.allclose(average, model.head.weight, atol=1e-3)


def test_the_average_of_what_does_not_change_is_itself(model: TwoHeads) -> None:
    ema = ExponentialMovingAverage(model, 0.999)
    for _ in range(50):
        ema.update()
    assert_same(ema.model_state_dict(), model.state_dict())


def test_nothing_is_kept_of_what_is_frozen(model: TwoHeads) -> None:
    model.backbone.requires_grad_(False)
    ema = ExponentialMovingAverage(model, 0.9)
    step(model, 0)
    ema.update()
    assert list(ema.state_dict()["averages"]) == ["head.weight", "other_head.bias"]


def test_what_is_unfrozen_is_averaged_from_then_on(model: TwoHeads) -> None:
    model.backbone.requires_grad_(False)
    ema = ExponentialMovingAverage(model, 0.5)
    for number in range(20):
        step(model, number)
        ema.update()
    model.backbone.requires_grad_(True)
    step(model, 20)
    ema.update()
    first = model.backbone[0].weight.detach().clone()
    torch.testing.assert_close(ema.state_dict()["averages"]["backbone.0.weight"], first)
    step(model, 21)
    ema.update()
    expected = (first + model.backbone[0].weight.detach()) / 2
    torch.testing.assert_close(ema.state_dict()["averages"]["backbone.0.weight"], expected)


def test_frozen_again_it_is_still_averaged(model: TwoHeads) -> None:
    """Or the validated model would be made of averages of one time and weights of another."""
    ema = ExponentialMovingAverage(model, 0.9)
    for number in range(3):
        step(model, number)
        ema.update()
    before = ema.state_dict()["averages"]["head.weight"].clone()
    model.requires_grad_(False)
    ema.update()
    after = ema.state_dict()["averages"]["head.weight"]
    assert (after - model.head.weight).norm() < (before - model.head.weight).norm()


class TestSwappedIn:
    def averaged(self, model: TwoHeads) -> ExponentialMovingAverage:
        ema = ExponentialMovingAverage(model, 0.9)
        for number in range(5):
            step(model, number)
            ema.update()
        return ema

    def test_inside_are_the_averages_and_behind_it_the_models_own(self, model: TwoHeads) -> None:
        ema = self.averaged(model)
        before = snapshot(model)
        averages = {name: tensor.clone() for name, tensor in ema.model_state_dict().items()}
        with ema.swapped_in():
            assert_same(snapshot(model), averages)
            # Both names are still one parameter, and the optimizer's.
            assert model.head.weight is model.other_head.weight
        assert_same(snapshot(model), before)
        assert_same(ema.model_state_dict(), averages)

    def test_buffers_are_the_models_own(self, model: TwoHeads) -> None:
        ema = self.averaged(model)
        mean = model.backbone[1].running_mean.clone()
        with ema.swapped_in():
            assert torch.equal(model.backbone[1].running_mean, mean)

    def test_an_error_inside_leaves_the_models_own(self, model: TwoHeads) -> None:
        ema = self.averaged(model)
        before = snapshot(model)
        with pytest.raises(RuntimeError, match="validation broke"), ema.swapped_in():
            raise RuntimeError("validation broke")
        assert_same(snapshot(model), before)

    def test_training_goes_on_as_if_it_had_not_been(self, model: TwoHeads) -> None:
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        inputs = torch.randn(5, 3, generator=torch.Generator().manual_seed(1))

        def train(ema: ExponentialMovingAverage, validate: Callable[[], None]) -> None:
            for _ in range(3):
                model(inputs).square().mean().backward()
                optimizer.step()
                optimizer.zero_grad()
                ema.update()
                validate()

        start, initial = snapshot(model), optimizer.state_dict()
        train(ExponentialMovingAverage(model, 0.9), lambda: None)
        expected = snapshot(model)
        model.load_state_dict(start)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        assert optimizer.state_dict() == initial
        ema = ExponentialMovingAverage(model, 0.9)

        def validate() -> None:
            with ema.swapped_in(), torch.no_grad():
                model.eval()
                model(inputs)
                model.train()

        train(ema, validate)
        assert_same(snapshot(model), expected)

    def test_before_the_first_update_nothing_changes(self, model: TwoHeads) -> None:
        ema = ExponentialMovingAverage(model, 0.9)
        before = snapshot(model)
        with ema.swapped_in():
            assert_same(snapshot(model), before)


def test_what_is_saved_for_inference_is_what_was_validated(model: TwoHeads) -> None:
    ema = ExponentialMovingAverage(model, 0.9)
    for number in range(5):
        step(model, number)
        ema.update()
    inputs = torch.randn(7, 3, generator=torch.Generator().manual_seed(9))
    model.eval()
    with ema.swapped_in(), torch.no_grad():
        expected = model(inputs)
    loaded = TwoHeads().eval()
    loaded.load_state_dict(ema.model_state_dict(), strict=True)
    with torch.no_grad():
        assert torch.equal(loaded(inputs), expected)
        assert not torch.equal(model(inputs), expected)


@pytest.mark.parametrize("stop", [0, 1, 7])
def test_it_goes_on_where_it_stopped(model: TwoHeads, stop: int) -> None:
    model.backbone.requires_grad_(False)
    whole = ExponentialMovingAverage(model, 0.6)
    stopped = ExponentialMovingAverage(model, 0.6)
    for number in range(12):
        if number == 5:
            model.backbone.requires_grad_(True)
        if number == stop:
            state = stopped.state_dict()
            # As from a checkpoint, not the same memory.
            state["averages"] = {name: t.clone() for name, t in state["averages"].items()}
            stopped = ExponentialMovingAverage(model, 0.6)
            stopped.load_state_dict(state)
        step(model, number)
        whole.update()
        stopped.update()
    assert stopped.state_dict()["num_updates"] == 12
    assert_same(stopped.state_dict()["averages"], whole.state_dict()["averages"])


def test_what_was_loaded_is_not_written_to(model: TwoHeads) -> None:
    ema = ExponentialMovingAverage(model, 0.9)
    step(model, 0)
    ema.update()
    saved = {name: tensor.clone() for name, tensor in ema.state_dict()["averages"].items()}
    other = ExponentialMovingAverage(model, 0.9)
    other.load_state_dict({"num_updates": 1, "averages": saved})
    before = saved["head.weight"].clone()
    step(model, 1)
    other.update()
    assert torch.equal(saved["head.weight"], before)


@pytest.mark.parametrize(
    ("averages", "message"),
    [
        ({"tail": torch.zeros(2)}, r"'tail' of \(2,\): the model has no such one"),
        ({"head.weight": torch.zeros(2, 4)}, r"of \(2, 4\): the model has one of \(4, 4\)"),
    ],
)
def test_averages_of_another_model(
    model: TwoHeads, averages: dict[str, Tensor], message: str
) -> None:
    ema = ExponentialMovingAverage(model, 0.9)
    step(model, 0)
    ema.update()
    before = {name: tensor.clone() for name, tensor in ema.state_dict()["averages"].items()}
    with pytest.raises(ValueError, match=message):
        ema.load_state_dict({"num_updates": 3, "averages": averages})
    assert_same(ema.state_dict()["averages"], before)
    assert ema.state_dict()["num_updates"] == 1


@pytest.mark.parametrize("decay", [0.0, 1.0, -0.1, float("nan")])
def test_decay_out_of_range(model: TwoHeads, decay: float) -> None:
    with pytest.raises(ValueError, match="decay must be above 0 and below 1, got"):
        ExponentialMovingAverage(model, decay)
