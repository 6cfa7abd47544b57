"""Thresholds of K classes: one number for all of them, or one for each.

A config, a checkpoint and a report name the classes; what runs has numbers in the order of the
model's labels. Here the one becomes the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from utils.registry import suggestion

Threshold = float | tuple[float, ...]
"""One for all classes, or K of them in the order of the labels."""
NamedThreshold = float | dict[str, float]
"""One for all classes, or by label: what config, checkpoint and report hold."""


def per_class(threshold: float | Sequence[float], labels: Sequence[str]) -> tuple[float, ...]:
    """One threshold for each label.

    Raises:
        ValueError: There are not K, or one is not in (0, 1].
    """
    if isinstance(threshold, Sequence):
        thresholds = tuple(float(value) for value in threshold)
    else:
        thresholds = (float(threshold),) * len(labels)
    if len(thresholds) != len(labels):
        raise ValueError(
            f"threshold must be one number or {len(labels)}, one for each of {', '.join(labels)}; "
            f"got {len(thresholds)}"
        )
    for label, value in zip(labels, thresholds, strict=True):
        # 0 would make events of frames that nobody looked at.
        if not 0 < value <= 1:
            raise ValueError(f"threshold of '{label}' must be above 0 and at most 1, got {value}")
    return thresholds


def in_order(named: float | Mapping[str, float], labels: Sequence[str]) -> Threshold:
    """Numbers in the order of ``labels``.

    Raises:
        ValueError: A class is missing, or one is named that is not among ``labels``.
    """
    if not isinstance(named, Mapping):
        return float(named)
    for label in named:
        if label not in labels:
            raise ValueError(
                f"names '{label}', which is no class of the model; its classes: "
                f"{', '.join(labels)}{suggestion(label, labels)}"
            )
    missing = [label for label in labels if label not in named]
    if missing:
        raise ValueError(f"has no number for {', '.join(missing)}; give one for each class")
    return tuple(float(named[label]) for label in labels)


def by_label(threshold: Threshold, labels: Sequence[str]) -> NamedThreshold:
    """What `in_order` was called on."""
    if isinstance(threshold, tuple):
        return dict(zip(labels, threshold, strict=True))
    return threshold
