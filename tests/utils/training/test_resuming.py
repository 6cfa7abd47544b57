"""What a run must share with the checkpoint that it goes on from."""

from __future__ import annotations

import copy
import logging
from typing import Any

import pytest
import torch
from torch import nn

from utils.config import Config, parse_config
from utils.errors import CheckpointError
from utils.training.resuming import check_optimizer_fits, check_resumable, check_same_inputs

LEARNED = {"hash": "0123456789abcdef", "num_videos": 3, "num_events": 7}
JUDGED = {"hash": "fedcba9876543210", "num_videos": 1, "num_events": 2}


def config_with(changes: dict[str, Any]) -> Config:
    """The defaults, with ``changes`` by dotted key."""
    plain = Config().to_plain()
    for dotted, value in changes.items():
        *path, last = dotted.split(".")
        section = plain
        for key in path:
            section = section[key]
        section[last] = value
    return parse_config(plain)


def content(**data: Any) -> dict[str, Any]:
    """Of a checkpoint of the defaults."""
    return {
        "config": Config().to_plain(),
        "data_position": {"batch": 3},
        "metadata": {"data": data or {"train": LEARNED, "val": JUDGED}},
    }


def refusal(changes: dict[str, Any], **options: Any) -> str:
    with pytest.raises(CheckpointError) as caught:
        check_resumable(content(), config_with(changes), source="x.pt", **options)
    return str(caught.value)


# Settings

CHANGES = [
    ("model.visual_encoder.feature_dim", 64, "was 512, is 64"),
    ("model.visual_encoder.motion.enabled", True, "was False, is True"),
    ("model.time_aware_encoder.type", "lstm", "was 'transformer', is 'lstm'"),
    ("model.trigger_detector.dropout", 0.3, "was 0.1, is 0.3"),
    ("model.labels", ["a"], "was None, is ['a']"),
    ("data.frame_sampling_rate", 5.0, "was 3.0, is 5.0"),
    ("data.image_size", 64, "was 224, is 64"),
    ("data.point_radius_seconds", 1.0, "was 0.5, is 1.0"),
    ("data.decoder", "decord", "was 'pyav', is 'decord'"),
    ("training.learning_rate", 0.5, "was 0.0001, is 0.5"),
    ("training.learning_rates.visual_backbone", 0.5, "was None, is 0.5"),
    ("training.weight_decay", 0.25, "was 0.05, is 0.25"),
    ("training.batch_size", 2, "was 8, is 2"),
    ("training.gradient_accumulation_steps", 2, "was 1, is 2"),
    ("training.use_mixed_precision", False, "was True, is False"),
    ("training.ema_decay", 0.99, "was None, is 0.99"),
    ("training.loss.type", "focal", "was 'bce', is 'focal'"),
    ("training.augmentation.enabled", False, "was True, is False"),
    ("training.best_metric", "frame_auroc", "was 'frame_ap', is 'frame_auroc'"),
    ("training.validate_every", 2, "was 1, is 2"),
    ("training.seed", 7, "was 0, is 7"),
    ("freezing.visual_backbone", True, "was False, is True"),
]


@pytest.mark.parametrize(("key", "value", "words"), CHANGES, ids=[key for key, _, _ in CHANGES])
def test_another_setting_is_refused_unless_it_is_allowed(
    key: str, value: Any, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert refusal({key: value}) == (
        f"x.pt: is of another run: {key} {words}; resume with the config of that run, give "
        "--allow-config-change to go on with these changes, or start anew without --resume"
    )
    assert not caplog.messages
    check_resumable(content(), config_with({key: value}), source="x.pt", allow_changes=True)
    assert caplog.messages == [f"x.pt: the run goes on with a change: {key} {words}"]


def test_every_key_is_named_with_both_values(caplog: pytest.LogCaptureFixture) -> None:
    changes = {key: value for key, value, _ in CHANGES[:3]}
    message = refusal(changes)
    for key, _, words in CHANGES[:3]:
        assert f"{key} {words}" in message
    check_resumable(content(), config_with(changes), source="x.pt", allow_changes=True)
    assert len(caplog.messages) == 3


def test_why_a_longer_run_is_another_one() -> None:
    assert (
        "training.num_epochs was 50, is 60 (the learning rate falls over all epochs, so the rest "
        "would be learned at other rates than in one run of that length); resume with"
    ) in refusal({"training.num_epochs": 60})


def test_later_unfreezing_is_compared() -> None:
    plan = [{"from_epoch": 5, "component": "visual_backbone", "last_stages": 2}]
    message = refusal({"freezing.visual_backbone": True, "freezing.unfreeze": plan})
    assert f"freezing.unfreeze was [], is {plan!r}" in message


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("data.cache_dir", "/elsewhere/cache"),
        ("data.cache_max_gb", 5.0),
        ("data.num_workers", 4),
        ("data.train_annotations", "/elsewhere/train.json"),
        ("data.train_video_dir", "/elsewhere/videos"),
        ("data.val_annotations", "/elsewhere/val.json"),
        ("data.val_video_dir", "/elsewhere/videos"),
        ("data.decoder", "pyav"),
        ("training.checkpoint_dir", "/elsewhere/checkpoints"),
        ("training.log_dir", "/elsewhere/logs"),
        ("training.save_every", 5),
        ("training.save_every_steps", 100),
        ("training.keep_last", None),
        ("model.llm.describer", "template"),
        ("model.trigger_detector.threshold", 0.9),
        ("model.trigger_detector.candidate_threshold", 0.2),
        ("model.trigger_detector.temperature", 1.7),
        ("model.visual_encoder.weights", "/elsewhere/weights.pth"),
        ("events.merge_gap_seconds", 2.0),
        ("inference.batch_size", 2),
    ],
)
def test_what_changes_nothing_that_is_learned_may_differ(
    key: str, value: Any, caplog: pytest.LogCaptureFixture
) -> None:
    check_resumable(content(), config_with({key: value}), source="x.pt")
    assert not caplog.messages


def test_a_key_that_is_newer_than_the_checkpoint_has_its_default() -> None:
    old = content()
    del old["config"]["model"]["visual_encoder"]["pool_grid"]
    del old["config"]["training"]["ema_decay"]
    check_resumable(old, Config(), source="x.pt")


# Data


def test_the_same_data_go_on_in_silence(caplog: pytest.LogCaptureFixture) -> None:
    for data in ({"train": LEARNED, "val": JUDGED}, {"train": LEARNED}, None):
        check_resumable(content(), Config(), source="x.pt", data=data)
    check_resumable(content(train=LEARNED, val=None), Config(), source="x.pt", data={"val": None})
    assert not caplog.messages


OTHER = {"hash": "aaaaaaaaaaaaaaaa", "num_videos": 3, "num_events": 8}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (
            {"train": OTHER, "val": JUDGED},
            "data.train_annotations: content differs: 3 videos with 7 events (01234567) then, 3 "
            "videos with 8 events (aaaaaaaa) now",
        ),
        (
            {"train": LEARNED, "val": None},
            "data.val_annotations was 1 video with 2 events (fedcba98), is null",
        ),
    ],
)
def test_other_data_are_refused_unless_they_are_allowed(
    data: dict[str, Any], words: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert refusal({}, data=data) == (
        f"x.pt: is of another run: {words}; resume with the config of that run, give "
        "--allow-config-change to go on with these changes, or start anew without --resume"
    )
    check_resumable(content(), Config(), source="x.pt", data=data, allow_changes=True)
    assert caplog.messages == [f"x.pt: the run goes on with a change: {words}"]


def test_validation_that_is_new_is_a_change() -> None:
    with pytest.raises(CheckpointError, match=r"data\.val_annotations was null, is 1 video with"):
        check_resumable(content(train=LEARNED), Config(), source="x.pt", data={"val": JUDGED})


@pytest.mark.parametrize("metadata", [{}, {"data": {}}])
def test_a_checkpoint_that_does_not_know_its_data(
    metadata: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    old = {**content(), "metadata": metadata}
    check_resumable(old, Config(), source="x.pt", data={"train": LEARNED, "val": None})
    assert caplog.messages == [
        "x.pt: does not say which data it was trained on, so that they are not compared with "
        "those of this run"
    ]


# What could be read of them

ALL_READ = {**LEARNED, "num_frames": 90, "left_out": []}


@pytest.mark.parametrize(
    ("then", "now", "words"),
    [
        (
            ALL_READ,
            {**LEARNED, "num_frames": 60, "left_out": ["b.mp4"]},
            "3 of 3 videos with 90 frames then, 2 of 3 videos with 60 frames now (left out now "
            "alone: b.mp4)",
        ),
        (
            {**LEARNED, "num_frames": 60, "left_out": ["b.mp4"]},
            {**LEARNED, "num_frames": 60, "left_out": ["a.mp4"]},
            "2 of 3 videos with 60 frames then, 2 of 3 videos with 60 frames now (left out now "
            "alone: a.mp4; left out then alone: b.mp4)",
        ),
        (
            ALL_READ,
            {**ALL_READ, "num_frames": 89},
            "3 of 3 videos with 90 frames then, 3 of 3 videos with 89 frames now",
        ),
    ],
)
def test_other_videos_that_can_be_read_are_refused_unless_they_are_allowed(
    then: dict[str, Any], now: dict[str, Any], words: str, caplog: pytest.LogCaptureFixture
) -> None:
    saved = content(train=then, val=JUDGED)
    data = {"train": now, "val": JUDGED}
    with pytest.raises(CheckpointError) as caught:
        check_same_inputs(saved, data, source="x.pt")
    assert str(caught.value) == (
        "x.pt: the videos that can be read are not those it was trained on: "
        f"data.train_annotations: {words}; bring back what has changed, give --allow-config-change "
        "to go on with what there is now, or start anew without --resume"
    )
    assert not caplog.messages
    check_same_inputs(saved, data, source="x.pt", allow_changes=True)
    assert caplog.messages == [
        f"x.pt: the run goes on with a change: data.train_annotations: {words}"
    ]


def test_of_many_videos_some_are_named() -> None:
    names = [f"{number}.mp4" for number in range(20)]
    now = {**LEARNED, "num_videos": 20, "num_frames": 0, "left_out": names}
    then = {**now, "left_out": []}
    with pytest.raises(CheckpointError, match=r"alone: 0\.mp4, .*, 15\.mp4 and 4 more\); bring"):
        check_same_inputs(content(train=then), {"train": now}, source="x.pt")


@pytest.mark.parametrize(
    "saved",
    [
        content(train=ALL_READ, val=None),
        # Older ones.
        content(),
        {**content(), "metadata": {}},
        # Other annotations, which are said elsewhere.
        content(train={**OTHER, "num_frames": 1, "left_out": []}),
    ],
)
def test_what_is_the_same_or_unknown_goes_on_in_silence(
    saved: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    check_same_inputs(saved, {"train": ALL_READ, "val": None}, source="x.pt")
    check_same_inputs(saved, {"train": LEARNED}, source="x.pt")
    check_same_inputs(saved, {}, source="x.pt")
    assert not caplog.messages


# The optimizer


def trained(sizes: dict[str, int], *, width: int = 3) -> torch.optim.Optimizer:
    """AdamW after one update, with so many linear layers in each named group."""
    layers = {
        name: [nn.Linear(width, 2, bias=False) for _ in range(size)] for name, size in sizes.items()
    }
    optimizer = torch.optim.AdamW(
        [
            {"params": [layer.weight for layer in group], "name": name}
            for name, group in layers.items()
        ]
    )
    for group in layers.values():
        for layer in group:
            layer(torch.ones(width)).sum().backward()
    optimizer.step()
    return optimizer


def refused_optimizer(optimizer: torch.optim.Optimizer, saved: torch.optim.Optimizer) -> str:
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(CheckpointError) as caught:
        check_optimizer_fits(optimizer, saved.state_dict(), source="x.pt")
    assert str(optimizer.state_dict()) == str(before)
    return str(caught.value)


def test_an_optimizer_of_the_same_tensors() -> None:
    sizes = {"visual_backbone": 2, "trigger_detector": 1}
    fresh = torch.optim.AdamW(trained(sizes).param_groups)
    check_optimizer_fits(fresh, trained(sizes).state_dict(), source="x.pt")
    # Frozen so far, and so without any state.
    check_optimizer_fits(fresh, fresh.state_dict(), source="x.pt")


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ({"trigger_detector": 1}, "1 of trigger_detector"),
        (
            {"visual_backbone": 3, "trigger_detector": 1},
            "3 of visual_backbone and 1 of trigger_detector",
        ),
        (
            {"trigger_detector": 2, "visual_backbone": 1},
            "2 of trigger_detector and 1 of visual_backbone",
        ),
    ],
)
def test_an_optimizer_of_other_tensors(sizes: dict[str, int], words: str) -> None:
    saved = trained({"visual_backbone": 2, "trigger_detector": 1})
    assert refused_optimizer(trained(sizes), saved) == (
        "x.pt: its optimizer trained other tensors: 2 of visual_backbone and 1 of "
        f"trigger_detector then, {words} now; resume with the freezing and the model of that run, "
        "or start anew without --resume"
    )


def test_an_optimizer_of_tensors_of_other_shapes(caplog: pytest.LogCaptureFixture) -> None:
    """torch loads it, and fails at the first update."""
    sizes = {"trigger_detector": 2}
    caplog.set_level(logging.WARNING)
    assert refused_optimizer(trained(sizes, width=5), trained(sizes)) == (
        "x.pt: its optimizer trained other tensors: 'exp_avg' of a tensor in trigger_detector is "
        "(2, 3), and the tensor is (2, 5) now; resume with the model of that run"
    )
