"""Cross-validation: nobody is judged by a model that saw them; means and deviations by hand."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from pipeline import cross_validation
from pipeline.cross_validation import (
    METRICS,
    FoldResult,
    cross_validate,
    folds_of,
    pooled,
    summarize,
)
from pipeline.training_setup import build_trainer
from training_files import plain_config, write_data
from utils.config import Config, parse_config
from utils.data.annotations import AnnotationSet, VideoAnnotation, load_annotations
from utils.errors import AnnotationError, UsageError
from utils.training.trainer import Trainer


def annotation_set(*groups: str | None, labels: tuple[str, ...] = ("a",)) -> AnnotationSet:
    return AnnotationSet(
        labels=labels,
        videos=tuple(
            VideoAnnotation(video=f"{number}.mp4", path=Path(f"/v/{number}.mp4"), group=group)
            for number, group in enumerate(groups)
        ),
    )


def result(fold: int, seed: int, value: float | None) -> FoldResult:
    return FoldResult(
        fold=fold, seed=seed, groups=("g",), num_videos=1, metrics=dict.fromkeys(METRICS, value)
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


def test_no_group_is_in_two_folds() -> None:
    annotations = annotation_set("x", "y", "x", None, "z", "y", None)
    folds = folds_of(annotations, 3)
    assert sorted(video.video for fold in folds for video in fold.videos) == [
        f"{number}.mp4" for number in range(7)
    ]
    for group in "xyz":
        assert sum(any(video.group == group for video in fold.videos) for fold in folds) == 1
    # x, y, z, and two videos of no group.
    assert len(folds_of(annotations, None)) == 5


@pytest.mark.parametrize(
    ("num_folds", "message"),
    [
        (1, "needs two folds or more, got 1"),
        (4, "3 groups cannot be cut into 4 folds, since no group may be in two; ask for fewer"),
    ],
)
def test_folds_that_cannot_be(num_folds: int, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        folds_of(annotation_set("x", "y", "z", "z"), num_folds)


def test_one_group_leaves_nothing_to_train_on() -> None:
    with pytest.raises(UsageError, match="got 1: with less, nothing is left to train on"):
        folds_of(annotation_set("x", "x"), None)


def test_pooled_files_share_groups_and_no_names() -> None:
    one, other = annotation_set("x", "y"), annotation_set("x")
    other = dataclasses.replace(
        other, videos=tuple(dataclasses.replace(v, path=Path("/w/0.mp4")) for v in other.videos)
    )
    every = pooled([one, other])
    assert [video.video for video in every.videos] == ["/v/0.mp4", "/v/1.mp4", "/w/0.mp4"]
    assert len(folds_of(every, None)) == 2


def test_a_video_in_two_files_is_an_error() -> None:
    with pytest.raises(AnnotationError, match=r"/v/0\.mp4 is in the annotations twice"):
        pooled([annotation_set("x"), annotation_set("y")])


def test_summary_by_hand() -> None:
    results = [result(0, 0, 0.5), result(1, 0, 0.9), result(0, 1, 0.7), result(1, 1, 0.9)]
    found = summarize(results, "frame_ap")
    # Folds 0.6 and 0.9; seeds 0.7 and 0.8.
    assert found.mean == pytest.approx(0.75)
    assert found.fold_deviation == pytest.approx(0.3 / 2**0.5)
    assert found.seed_deviation == pytest.approx(0.1 / 2**0.5)
    without = summarize([result(0, 0, None), result(1, 0, 0.4)], "frame_ap")
    assert (without.mean, without.fold_deviation, without.seed_deviation) == (0.4, None, None)
    assert summarize([result(0, 0, None)], "frame_ap").mean is None


def test_each_fold_is_judged_by_a_model_that_never_saw_it(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[set[str]] = []
    configs: list[Config] = []

    def spy(config: Config, device: torch.device) -> Trainer:
        assert config.data.train_annotations is not None
        seen = load_annotations(config.data.train_annotations).videos
        trained.append({str(video.path) for video in seen})
        configs.append(config)
        return build_trainer(config, device)

    monkeypatch.setattr(cross_validation, "build_trainer", spy)
    plain = plain_config(data, tmp_path)
    plain["training"] |= {"num_epochs": 1, "clips_per_epoch": 2, "early_stopping_patience": 1}
    every = pooled([load_annotations(data / name) for name in ("train.json", "val.json")])
    results = list(
        cross_validate(
            parse_config(plain), every, num_folds=None, seeds=[3], device=torch.device("cpu")
        )
    )
    paths = {str(video.path) for video in every.videos}
    assert len(results) == 3
    for found, seen in zip(results, trained, strict=True):
        assert set(found.groups) == paths - seen
        assert found.num_videos == 1
        assert found.metrics["frame_ap"] is not None
        assert 0 < found.metrics["frame_ap"] <= 1
    assert {config.training.seed for config in configs} == {3}
    assert all(config.data.val_annotations is None for config in configs)
    # Neither checkpoints nor logs are left.
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache"]
