"""Splits of a data set in which no group is torn apart, balanced by the events of each class.

A group is a set of cameras or a person: a model that has seen them in training is judged too kindly
on them.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from utils.data.annotations import AnnotationSet, VideoAnnotation
from utils.errors import UsageError

_MAX_ROUNDS = 20
"""Of improvement; each looks at every group once. A handful is enough to settle."""


@dataclass(frozen=True, kw_only=True)
class _Group:
    """Videos that stay together, and their share of each thing that is to be balanced, ``(F,)``."""

    name: str
    videos: tuple[VideoAnnotation, ...]
    shares: NDArray[np.float64]


def split_annotations(
    annotations: AnnotationSet, fractions: Mapping[str, float], *, seed: int = 0
) -> dict[str, AnnotationSet]:
    """Divide the videos so that no group is in two splits.

    Groups are dealt out from the largest, each to the split that it brings nearest to its fraction
    of every class's events and of the video time; then groups are moved and exchanged while that
    helps. A video without ``group`` is a group of its own. Every split gets at least one group.

    Args:
        annotations: What to divide.
        fractions: Split name to its share; they are scaled to sum to 1.
        seed: Another seed, another split of equal quality; the same gives the same.

    Returns:
        Splits in the order of ``fractions``, videos in the order of ``annotations``.

    Raises:
        UsageError: A fraction is not above 0, or there are fewer groups than splits.
    """
    for name, fraction in fractions.items():
        # Written so that NaN fails.
        if not 0 < fraction < float("inf"):
            raise UsageError(f"the fraction of split '{name}' must be above 0, got {fraction:g}")
    groups = _groups(annotations)
    if len(groups) < len(fractions):
        raise UsageError(
            f"{len(groups)} groups cannot be divided into {len(fractions)} splits ("
            f"{', '.join(fractions)}) so that none is in two; annotate more groups, or split less"
        )
    goal = np.array(list(fractions.values())) / sum(fractions.values())
    place = _improve(groups, _deal(groups, goal, seed), goal)
    of_video = {
        video.video: split
        for group, split in zip(groups, place, strict=True)
        for video in group.videos
    }
    return {
        name: replace(
            annotations,
            videos=tuple(video for video in annotations.videos if of_video[video.video] == index),
        )
        for index, name in enumerate(fractions)
    }


def _groups(annotations: AnnotationSet) -> list[_Group]:
    members: dict[tuple[bool, str], list[VideoAnnotation]] = {}
    for video in annotations.videos:
        # A video of the name of a group is not in it.
        key = (True, video.group) if video.group is not None else (False, video.video)
        members.setdefault(key, []).append(video)
    counts = np.array([_counts(videos, annotations.labels) for videos in members.values()])
    # What nobody has weighs nothing.
    totals = np.maximum(counts.sum(axis=0), 1e-12)
    return [
        _Group(name=name, videos=tuple(videos), shares=row)
        for ((_, name), videos), row in zip(members.items(), counts / totals, strict=True)
    ]


def _counts(videos: Sequence[VideoAnnotation], labels: Sequence[str]) -> list[float]:
    """Events of each class, then the length in seconds (in videos, where one is not known)."""
    events = [
        float(sum(event.label == label for video in videos for event in video.events))
        for label in labels
    ]
    return [*events, sum(video.duration or 0.0 for video in videos), float(len(videos))]


def _cost(held: NDArray[np.float64], goal: NDArray[np.float64]) -> float:
    """How far the splits are from their fractions, relative to these; ``held`` is ``(S, F)``."""
    # Relative: a small split that lacks a class is worse than a large one that is a little short.
    return float((((held - goal[:, None]) / goal[:, None]) ** 2 * goal[:, None]).sum())


def _deal(groups: Sequence[_Group], goal: NDArray[np.float64], seed: int) -> list[int]:
    order = list(range(len(groups)))
    random.Random(seed).shuffle(order)  # Stable sorting keeps this order among equals.
    order.sort(key=lambda index: -float(groups[index].shares.sum()))
    held = np.zeros((len(goal), len(groups[0].shares)))
    place = [0] * len(groups)
    for number, index in enumerate(order):
        empty = [
            split for split in range(len(goal)) if split not in {place[i] for i in order[:number]}
        ]
        # The last groups are kept for splits that would stay without any.
        choices = empty if len(empty) >= len(groups) - number else range(len(goal))
        place[index] = min(
            choices, key=lambda split: _cost(_with(held, split, groups[index].shares), goal)
        )
        held[place[index]] += groups[index].shares
    return place


def _with(
    held: NDArray[np.float64], split: int, shares: NDArray[np.float64]
) -> NDArray[np.float64]:
    changed = held.copy()
    changed[split] += shares
    return changed


def _improve(groups: Sequence[_Group], place: list[int], goal: NDArray[np.float64]) -> list[int]:
    """Move single groups, and exchange pairs, while that brings the splits nearer to the goal."""
    num_splits = len(goal)
    held = np.zeros((num_splits, len(groups[0].shares)))
    for group, split in zip(groups, place, strict=True):
        held[split] += group.shares
    best = _cost(held, goal)
    for _ in range(_MAX_ROUNDS):
        before = best
        for index, group in enumerate(groups):
            for target in range(num_splits):
                source = place[index]
                if target == source or place.count(source) == 1:
                    continue
                moved = _with(_with(held, source, -group.shares), target, group.shares)
                cost = _cost(moved, goal)
                if cost < best - 1e-12:
                    held, best, place[index] = moved, cost, target
        # Exchanges are tried where they are affordable: their number grows with the square.
        pairs = range(len(groups)) if len(groups) <= 200 else range(0)
        for first in pairs:
            for second in range(first + 1, len(groups)):
                one, other = place[first], place[second]
                if one == other:
                    continue
                change = groups[second].shares - groups[first].shares
                moved = _with(_with(held, one, change), other, -change)
                cost = _cost(moved, goal)
                if cost < best - 1e-12:
                    held, best = moved, cost
                    place[first], place[second] = other, one
        if best >= before - 1e-12:
            break
    return place
