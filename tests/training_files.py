"""Helpers of the training tests: two tiny annotated videos, and a config that trains on them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
import yaml

from pipeline.training_setup import build_trainer
from utils.checkpoint import load_checkpoint
from utils.config import Config

MakeConfig = Callable[..., Config]
CACHED = {"training__cache_features": True, "freezing__visual_backbone": True}

SAMPLING_FPS = 5
LABELS = ["flash", "dim"]


def write_video(path: Path, *, seconds: float = 6.0, seed: int = 0) -> list[dict[str, Any]]:
    """Noise that turns bright for a while, then dark; returns these two events."""
    fps = 10
    random = np.random.default_rng(seed)
    start = float(random.uniform(1, seconds / 3))
    events = [
        {"start": round(start, 2), "end": round(start + 1.2, 2), "label": "flash"},
        {"start": round(start + 2, 2), "end": round(start + 3, 2), "label": "dim"},
    ]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": "10"})
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        for number in range(round(seconds * fps)):
            level = 110
            for event, bright in zip(events, (220, 20), strict=True):
                if event["start"] <= number / fps < event["end"]:
                    level = bright
            image = level + random.integers(-15, 16, (32, 48, 3))
            frame = av.VideoFrame.from_ndarray(image.clip(0, 255).astype(np.uint8), "rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return events


def write_data(folder: Path) -> Path:
    """``train.json`` (two videos, one shorter than a clip) and ``val.json`` (one) in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, lengths in (("train", (6.0, 4.5)), ("val", (6.0,))):
        videos = []
        for index, seconds in enumerate(lengths):
            name = f"{split}_{index}.mp4"
            events = write_video(folder / name, seconds=seconds, seed=index + 10 * len(split))
            videos.append({"video": name, "events": events})
        content = {"labels": LABELS, "videos": videos}
        (folder / f"{split}.json").write_text(json.dumps(content))
    return folder


def plain_config(data: Path, work: Path) -> dict[str, Any]:
    """Of a run that reads ``data``, writes under ``work``, and takes about a second."""
    return {
        "data": {
            "train_annotations": str(data / "train.json"),
            "val_annotations": str(data / "val.json"),
            "frame_sampling_rate": SAMPLING_FPS,
            "clip_window_size": 6,
            "image_size": 32,
            "cache_dir": str(work / "cache"),
            # A process of its own takes longer to start than these videos to decode.
            "decoder": "pyav",
        },
        "model": {
            "visual_encoder": {"type": "timm:test_resnet", "weights": "none", "feature_dim": 16},
            "trigger_detector": {"hidden_dims": [16]},
            "time_aware_encoder": {"hidden_dim": 16, "num_layers": 1, "num_heads": 2},
        },
        "training": {
            "batch_size": 2,
            "num_epochs": 2,
            "clips_per_epoch": 8,
            "learning_rate": 1e-3,
            "use_mixed_precision": False,
            "checkpoint_dir": str(work / "checkpoints"),
            "log_dir": str(work / "logs"),
        },
    }


def merge(plain: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """``plain`` with ``changes`` by dotted key."""
    for dotted, value in changes.items():
        section = plain
        *path, last = dotted.split(".")
        for key in path:
            section = section.setdefault(key, {})
        section[last] = value
    return plain


def write_config(data: Path, work: Path, **changes: Any) -> Path:
    """A YAML file in ``work``."""
    work.mkdir(parents=True, exist_ok=True)
    path = work / "config.yaml"
    path.write_text(yaml.safe_dump(merge(plain_config(data, work), changes)))
    return path


def fitted(config: Config) -> dict[str, torch.Tensor]:
    """The weights that a run ends with."""
    result = build_trainer(config, torch.device("cpu")).fit()
    weights: dict[str, torch.Tensor] = load_checkpoint(result.checkpoint_path)["model_state_dict"]
    return weights


def assert_same_weights(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    """Bit-identical."""
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name
