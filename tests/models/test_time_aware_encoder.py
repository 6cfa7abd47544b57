"""Contract of every temporal encoder, causal and not: padding, causality, time, numbers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from models import TimeAwareEncoder
from models.time_aware_encoder import TIME_AWARE_ENCODERS, build_time_aware_encoder
from utils.config.schema import TimeAwareEncoderConfig
from utils.errors import UnknownNameError, UsageError

DIM, CLASSES = 6, 3


def build(type: str, *, causal: bool, scale: float = 2, **changes: Any) -> TimeAwareEncoder:
    torch.manual_seed(0)
    config = TimeAwareEncoderConfig(
        type=type, causal=causal, **{"hidden_dim": 16, "num_layers": 2, "num_heads": 2, **changes}
    )
    encoder = build_time_aware_encoder(config, feature_dim=DIM, num_classes=CLASSES).eval()
    with torch.no_grad():
        for parameter in encoder.parameters():
            # Larger than at initialisation, so that context and time weigh something.
            parameter.mul_(scale)
    return encoder


def features_of(batch: int, length: int, seed: int = 0) -> Tensor:
    return torch.randn(batch, length, DIM, generator=torch.Generator().manual_seed(seed))


def times_of(batch: int, length: int, *, step: float = 0.32, start: float = 0.0) -> Tensor:
    return (start + step * torch.arange(length, dtype=torch.float64)).expand(batch, length)


def all_valid(batch: int, length: int) -> Tensor:
    return torch.ones(batch, length, dtype=torch.bool)


every = pytest.mark.parametrize(
    "encoder",
    [
        pytest.param((name, causal), id=f"{name}-{'causal' if causal else 'bidirectional'}")
        for name in TIME_AWARE_ENCODERS
        for causal in (True, False)
    ],
)


@every
def test_every_entry_is_a_time_aware_encoder(encoder: tuple[str, bool]) -> None:
    name, causal = encoder
    built = build(name, causal=causal)
    assert isinstance(built, TimeAwareEncoder)
    assert built.causal is causal


def test_an_encoder_without_forward_cannot_be_made() -> None:
    class Half(TimeAwareEncoder):
        causal = True

    with pytest.raises(TypeError, match=r"abstract.*forward"):
        Half()  # type: ignore[abstract]


@pytest.fixture(autouse=True)
def no_gradients() -> Any:
    with torch.no_grad():
        yield


@every
def test_shape(encoder: tuple[str, bool]) -> None:
    model = build(encoder[0], causal=encoder[1])
    for length in (1, 2, 7):
        logits = model(features_of(2, length), times_of(2, length), all_valid(2, length))
        assert logits.shape == (2, length, CLASSES)
        assert logits.isfinite().all()


@every
@settings(deadline=None, max_examples=15)
@given(
    length=st.integers(1, 6),
    padding=st.integers(1, 4),
    start=st.floats(0, 1000),
    seed=st.integers(0, 99),
)
def test_padding_does_not_matter(
    encoder: tuple[str, bool], length: int, padding: int, start: float, seed: int
) -> None:
    model = build(encoder[0], causal=encoder[1])
    with torch.no_grad():
        features, times = features_of(1, length, seed), times_of(1, length, start=start)
        alone = model(features, times, all_valid(1, length))
        padded = torch.cat((features, 100 * features_of(1, padding, seed + 1)), dim=1)
        # As clips are padded: time falls back to 0.
        padded_times = torch.cat((times, times.new_zeros(1, padding)), dim=1)
        valid = torch.arange(length + padding)[None] < length
        together = model(
            # Beside a full row, so that rows of several lengths share a batch.
            torch.cat((padded, features_of(1, length + padding, 5))),
            torch.cat((padded_times, times_of(1, length + padding))),
            torch.cat((valid, all_valid(1, length + padding))),
        )
    torch.testing.assert_close(together[:1, :length], alone, atol=1e-5, rtol=1e-5)


@every
def test_rows_do_not_mix(encoder: tuple[str, bool]) -> None:
    model = build(encoder[0], causal=encoder[1])
    features, times, valid = features_of(3, 5), times_of(3, 5), all_valid(3, 5)
    whole = model(features, times, valid)
    for row in range(3):
        part = slice(row, row + 1)
        alone = model(features[part], times[part], valid[part])
        torch.testing.assert_close(whole[part], alone, atol=1e-5, rtol=1e-5)


@every
@pytest.mark.parametrize("change", ["features", "timestamps"])
def test_the_future(encoder: tuple[str, bool], change: str) -> None:
    model = build(encoder[0], causal=encoder[1])
    features, times, valid = features_of(1, 8), times_of(1, 8), all_valid(1, 8)
    before = model(features, times, valid)
    changed_features, changed_times = features.clone(), times.clone()
    if change == "features":
        changed_features[:, 5:] = features_of(1, 3, seed=9)
    else:
        changed_times[:, 5:] += 20
    after = model(changed_features, changed_times, valid)
    is_same = torch.isclose(before, after, atol=1e-5).all(-1)[0]
    if encoder[1]:
        assert is_same[:5].all(), "a causal encoder looked ahead"
    else:
        assert not is_same[:5].any(), "a bidirectional encoder did not look ahead"
    assert not is_same[5:].any()


@every
def test_the_past_is_remembered(encoder: tuple[str, bool]) -> None:
    model = build(encoder[0], causal=encoder[1])
    features, times, valid = features_of(1, 8), times_of(1, 8), all_valid(1, 8)
    before = model(features, times, valid)
    features[:, 0] = features_of(1, 1, seed=9)[:, 0]
    after = model(features, times, valid)
    assert not torch.isclose(before, after, atol=1e-5).all(-1)[0].any()


@every
@settings(deadline=None, max_examples=15)
@given(shift=st.floats(-1e5, 1e5))
def test_only_differences_of_time_count(encoder: tuple[str, bool], shift: float) -> None:
    model = build(encoder[0], causal=encoder[1])
    with torch.no_grad():
        features, times, valid = features_of(2, 8), times_of(2, 8), all_valid(2, 8)
        here, there = model(features, times, valid), model(features, times + shift, valid)
    torch.testing.assert_close(here, there, atol=1e-5, rtol=1e-5)


@every
def test_how_fast_time_runs_matters(encoder: tuple[str, bool]) -> None:
    model = build(encoder[0], causal=encoder[1])
    features, valid = features_of(1, 8), all_valid(1, 8)
    slow, fast = (model(features, times_of(1, 8, step=step), valid) for step in (1.0, 0.1))
    assert (slow - fast).abs().max() > 0.01


@every
def test_hours_keep_their_precision(encoder: tuple[str, bool]) -> None:
    """Three days in, at 60 samples a second, float64 seconds still tell the frames apart."""
    model = build(encoder[0], causal=encoder[1])
    features, valid = features_of(1, 16), all_valid(1, 16)
    here = model(features, times_of(1, 16, step=1 / 60), valid)
    late = model(features, times_of(1, 16, step=1 / 60, start=3 * 86400.0), valid)
    torch.testing.assert_close(here, late, atol=1e-5, rtol=1e-5)
    # And a window of hours is no trouble either.
    wide = model(features, times_of(1, 16, step=1000.0), valid)
    assert wide.isfinite().all()


@every
def test_a_row_of_padding_alone_is_finite(encoder: tuple[str, bool]) -> None:
    model = build(encoder[0], causal=encoder[1])
    valid = torch.tensor([[True] * 4, [False] * 4])
    with torch.enable_grad():
        logits = model(features_of(2, 4), times_of(2, 4), valid)
        assert logits.isfinite().all()
        logits[0].sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@every
def test_bfloat16(encoder: tuple[str, bool]) -> None:
    model = build(encoder[0], causal=encoder[1], scale=1)
    features, valid = features_of(2, 8), all_valid(2, 8)
    exact = model(features, times_of(2, 8), valid)
    with torch.autocast("cpu", torch.bfloat16):
        rough = model(features, times_of(2, 8), valid)
        # As bfloat16, these seconds would be whole fours.
        late = model(features, times_of(2, 8, start=900.0), valid)
    # Eight bits of mantissa.
    torch.testing.assert_close(rough.float(), exact, atol=0.03, rtol=0.03)
    torch.testing.assert_close(late.float(), exact, atol=0.03, rtol=0.03)


@every
def test_every_parameter_learns(encoder: tuple[str, bool]) -> None:
    model = build(encoder[0], causal=encoder[1]).train()
    with torch.enable_grad():
        model(features_of(2, 8), times_of(2, 8), all_valid(2, 8)).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any() or name.endswith("bias"), name


@every
def test_dropout_acts_in_training_alone(encoder: tuple[str, bool]) -> None:
    model = build(encoder[0], causal=encoder[1], dropout=0.5)
    arguments = features_of(2, 8), times_of(2, 8), all_valid(2, 8)
    assert torch.equal(model(*arguments), model(*arguments))
    model.train()
    assert not torch.equal(model(*arguments), model(*arguments))


def test_unknown_type() -> None:
    with pytest.raises(UnknownNameError, match=r"'transformr'; known: lstm, transformer \(did you"):
        build("transformr", causal=False)


def test_heads_that_do_not_fit() -> None:
    with pytest.raises(
        UsageError, match=r"hidden_dim \(20\) must be a multiple of 2 \* num_heads \(6\)"
    ):
        build("transformer", causal=False, hidden_dim=20, num_heads=3)


def test_lstm_is_that_of_torch() -> None:
    """One layer, both directions, against `nn.LSTM` with the same weights."""
    model = build("lstm", causal=False, num_layers=1)
    reference = nn.LSTM(16, 16, batch_first=True, bidirectional=True)
    for name in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"):
        getattr(reference, name).copy_(getattr(model.forward_lstm, name))
        getattr(reference, f"{name}_reverse").copy_(getattr(model.backward_lstm, name))
    features, times = features_of(2, 6), times_of(2, 6)
    elapsed = torch.full((2, 6, 1), 0.32).log1p()
    elapsed[:, 0] = 0
    hidden = model.input(torch.cat((features, elapsed), dim=-1))
    expected = model.classifier(model.norm(reference(hidden)[0]))
    torch.testing.assert_close(
        model(features, times, all_valid(2, 6)), expected, atol=1e-5, rtol=1e-5
    )


def test_attention_is_rotary_by_hand() -> None:
    """One block against the formula, a pair of frames at a time."""
    model = build("transformer", causal=False, num_layers=1, num_heads=1, hidden_dim=4)
    features, times = features_of(1, 3)[0], [0.0, 0.4, 1.5]
    block = model.blocks[0]
    hidden = model.input(features)
    query, key, value = block.query_key_value(block.attention_norm(hidden)).chunk(3, dim=-1)
    scores = torch.zeros(3, 3)
    for i in range(3):
        for j in range(3):
            for pair, rate in enumerate(block.inverse_periods.tolist()):
                # A pair as a complex number: rotating both is rotating one by the difference.
                q = torch.complex(query[i, pair], query[i, pair + 2])
                k = torch.complex(key[j, pair], key[j, pair + 2])
                turn = torch.polar(torch.tensor(1.0), torch.tensor(rate * (times[i] - times[j])))
                scores[i, j] += (q * k.conj() * turn).real
    attended = (scores / 4**0.5).softmax(-1) @ value
    hidden = hidden + block.output(attended)
    hidden = hidden + block.feed_forward(hidden)
    expected = model.classifier(model.norm(hidden))
    got = model(features[None], torch.tensor([times]), all_valid(1, 3))[0]
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
