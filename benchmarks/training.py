"""Training the recipe for fights: what a step takes, what the loop adds, what the loader gives.

The same model on clips of ``fight_streams``, in three ways: *end to end*; with the backbone
*frozen*, its features computed for each clip; and on *cached* features. All three with one clip a
step, which is what end to end finds memory for, and the last with as many as the recipe takes, too.
Of each is measured, in turn, round by round:

- the **step** alone: forward, backward and optimizer on batches that are in memory;
- the **loop**: an epoch of `Trainer` as its ``metrics.jsonl`` tells it, which also reads clips,
  cuts gradients, looks whether they are finite, and writes TensorBoard's file;
- the **loader** alone, without and with two workers.

Needs the data that VIDEO_TRIGGER_DATA names.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import io
import itertools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from benchmarks._fights import CONFIG, find_data, machine, overrides

if TYPE_CHECKING:
    from torch import nn

    from models.video_trigger_model import VideoTriggerModel
    from utils.config import Config
    from utils.data.clips import Clip, ClipDataset
    from utils.training.batch_loading import BatchLoader
    from utils.training.losses import FrameLoss

CPU = torch.device("cpu")

MIN_CACHE_FACTOR = 100
"""So many steps on cached features in the time of one end to end."""

MAX_OVERHEAD_PERCENT = 10
"""What the loop may add to the step of the recipe."""

MOST_BATCHES_IN_MEMORY = 8
WORKERS = (0, 2)

FROM_FRAMES = {"training.batch_size": 1, "training.cache_features": False}
WAYS: dict[str, tuple[dict[str, Any], int, int]] = {
    "end_to_end": ({**FROM_FRAMES, "freezing.visual_backbone": False}, 1, 8),
    "frozen": (FROM_FRAMES, 2, 8),
    "cached": ({"training.batch_size": 1}, 100, 512),
    "recipe": ({}, 40, 512),
}
"""By name: what differs from the recipe; steps, and clips of the loader, that are timed at once."""


def main() -> None:
    """Build, measure, print the table and the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="how often each one runs")
    parser.add_argument("--videos", type=int, default=4, help="how many give the clips")
    arguments = parser.parse_args()
    for name in ("rounds", "videos"):
        if getattr(arguments, name) < 1:
            parser.error(f"--{name} must be 1 or more, got {getattr(arguments, name)}")
    find_data(parser)
    print(f"machine: {machine()}")
    with tempfile.TemporaryDirectory() as name:
        ways = [build_way(way, Path(name), num_videos=arguments.videos) for way in WAYS]
        print("warming up ...", flush=True)
        for way in ways:
            way.measure()
            way.times.clear()
        for number in range(arguments.rounds):
            print(f"round {number + 1} of {arguments.rounds}", flush=True)
            for way in ways:
                way.measure()
    figures = {way.name: way.figures() for way in ways}
    factor = round(figures["end_to_end"]["loop_ms"] / figures["cached"]["loop_ms"])
    overhead = figures["recipe"]["overhead_percent"]
    print_table(figures)
    print(f"\nend to end / cached: {factor} times, target >= {MIN_CACHE_FACTOR}")
    print(f"the loop adds to the recipe's step: {overhead} %, target < {MAX_OVERHEAD_PERCENT} %")
    result = {
        "machine": machine(),
        "rounds": arguments.rounds,
        "end_to_end_of_cached": factor,
        "overhead_percent": overhead,
        "ways": figures,
    }
    print("RESULT " + json.dumps(result))


@dataclass(kw_only=True)
class Way:
    """One way to train, and what was measured of it.

    Attributes:
        name: Of `WAYS`.
        config: Resolved.
        model: As in the first epoch of a run.
        groups: By component, the parameters that learn.
        dataset: Its clips.
        num_steps: Timed at once.
        num_clips: Of the loader, timed at once.
        times: By what was timed, seconds of a step or a clip in each round.
    """

    name: str
    config: Config
    model: VideoTriggerModel
    groups: list[tuple[str, list[nn.Parameter]]]
    dataset: ClipDataset
    num_steps: int
    num_clips: int
    times: dict[str, list[float]] = field(default_factory=dict)

    def measure(self) -> None:
        """One round."""
        seconds = {"step": self._step_seconds(), "loop": self._loop_seconds()}
        for num_workers in WORKERS:
            seconds[f"clip_{num_workers}"] = self._clip_seconds(num_workers)
        for what, value in seconds.items():
            self.times.setdefault(what, []).append(value)

    def figures(self) -> dict[str, float | int]:
        """Medians over the rounds; what the loop adds is taken in each round for itself."""
        seconds = {what: statistics.median(values) for what, values in self.times.items()}
        ratio = statistics.median(
            loop / step for loop, step in zip(self.times["loop"], self.times["step"], strict=True)
        )
        num_frames = self.config.data.clip_window_size
        return {
            "clips_a_step": self._batch_size,
            "step_ms": round(seconds["step"] * 1e3, 2),
            "loop_ms": round(seconds["loop"] * 1e3, 2),
            "overhead_percent": round((ratio - 1) * 100, 1),
            "step_takes_frames_per_second": round(self._batch_size * num_frames / seconds["step"]),
            **{
                f"loader_{number}_workers_frames_per_second": round(
                    num_frames / seconds[f"clip_{number}"]
                )
                for number in WORKERS
            },
        }

    @property
    def _batch_size(self) -> int:
        return self.config.training.batch_size

    def _step_seconds(self) -> float:
        """Of a step on batches that are in memory."""
        from utils.training.losses import mean_over_valid

        weights = self.config.training.loss
        self.model.train()
        began = time.perf_counter()
        for clip in itertools.islice(itertools.cycle(self._batches), self.num_steps):
            output = self.model(clip.inputs, clip.timestamps, clip.valid)
            loss = torch.zeros(())
            for logits, weight in zip(
                output, (weights.trigger_weight, weights.temporal_weight), strict=True
            ):
                losses = self._loss(logits, clip.targets)
                loss = loss + weight * mean_over_valid(losses, clip.valid)
            loss.backward()  # type: ignore[no-untyped-call]
            self._optimizer.step()
            self._optimizer.zero_grad(set_to_none=True)
        return (time.perf_counter() - began) / self.num_steps

    @functools.cached_property
    def _batches(self) -> list[Clip]:
        count = min(self.num_steps, MOST_BATCHES_IN_MEMORY)
        with self._loader(count * self._batch_size, num_workers=0) as loader:
            return [batch.clip for *_, batches in loader.updates(0, 0) for batch in batches]

    @functools.cached_property
    def _optimizer(self) -> torch.optim.Optimizer:
        from utils.training.optimization import build_optimizer

        return build_optimizer(self.groups, self.config.training)

    @functools.cached_property
    def _loss(self) -> FrameLoss:
        from utils.training.losses import build_loss

        return build_loss(self.config.training.loss, None)

    def _loop_seconds(self) -> float:
        """Of a step of `Trainer`."""
        from utils.training.run_record import METRICS_NAME, read_metrics
        from utils.training.trainer import Trainer

        with tempfile.TemporaryDirectory() as name:
            config = with_training(
                self.config,
                clips_per_epoch=self.num_steps * self._batch_size,
                # The first makes what the optimizer remembers.
                num_epochs=2,
                save_every=2,
                checkpoint_dir=f"{name}/checkpoints",
                log_dir=f"{name}/logs",
            )
            trainer = Trainer(
                model=self.model,
                config=config,
                dataset=self.dataset,
                parameter_groups=self.groups,
                loss=self._loss,
                evaluator=None,
                device=CPU,
                metadata={"labels": list(config.model.class_labels())},
            )
            # The progress bar is part of the loop, but not of this program's output.
            with contextlib.redirect_stderr(io.StringIO()):
                trainer.fit()
            (path,) = Path(name).glob(f"logs/*/{METRICS_NAME}")
            seconds: float = read_metrics(path)[-1]["seconds"]
            return seconds / self.num_steps

    def _clip_seconds(self, num_workers: int) -> float:
        """Of a clip that the loader reads while nothing else is done."""
        with self._loader(self.num_clips, num_workers=num_workers) as loader:
            # In the first epoch the workers are started.
            for epoch in range(2):
                began = time.perf_counter()
                for *_, batches in loader.updates(epoch, 0):
                    for _ in batches:
                        pass
                seconds = time.perf_counter() - began
        return seconds / self.num_clips

    def _loader(self, num_clips: int, *, num_workers: int) -> BatchLoader:
        from utils.data.clip_batches import EpochPlan
        from utils.training.batch_loading import BatchLoader
        from utils.training.processes import Processes

        return BatchLoader(
            self.dataset,
            EpochPlan(clips_per_epoch=num_clips, batch_size=self._batch_size),
            processes=Processes(),
            num_workers=num_workers,
            device=CPU,
        )


def build_way(name: str, cache: Path, *, num_videos: int) -> Way:
    """Model and clips, as `build_trainer` makes them, of the first videos alone."""
    from models.freezing import FreezePlan, parameter_groups
    from models.video_trigger_model import VideoTriggerModel, resolve_model_config
    from pipeline.training_inputs import InputsReader, usable_inputs
    from utils.config import load_config
    from utils.data.annotations import load_annotations
    from utils.data.clips import ClipDataset
    from utils.training.randomness import seed_everything

    changes, num_steps, num_clips = WAYS[name]
    config = load_config(CONFIG, overrides({**changes, "data.cache_dir": cache}))
    assert config.data.train_annotations is not None, "the recipe names them"
    annotations = load_annotations(config.data.train_annotations)
    annotations = dataclasses.replace(annotations, videos=annotations.videos[:num_videos])
    config = resolve_model_config(config, annotations.labels)
    seed_everything(config.training.seed)
    model = VideoTriggerModel.from_config(config.model)
    model.visual_encoder.load_pretrained()
    plan = FreezePlan(config.freezing)
    plan.apply(model, epoch=1)
    dataset = ClipDataset(
        usable_inputs(InputsReader(config, model, CPU, training=True), annotations),
        window_size=config.data.clip_window_size,
        event_fraction=config.training.event_fraction,
        augmentation=config.training.augmentation,
        seed=config.training.seed,
    )
    return Way(
        name=name,
        config=config,
        model=model,
        groups=list(parameter_groups(model, plan)),
        dataset=dataset,
        num_steps=num_steps,
        num_clips=num_clips,
    )


def with_training(config: Config, **changes: Any) -> Config:
    """``config`` with other keys of its section ``training``, checked like any."""
    from utils.config import parse_config

    plain = config.to_plain()
    plain["training"].update(changes)
    return parse_config(plain)


def print_table(figures: Mapping[str, Mapping[str, float | int]]) -> None:
    """A line for each way."""
    print("\n                  milliseconds a step         frames a second")
    print("           clips   alone   in the loop         step  loader  2 workers")
    for name, row in figures.items():
        loaders = [row[f"loader_{number}_workers_frames_per_second"] for number in WORKERS]
        print(
            f"{name:10} {row['clips_a_step']:5} {row['step_ms']:7.0f} {row['loop_ms']:7.0f} "
            f"({row['overhead_percent']:+.1f} %) {row['step_takes_frames_per_second']:9} "
            f"{loaders[0]:7} {loaders[1]:10}"
        )


if __name__ == "__main__":
    main()
