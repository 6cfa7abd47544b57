"""`data_identity`: whether two runs saw the same annotated videos, wherever these lie.

Goes into every checkpoint; `utils.training.resuming` compares it when a run goes on.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from utils.data.annotations import AnnotationSet


def annotations_hash(annotations: AnnotationSet) -> str:
    """SHA-256 over all of ``annotations`` that training sees, as hexadecimal digits.

    That is the labels in their order, and of each video in its order the name, duration, frame rate
    and events. The folder that holds the videos is left out, so that data which were moved are the
    same data; so are descriptions, groups, and fields that are not known here. The pixels are not
    looked at.
    """
    names = _names_below_common_folder([video.path for video in annotations.videos])
    content = [
        list(annotations.labels),
        [
            [
                name,
                *(None if value is None else float(value) for value in (video.duration, video.fps)),
                [[event.label, float(event.start), float(event.end)] for event in video.events],
            ]
            for name, video in zip(names, annotations.videos, strict=True)
        ],
    ]
    # ASCII: a file name need not be text, and its odd bytes have no UTF-8.
    text = json.dumps(content, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def data_identity(annotations: AnnotationSet) -> dict[str, Any]:
    """Plain data for a checkpoint's metadata: ``hash``, ``num_videos`` and ``num_events``."""
    return {
        "hash": annotations_hash(annotations),
        "num_videos": len(annotations.videos),
        "num_events": sum(len(video.events) for video in annotations.videos),
    }


def usable_identity(annotations: AnnotationSet, num_frames: Mapping[str, int]) -> dict[str, Any]:
    """Plain data that go with `data_identity`: what could be read of the annotated videos.

    Args:
        annotations: All videos.
        num_frames: Sampled frames of each that could be read, by its name in the annotations.

    Returns:
        ``num_frames`` of all, and ``left_out``: the others' names, below the folder that holds all
        videos.
    """
    names = _names_below_common_folder([video.path for video in annotations.videos])
    return {
        "num_frames": sum(num_frames.values()),
        "left_out": [
            name
            for name, video in zip(names, annotations.videos, strict=True)
            if video.video not in num_frames
        ],
    }


def _names_below_common_folder(paths: list[Path]) -> list[str]:
    """Paths below the deepest folder that holds all of them, with ``/`` on every system."""
    # By name alone: what links lead to differs from one machine to the next.
    whole = [Path(os.path.abspath(path)) for path in paths]
    if len({path.drive for path in whole}) != 1:
        # None at all, or on several drives, which have no folder in common.
        return [path.as_posix() for path in whole]
    common = os.path.commonpath([path.parent for path in whole])
    return [path.relative_to(common).as_posix() for path in whole]
