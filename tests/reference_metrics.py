"""Metrics written once more, from their definitions, with loops: `utils.evaluation` equals them.

Nothing here is shared with the package, and nothing is fast. Each function names where its
definition comes from.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

Segment = tuple[float, float]


def e2e_spot_ap(
    truth: Sequence[Sequence[float]],
    predictions: Sequence[Sequence[tuple[float, float]]],
    tolerance: float,
) -> float:
    """`compute_average_precision` of E2E-Spot's ``util/score.py``: (moment, score) by video."""
    total = sum(len(moments) for moments in truth)
    if not total:
        return math.nan
    flat = [(video, m, s) for video, found in enumerate(predictions) for m, s in found]
    flat.sort(key=lambda entry: entry[2], reverse=True)  # Stable, as there.
    recalled: set[tuple[int, int]] = set()
    precisions = []
    for rank, (video, moment, _) in enumerate(flat, 1):
        closest = None
        for index, reference in enumerate(truth[video]):
            if (video, index) in recalled:
                continue
            if closest is None or abs(moment - reference) < abs(moment - truth[video][closest]):
                closest = index
        if closest is not None and abs(moment - truth[video][closest]) <= tolerance:
            recalled.add((video, closest))
            precisions.append(len(recalled) / rank)
    return sum(max(precisions[i:]) for i in range(len(precisions))) / total


def soccernet_average_map(
    truth: Sequence[Sequence[float]],
    predictions: Sequence[Sequence[tuple[float, float]]],
    windows: Sequence[float],
) -> float:
    """`average_mAP` of ``SoccerNet.Evaluation.ActionSpotting`` for one class."""
    total = sum(len(moments) for moments in truth)
    if not total:
        return math.nan
    values = [_soccernet_ap(truth, predictions, window, total) for window in windows]
    integral = 0.0
    for i in range(len(values) - 1):
        integral += (values[i] + values[i + 1]) / 2
    return integral / (len(values) - 1)


def _soccernet_ap(
    truth: Sequence[Sequence[float]],
    predictions: Sequence[Sequence[tuple[float, float]]],
    window: float,
    total: int,
) -> float:
    detections: list[tuple[float, int]] = []
    for moments, found in zip(truth, predictions, strict=True):
        in_time = sorted(found, key=lambda entry: entry[0])
        removed: list[int] = []
        for moment in sorted(moments):
            best_score, best = -1.0, None
            for index, (at, score) in enumerate(in_time):
                near = abs(at - moment) <= window / 2
                if near and score > best_score and index not in removed:
                    best_score, best = score, index
            if best is not None:
                removed.append(best)
        detections += [(score, int(i in removed)) for i, (_, score) in enumerate(in_time)]
    points = []
    for step in range(200):
        # numpy.linspace(0, 1, 200) multiplies by the step; its last value is exactly 1.
        threshold = 1.0 if step == 199 else step * (1 / 199)
        taken = [hit for score, hit in detections if score >= threshold]
        points.append((sum(taken) / total, sum(taken) / len(taken) if taken else 0.0))
    value = 0.0
    for j in range(11):
        value += max((p for r, p in points if r >= j / 10), default=0.0)
    return value / 11


def activitynet_ap(
    truth: Sequence[Sequence[Segment]],
    predictions: Sequence[Sequence[tuple[Segment, float]]],
    tiou: float,
) -> float:
    """`compute_average_precision_detection` of ActivityNet's ``eval_detection.py``."""
    total = sum(len(segments) for segments in truth)
    if not total:
        return math.nan
    flat = [(video, s, score) for video, found in enumerate(predictions) for s, score in found]
    flat.sort(key=lambda entry: entry[2], reverse=True)
    locked: set[tuple[int, int]] = set()
    hits = []
    for video, segment, _ in flat:
        overlaps = [(_tiou(segment, other), -i) for i, other in enumerate(truth[video])]
        hit = False
        for overlap, negative in sorted(overlaps, reverse=True):
            if overlap < tiou:
                break
            if (video, -negative) not in locked:
                locked.add((video, -negative))
                hit = True
                break
        hits.append(hit)
    # The VOC 2011 area: precision made monotone from the right, summed over the steps of recall.
    recalls, precisions, num_hits = [0.0], [0.0], 0
    for rank, hit in enumerate(hits, 1):
        num_hits += hit
        recalls.append(num_hits / total)
        precisions.append(num_hits / rank)
    recalls.append(1.0)
    precisions.append(0.0)
    for i in range(len(precisions) - 2, -1, -1):
        precisions[i] = max(precisions[i], precisions[i + 1])
    area = 0.0
    for i in range(1, len(recalls)):
        if recalls[i] != recalls[i - 1]:
            area += (recalls[i] - recalls[i - 1]) * precisions[i]
    return area


def _tiou(first: Segment, second: Segment) -> float:
    inter = max(0.0, min(first[1], second[1]) - max(first[0], second[0]))
    return inter / ((first[1] - first[0]) + (second[1] - second[0]) - inter)


def framewise_segments(frames: Sequence[str]) -> list[tuple[str, int, int]]:
    """`get_labels_start_end_time` of MS-TCN's ``eval.py``, background left out."""
    segments = []
    start = 0
    for i in range(1, len(frames) + 1):
        if i == len(frames) or frames[i] != frames[start]:
            if frames[start] != "background":
                segments.append((frames[start], start, i))
            start = i
    return segments


def mstcn_counts(
    recognized: Sequence[str], truth: Sequence[str], overlap: float
) -> tuple[int, int, int]:
    """`f_score` of MS-TCN's ``eval.py``: true positives, false positives, false negatives."""
    found, real = framewise_segments(recognized), framewise_segments(truth)
    hits = [False] * len(real)
    num_hits = num_wrong = 0
    for label, start, end in found:
        ious = []
        for other, other_start, other_end in real:
            inter = min(end, other_end) - max(start, other_start)
            union = max(end, other_end) - min(start, other_start)
            ious.append(inter / union * (label == other))
        best = max(range(len(ious)), key=lambda i: ious[i], default=None)
        if best is not None and ious[best] >= overlap and not hits[best]:
            hits[best] = True
            num_hits += 1
        else:
            num_wrong += 1
    return num_hits, num_wrong, len(real) - sum(hits)


def mstcn_edit(recognized: Sequence[str], truth: Sequence[str]) -> float:
    """`edit_score` of MS-TCN's ``eval.py``, in [0, 1]; NaN where it divides by zero."""
    p = [label for label, _, _ in framewise_segments(recognized)]
    y = [label for label, _, _ in framewise_segments(truth)]
    if not p and not y:
        return math.nan
    d = [[0] * (len(y) + 1) for _ in range(len(p) + 1)]
    for i in range(len(p) + 1):
        d[i][0] = i
    for j in range(len(y) + 1):
        d[0][j] = j
    for j in range(1, len(y) + 1):
        for i in range(1, len(p) + 1):
            if y[j - 1] == p[i - 1]:
                d[i][j] = d[i - 1][j - 1]
            else:
                d[i][j] = min(d[i - 1][j], d[i][j - 1], d[i - 1][j - 1]) + 1
    return 1 - d[-1][-1] / max(len(p), len(y))


def step_average_precision(targets: Sequence[int], scores: Sequence[float]) -> float:
    """Sum of precision times step in recall over distinct thresholds (scikit-learn's guide)."""
    total = sum(targets)
    if not total:
        return math.nan
    value, recall_before = 0.0, 0.0
    for threshold in sorted(set(scores), reverse=True):
        taken = [t for t, s in zip(targets, scores, strict=True) if s >= threshold]
        recall = sum(taken) / total
        value += (recall - recall_before) * sum(taken) / len(taken)
        recall_before = recall
    return value


def pairwise_auroc(targets: Sequence[int], scores: Sequence[float]) -> float:
    """Share of pairs of a positive and a negative in the right order; a tie is half (Hanley)."""
    positive = [s for t, s in zip(targets, scores, strict=True) if t]
    negative = [s for t, s in zip(targets, scores, strict=True) if not t]
    if not positive or not negative:
        return math.nan
    wins = sum((p > n) + 0.5 * (p == n) for p in positive for n in negative)
    return wins / (len(positive) * len(negative))


def binned_calibration_error(
    targets: Sequence[int], scores: Sequence[float], num_bins: int
) -> float:
    """Guo et al., equation 3, binary; bins ``((m - 1) / M, m / M]``, 0 in the first."""
    if not targets:
        return math.nan
    error = 0.0
    for number in range(1, num_bins + 1):
        low, high = (number - 1) / num_bins, number / num_bins
        inside = [
            (t, s)
            for t, s in zip(targets, scores, strict=True)
            if low < s <= high or (number == 1 and s == 0)
        ]
        if inside:
            share = sum(t for t, _ in inside) / len(inside)
            confidence = sum(s for _, s in inside) / len(inside)
            error += len(inside) / len(targets) * abs(share - confidence)
    return error


def alarm_counts(
    references: Sequence[Segment], alarms: Sequence[float], tolerance: float
) -> tuple[int, int, list[float]]:
    """Detected, false alarms, and delays of the detected: the words of `docs/metrics.md`."""
    delays = []
    for start, end in references:
        inside = [a for a in alarms if start - tolerance <= a <= end + tolerance]
        if inside:
            delays.append(min(inside) - start)
    false = [
        a
        for a in alarms
        if not any(start - tolerance <= a <= end + tolerance for start, end in references)
    ]
    return len(delays), len(false), delays
