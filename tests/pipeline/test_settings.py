"""Which setting wins."""

from __future__ import annotations

import copy
import logging
from pathlib import Path

import pytest

from pipeline.settings import (
    check_thresholds,
    is_set,
    load_inference_config,
    log_differences,
    resolve_settings,
    stored_inference_config,
)
from utils.config import Config, parse_config
from utils.errors import ConfigError, UsageError

FILE = """
data: {train_annotations: "${NOT_SET_ANYWHERE}/a.json", max_frames: 7}
model: {trigger_detector: {threshold: 0.9, candidate_threshold: 0.8}}
events: {context_seconds: 1.5}
inference: {batch_size: 5, thumbnail_size: 99}
"""


@pytest.fixture
def path(tmp_path: Path) -> str:
    file = tmp_path / "own.yaml"
    file.write_text(FILE)
    return str(file)


def thresholds(
    path: str,
    overrides: list[str],
    threshold: float | None = None,
    candidate_threshold: float | None = None,
) -> tuple[float, float]:
    settings = resolve_settings(
        load_inference_config(path, overrides),
        overrides,
        labels=["fight"],
        threshold=threshold,
        candidate_threshold=candidate_threshold,
        model_threshold=0.35,
        model_candidate_threshold=0.15,
        thumbnails=False,
    )
    return settings.threshold, settings.candidate_threshold


SET = ["model.trigger_detector.threshold=0.7", "model.trigger_detector.candidate_threshold=0.2"]


def test_checkpoint_beats_the_file(path: str) -> None:
    assert thresholds(path, []) == (0.35, 0.15)


def test_set_beats_the_checkpoint(path: str) -> None:
    assert thresholds(path, SET) == (0.7, 0.2)
    assert thresholds(path, SET[:1]) == (0.7, 0.15)
    assert thresholds(path, ["model.trigger_detector={threshold: 0.6}"]) == (0.6, 0.15)


def test_flag_beats_set(path: str) -> None:
    assert thresholds(path, SET, 0.5, 0.0) == (0.5, 0.0)
    assert thresholds(path, SET, threshold=0.5) == (0.5, 0.2)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], (0.3, 0.4)),
        (["model.trigger_detector.threshold=0.7"], 0.7),
        (["model.trigger_detector.threshold={fall: 0.6, fight: 0.7}"], (0.7, 0.6)),
        (["model.trigger_detector.threshold.fall=0.6"], (0.3, 0.6)),
        (["model.trigger_detector={candidate_threshold: 0.2}"], (0.3, 0.4)),
    ],
)
def test_thresholds_of_each_class(
    overrides: list[str], expected: float | tuple[float, float]
) -> None:
    labels = ["fight", "fall"]
    trained = {"labels": labels, "trigger_detector": {"threshold": {"fight": 0.3, "fall": 0.4}}}
    config = stored_inference_config({"model": trained}, overrides, origin="c.pt")

    def resolve(flag: float | None) -> float | tuple[float, ...]:
        return resolve_settings(
            config,
            overrides,
            labels=labels,
            threshold=flag,
            candidate_threshold=None,
            model_threshold=(0.3, 0.4),
            model_candidate_threshold=0.1,
            thumbnails=False,
        ).threshold

    assert resolve(None) == expected
    # The flag is for all classes.
    assert resolve(0.9) == 0.9


def test_set_names_the_models_classes(path: str) -> None:
    overrides = ["model.trigger_detector.threshold={fight: 0.3, kick: 0.4}"]
    with pytest.raises(
        ConfigError,
        match=r"--set model\.trigger_detector\.threshold: names 'kick', which is no class",
    ):
        thresholds(path, overrides)


def test_the_temperature_is_the_checkpoints(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ConfigError, match=r"the checkpoint decides model\.trigger_detector\.temp"):
        load_inference_config("config.yaml", ["model.trigger_detector.temperature=1"])
    caplog.set_level(logging.INFO)
    calibrated = {
        "labels": ["fight"],
        "trigger_detector": {"threshold": {"fight": 0.3}, "temperature": {"fight": 2.0}},
    }
    log_differences(Config(), parse_config({"model": calibrated}))
    log_differences(
        parse_config({"model": calibrated}), parse_config({"model": {"labels": ["fight"]}})
    )
    assert not caplog.records


def test_the_rest_is_the_files(path: str) -> None:
    settings = resolve_settings(
        load_inference_config(path, ["events.merge_gap_seconds=3"]),
        (),
        labels=["fight"],
        threshold=None,
        candidate_threshold=None,
        model_threshold=0.5,
        model_candidate_threshold=0.1,
        thumbnails=True,
    )
    assert settings.events.context_seconds == 1.5
    assert settings.events.merge_gap_seconds == 3
    assert (settings.batch_size, settings.max_frames, settings.thumbnail_size) == (5, 7, 99)


def test_training_does_not_say_how_much_inference_looks_at(path: str) -> None:
    stored = {"data": {"max_frames": 7, "decoder": "pyav"}, "inference": {"batch_size": 5}}
    before = copy.deepcopy(stored)
    config = stored_inference_config(stored, [], origin="c.pt")
    assert config.data.max_frames is None
    assert (config.data.decoder, config.inference.batch_size) == ("pyav", 5)
    assert stored == before
    override = ["data.max_frames=3"]
    assert stored_inference_config(stored, override, origin="c.pt").data.max_frames == 3
    assert load_inference_config(path, []).data.max_frames == 7


@pytest.mark.parametrize("value", [0, -1, 1.5, float("nan")])
def test_threshold_out_of_range(value: float) -> None:
    with pytest.raises(UsageError, match=r"--threshold must be above 0 and at most 1, got"):
        check_thresholds(value, None)


@pytest.mark.parametrize("value", [-0.1, 1.5, float("nan")])
def test_candidate_threshold_out_of_range(value: float) -> None:
    with pytest.raises(UsageError, match=r"--candidate-threshold must be in \[0, 1\], got"):
        check_thresholds(None, value)


@pytest.mark.parametrize(
    "override",
    [
        "data.frame_sampling_rate=10",
        "data.image_size=64",
        "data.resize_mode=stretch",
        "data.decode_short_side=256",
        "data.skip_nonref_frames=true",
        "model.visual_encoder.type=resnet50",
        "model.trigger_detector.hidden_dims=[3]",
        "model.time_aware_encoder.causal=true",
    ],
)
def test_what_the_checkpoint_decides_cannot_be_set(path: str, override: str) -> None:
    key = override.partition("=")[0]
    with pytest.raises(ConfigError, match=f"--set {key}=.*: the checkpoint decides {key}; of the"):
        load_inference_config(path, [override])


def test_is_set() -> None:
    assert is_set(["a.b=1"], "a.b")
    assert is_set(["a={b: {c: 1}}"], "a.b.c")
    assert not is_set(["a={b: {d: 1}}"], "a.b.c")
    assert is_set(["a.b.c=1"], "a.b")
    assert not is_set(["a.bc=1", "a=3"], "a.b")


def test_differences_are_said_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    trained = parse_config(
        {
            "data": {"image_size": 32},
            "model": {
                "labels": ["fight"],
                "visual_encoder": {"weights": None},
                "trigger_detector": {"threshold": 0.3},
            },
        }
    )
    log_differences(Config(), trained)
    (record,) = caplog.records
    assert (
        record.getMessage()
        == "the checkpoint's settings are used for data.image_size (32, not 224)"
    )
    caplog.clear()
    # What is off in the config may be on in the checkpoint.
    log_differences(Config(), parse_config({"data": {"decode_short_side": 256}}))
    assert caplog.messages == [
        "the checkpoint's settings are used for data.decode_short_side (256, not None)"
    ]
    caplog.clear()
    log_differences(Config(), Config())
    assert not caplog.records
