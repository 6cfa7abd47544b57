"""The schema: ranges that can be reached, class names, assignments."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from pydantic import BaseModel, ValidationError

from utils.config import Config, Section
from utils.config.schema import ModelConfig


def sections(section: type[BaseModel] = Config) -> Iterator[type[BaseModel]]:
    yield section
    for field in section.model_fields.values():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from sections(field.annotation)


@pytest.mark.parametrize("section", list(sections()), ids=lambda section: section.__name__)
def test_every_section_refuses_unknown_keys(section: type[BaseModel]) -> None:
    assert issubclass(section, Section)
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        section.model_validate({"no_such_key": 1})


@pytest.mark.parametrize("section", list(sections()), ids=lambda section: section.__name__)
def test_every_number_refuses_booleans_and_what_is_not_finite(section: type[BaseModel]) -> None:
    for name, field in section.model_fields.items():
        if isinstance(field.default, bool) or not isinstance(field.default, int | float):
            continue
        values: list[object] = [True, float("nan"), float("inf")]
        for value in values:
            with pytest.raises(ValidationError) as caught:
                section.model_validate({name: value})
            # Behind it stands the branch, where a number may be given by class, too.
            assert caught.value.errors()[0]["loc"][0] == name


def test_assignments_are_validated() -> None:
    config = Config()
    config.training.batch_size = 4
    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        config.training.batch_size = 0
    assert config.training.batch_size == 4


def test_class_labels() -> None:
    assert ModelConfig(labels=["a", "b"]).class_labels() == ["a", "b"]
    numbered = ModelConfig.model_validate({"trigger_detector": {"num_classes": 2}})
    assert numbered.class_labels() == ["class_0", "class_1"]
    with pytest.raises(
        ValueError, match=r"set model.labels, or model.trigger_detector.num_classes"
    ):
        ModelConfig().class_labels()


def test_defaults_are_not_shared_between_configs() -> None:
    first, second = Config(), Config()
    first.model.trigger_detector.hidden_dims.append(9)
    first.data.image_size = 32
    assert second == Config()


@pytest.mark.parametrize("resize_mode", ["crop", "stretch"])
def test_decoded_pictures_are_not_scaled_up_again(resize_mode: str) -> None:
    data = {"image_size": 224, "decode_short_side": 128, "resize_mode": resize_mode}
    with pytest.raises(
        ValidationError,
        match=r"decode_short_side is 128 but image_size is 224: .* to image_size or more",
    ):
        Config.model_validate({"data": data})
    # There image_size is the longer side.
    Config.model_validate({"data": {**data, "resize_mode": "letterbox"}})
    Config.model_validate({"data": {**data, "decode_short_side": 224}})


def test_motion_needs_the_frames_that_would_be_skipped() -> None:
    plain = {
        "data": {"skip_nonref_frames": True},
        "model": {"visual_encoder": {"motion": {"enabled": True}}},
    }
    with pytest.raises(ValidationError, match=r"skip_nonref_frames skips the very frames that"):
        Config.model_validate(plain)


@pytest.mark.parametrize(
    ("model", "freezing", "text"),
    [
        (
            {},
            {"unfreeze": [{"from_epoch": 4, "component": "visual_backbone", "last_stages": 1}]},
            r"training\.cache_features needs a backbone that stays frozen, but "
            r"freezing\.unfreeze\[0\] lets it learn from epoch 4 on; set training\.cache_features "
            "to false, or leave that step out",
        ),
        (
            {"visual_encoder": {"temporal_shift": {"type": "tsm"}}},
            {},
            r"with model\.visual_encoder\.temporal_shift\.type: tsm they depend on the clip; set "
            r"training\.cache_features to false, or the type to none",
        ),
    ],
)
def test_cached_features_stay_as_they_are(
    model: dict[str, object], freezing: dict[str, object], text: str
) -> None:
    plain = {
        "model": model,
        "training": {"cache_features": True},
        "freezing": {"visual_backbone": True, **freezing},
    }
    with pytest.raises(ValidationError, match=text):
        Config.model_validate(plain)
    Config.model_validate({**plain, "training": {}})


def test_heads_may_be_unfrozen_over_cached_features() -> None:
    steps = [{"from_epoch": 2, "component": "time_aware_encoder"}]
    Config.model_validate(
        {
            "training": {"cache_features": True},
            "freezing": {"visual_backbone": True, "time_aware_encoder": True, "unfreeze": steps},
        }
    )


def test_thresholds_and_temperatures_of_each_class() -> None:
    model = {
        "labels": ["fight", "fall"],
        "trigger_detector": {
            "threshold": {"fall": 0.4, "fight": 1},
            "temperature": {"fall": 2, "fight": 0.5},
        },
    }
    config = Config.model_validate({"model": model})
    assert config.model.trigger_detector.threshold == {"fall": 0.4, "fight": 1.0}
    assert Config.model_validate(config.to_plain()) == config
    # Whose classes the data decide, is looked at once they have.
    Config.model_validate({"model": {**model, "labels": None}})


@pytest.mark.parametrize(
    ("detector", "text"),
    [
        (
            {"threshold": {"fight": 0.3}},
            r"trigger_detector\.threshold has no number for fall; give",
        ),
        (
            {"threshold": {"fight": 0.3, "fal": 0.4}},
            r"names 'fal', which is no class of the model; .* \(did you mean 'fall'\?\)",
        ),
        (
            {"threshold": {"fight": 0.3, "fall": 0}},
            r"of 'fall' should be above 0 and at most 1, got 0",
        ),
        ({"threshold": {"fight": 0.3, "fall": 1.5}}, r"of 'fall' should be .* at most 1, got 1\.5"),
        ({"threshold": {"fight": 0.3, "fall": True}}, "should be a number"),
        ({"threshold": {"fight": 0.3, "fall": float("nan")}}, "should be a finite number"),
        ({"temperature": {"fight": 1}}, r"trigger_detector\.temperature has no number for fall"),
        ({"temperature": {"fight": 1, "fall": 0}}, r"of 'fall' should be greater than 0, got 0"),
        ({"temperature": 0}, "should be greater than 0"),
    ],
)
def test_numbers_of_each_class_are_checked(detector: dict[str, object], text: str) -> None:
    with pytest.raises(ValidationError, match=text):
        Config.model_validate(
            {"model": {"labels": ["fight", "fall"], "trigger_detector": detector}}
        )
