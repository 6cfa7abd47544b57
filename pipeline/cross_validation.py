"""`cross_validate`: how good a recipe is, by what it makes of groups that it was not trained on.

On the training road, around `build_trainer` and `evaluate`. One validation split of little video is
soon learned by heart by whoever chooses a recipe on it. Here every group of all annotations is
judged once, each time by a model that never saw it.
"""

from __future__ import annotations

import math
import statistics
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from pipeline.assembly import Request, cascade_of_checkpoint
from pipeline.evaluation import EvaluationSettings, evaluate
from pipeline.training_setup import build_trainer
from utils.config import Config, parse_config
from utils.data.annotations import AnnotationSet, save_annotations
from utils.data.splitting import split_annotations
from utils.errors import AnnotationError, UsageError

METRICS = ("frame_ap", "frame_ap_trigger_head", "frame_auroc", "event_f1", "false_alarms_per_hour")
"""Keys of `docs/metrics.md` that a fold is judged by."""


@dataclass(frozen=True, kw_only=True)
class FoldResult:
    """What one model made of the fold that it was not trained on.

    Attributes:
        fold: Number, from 0.
        seed: Of the training.
        groups: In the fold; a video without a group counts as one, by its path.
        num_videos: In the fold.
        metrics: Of `METRICS`, over all classes; None where there is no such thing.
    """

    fold: int
    seed: int
    groups: tuple[str, ...]
    num_videos: int
    metrics: Mapping[str, float | None]

    def to_plain(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "fold": self.fold,
            "seed": self.seed,
            "groups": list(self.groups),
            "num_videos": self.num_videos,
            **self.metrics,
        }


def pooled(sets: Sequence[AnnotationSet]) -> AnnotationSet:
    """The videos of several annotation files as one set, by their absolute paths.

    A group of the same name in two files is one group.

    Raises:
        AnnotationError: A label is not among those of the first file, or a video is in two files.
    """
    first, *others = sets
    videos = [*first.videos]
    for other in others:
        videos += other.with_labels(first.labels).videos
    by_path: dict[str, Any] = {}
    for video in videos:
        path = str(video.path.resolve())
        if path in by_path:
            raise AnnotationError(
                f"{path} is in the annotations twice: it would be trained on and judged; name "
                "each file once, and leave the video out of one"
            )
        by_path[path] = replace(video, video=path)
    return AnnotationSet(labels=first.labels, videos=tuple(by_path.values()))


def folds_of(annotations: AnnotationSet, num_folds: int | None) -> list[AnnotationSet]:
    """Cut into folds of about the same content, no group in two of them.

    Args:
        annotations: All videos.
        num_folds: None: a fold for each group.

    Raises:
        UsageError: Fewer than two folds, or more than there are groups.
    """
    num_groups = len(_groups(annotations))
    num_folds = num_groups if num_folds is None else num_folds
    if num_folds < 2:
        raise UsageError(
            f"cross-validation needs two folds or more, got {num_folds}: with less, nothing is "
            "left to train on"
        )
    if num_folds > num_groups:
        raise UsageError(
            f"{num_groups} groups cannot be cut into {num_folds} folds, since no group may be in "
            "two; ask for fewer folds"
        )
    return list(
        split_annotations(
            annotations, {f"fold {number}": 1.0 for number in range(num_folds)}
        ).values()
    )


def cross_validate(
    config: Config,
    annotations: AnnotationSet,
    *,
    num_folds: int | None,
    seeds: Sequence[int],
    device: torch.device,
) -> Iterator[FoldResult]:
    """Train on all folds but one, judge that one; each in turn, for each seed.

    The last epoch is judged, as the cascade runs it: to choose the best one by the fold would be to
    look at the answers. Features and frames are cached once for all folds, in ``data.cache_dir``.
    Checkpoints are not kept.

    Args:
        config: The recipe. Its annotations, seed and folders do not matter.
        annotations: Of all videos, with absolute paths (`pooled`).
        num_folds: See `folds_of`.
        seeds: One training each for every fold.
        device: To train and judge on.

    Raises:
        KeyboardInterrupt: Training was asked to stop.
        VideoTriggerError: Config, annotations, weights or every video cannot be used.
    """
    folds = folds_of(annotations, num_folds)
    for seed in seeds:
        for number, held_out in enumerate(folds):
            kept = {video.video for video in held_out.videos}
            rest = replace(
                annotations,
                videos=tuple(video for video in annotations.videos if video.video not in kept),
            )
            with tempfile.TemporaryDirectory(prefix="cross_validation_") as folder:
                metrics = _judge(config, rest, held_out, seed, device, Path(folder))
            yield FoldResult(
                fold=number,
                seed=seed,
                groups=tuple(_groups(held_out)),
                num_videos=len(held_out.videos),
                metrics=metrics,
            )


def _judge(
    config: Config,
    train: AnnotationSet,
    held_out: AnnotationSet,
    seed: int,
    device: torch.device,
    folder: Path,
) -> dict[str, float | None]:
    path = folder / "train.json"
    save_annotations(train, path)
    plain = config.to_plain()
    plain["data"] |= {
        "train_annotations": str(path),
        "train_video_dir": None,
        "val_annotations": None,
        "val_video_dir": None,
    }
    plain["training"] |= {
        "seed": seed,
        "checkpoint_dir": str(folder / "checkpoints"),
        "log_dir": str(folder / "logs"),
        # They stop a training by what validation says, and there is none.
        "early_stopping_patience": None,
    }
    result = build_trainer(parse_config(plain, interpolate=()), device).fit()
    if result.exit_code:
        raise KeyboardInterrupt
    cascade, used = cascade_of_checkpoint(
        Request(), result.checkpoint_path, device=str(device), strict=True
    )
    evaluation = evaluate(
        cascade,
        held_out,
        decoder=used.data.decoder,
        settings=EvaluationSettings(
            point_radius_seconds=used.data.point_radius_seconds, num_draws=0
        ),
    )
    return {name: evaluation.metrics[name]["overall"] for name in METRICS}


@dataclass(frozen=True, kw_only=True)
class Summary:
    """One metric over all folds and seeds.

    Attributes:
        mean: Over the folds, of each its mean over the seeds; None where no fold has a value.
        fold_deviation: Standard deviation over the folds: how much depends on who is judged. None
            for fewer than two.
        seed_deviation: Standard deviation over the seeds of the mean over the folds: how much is
            luck. None for fewer than two.
    """

    mean: float | None
    fold_deviation: float | None
    seed_deviation: float | None


def summarize(results: Sequence[FoldResult], name: str) -> Summary:
    """Of one of `METRICS`; what is None in a fold is left out."""
    by_fold = _means(results, name, [result.fold for result in results])
    by_seed = _means(results, name, [result.seed for result in results])
    return Summary(
        mean=statistics.fmean(by_fold) if by_fold else None,
        fold_deviation=statistics.stdev(by_fold) if len(by_fold) > 1 else None,
        seed_deviation=statistics.stdev(by_seed) if len(by_seed) > 1 else None,
    )


def _means(results: Sequence[FoldResult], name: str, keys: Sequence[int]) -> list[float]:
    values: dict[int, list[float]] = {}
    for result, key in zip(results, keys, strict=True):
        value = result.metrics[name]
        if value is not None and not math.isnan(value):
            values.setdefault(key, []).append(value)
    return [statistics.fmean(found) for found in values.values()]


def _groups(annotations: AnnotationSet) -> list[str]:
    """Names, in the order in which they come."""
    return list(
        dict.fromkeys(
            video.video if video.group is None else video.group for video in annotations.videos
        )
    )
