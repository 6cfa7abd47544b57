"""Proposals: events with a score to be ranked by, of a whole video, without a threshold.

In evaluation, between scores and the metrics that sweep through ranked predictions. E2E-Spot ranks
peaks that survive non-maximum suppression; ActivityNet ranks whatever segments a method proposes.
Ours are the events of the cascade itself: **all events that it would publish at a threshold equal
to the event's own confidence.** A peak that lies in the reach of a higher one, by hysteresis or
because the two would be merged, is at its own threshold a part of that one's event, and no proposal
beside it. So nothing is tuned for the ranking, no low threshold makes one event of everything, and
what is ranked is what moving the threshold would give.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from utils.evaluation.scored_video import EventRules, ScoredVideo
from utils.events.frame_extent import TIME_TOLERANCE_SECONDS


@dataclass(frozen=True, kw_only=True, eq=False)
class Proposals:
    """Events of one class in one video, in the order of their peaks.

    Attributes:
        starts: ``(P,)`` seconds.
        ends: ``(P,)`` seconds, exclusive.
        peak_seconds: ``(P,)`` seconds of the first frame with the highest score.
        scores: ``(P,)`` that score, above 0.
    """

    starts: NDArray[np.float64]
    ends: NDArray[np.float64]
    peak_seconds: NDArray[np.float64]
    scores: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.scores)


def make_proposals(video: ScoredVideo, label: str, rules: EventRules) -> Proposals:
    """The proposals of one class in one video; see the module.

    The cool-down of ``rules`` is left out: it drops an event because of the one before, which at
    another threshold may not be there.

    Args:
        video: Its scores.
        label: The class.
        rules: How scores become events.
    """
    return _Finder(video, label, rules).find()


class _Finder:
    """Lets the water fall: frames emerge by falling score and join to islands.

    A peak is looked at when all frames above its low threshold have emerged. Its island is then its
    event, before merging.
    """

    def __init__(self, video: ScoredVideo, label: str, rules: EventRules) -> None:
        self._video = video
        self._rules = rules
        column = video.temporal[:, video.labels.index(label)]
        # Lists: one by one, their items are read several times faster than an array's.
        self._scores: list[float] = column.astype(np.float64).tolist()
        self._blocks: list[int] = video.blocks.tolist()
        self._starts: list[float] = video.starts.tolist()
        self._ends: list[float] = video.ends.tolist()
        # Of each island, kept at its root: borders, and the first of its highest frames.
        size = len(self._scores)
        self._parents = [-1] * size
        self._firsts = list(range(size))
        self._lasts = list(range(size))
        self._tops = list(range(size))

    def find(self) -> Proposals:
        scores = self._scores
        falling = sorted((i for i, s in enumerate(scores) if s > 0), key=lambda i: -scores[i])
        # Nearest neighbours that are at least as high: only with these may a peak's event merge.
        before, after = _nearest_not_lower(scores)
        found: list[tuple[int, int, int]] = []
        num_emerged = 0
        for peak in falling:
            low = scores[peak] * self._rules.hysteresis_ratio
            while num_emerged < len(falling) and scores[falling[num_emerged]] >= low:
                self._emerge(falling[num_emerged])
                num_emerged += 1
            root = self._root(peak)
            if self._tops[root] != peak or self._is_joined_to(before[peak], root):
                continue
            last = self._merged_last(peak, root, after)
            if last is not None and self._is_long(self._firsts[root], last):
                found.append((peak, self._firsts[root], last))
        found.sort()
        peaks, firsts, lasts = np.array(found, np.int64).reshape(-1, 3).T
        return Proposals(
            starts=self._video.starts[firsts],
            ends=self._video.ends[lasts],
            peak_seconds=self._video.timestamps[peaks],
            scores=np.array(scores, np.float64)[peaks],
        )

    def _emerge(self, frame: int) -> None:
        self._parents[frame] = frame
        for neighbour in (frame - 1, frame + 1):
            is_there = 0 <= neighbour < len(self._scores) and self._parents[neighbour] >= 0
            if is_there and self._blocks[neighbour] == self._blocks[frame]:
                self._join(self._root(neighbour), self._root(frame))

    def _join(self, root: int, other: int) -> None:
        self._parents[other] = root
        self._firsts[root] = min(self._firsts[root], self._firsts[other])
        self._lasts[root] = max(self._lasts[root], self._lasts[other])
        self._tops[root] = min(
            self._tops[root], self._tops[other], key=lambda top: (-self._scores[top], top)
        )

    def _root(self, frame: int) -> int:
        parents = self._parents
        while parents[frame] != frame:
            parents[frame] = parents[parents[frame]]
            frame = parents[frame]
        return frame

    def _is_joined_to(self, earlier: int, root: int) -> bool:
        """Whether the island merges with one before it that is at least as high: then that leads.

        Args:
            earlier: Nearest frame before that is at least as high; -1 where there is none.
            root: Of the island.
        """
        return earlier >= 0 and self._is_mergeable(self._root(earlier), root)

    def _merged_last(self, peak: int, root: int, after: list[int]) -> int | None:
        """Last frame of the event, with islands behind it merged; None where a higher one leads."""
        last = self._lasts[root]
        following = after[peak]
        while following < len(self._scores):
            if following <= last:
                following = after[following]
                continue
            other = self._root(following)
            if not self._is_mergeable(root, other):
                break
            if self._scores[self._tops[other]] > self._scores[peak]:
                return None
            root, last = other, self._lasts[other]
        return last

    def _is_mergeable(self, root: int, other: int) -> bool:
        """Whether of two islands, the earlier first, one event is made."""
        last, first = self._lasts[root], self._firsts[other]
        gap = self._starts[first] - self._ends[last]
        is_near = gap <= self._rules.merge_gap_seconds + TIME_TOLERANCE_SECONDS
        return is_near and self._blocks[last] == self._blocks[first]

    def _is_long(self, first: int, last: int) -> bool:
        duration = self._ends[last] - self._starts[first] + TIME_TOLERANCE_SECONDS
        return duration >= self._rules.min_duration_seconds


def _nearest_not_lower(scores: list[float]) -> tuple[list[int], list[int]]:
    """For each frame the nearest before and behind that are at least as high; -1 and T for none."""
    size = len(scores)
    before, after = [-1] * size, [size] * size
    waiting: list[int] = []
    for frame, score in enumerate(scores):
        while waiting and scores[waiting[-1]] <= score:
            after[waiting.pop()] = frame
        waiting.append(frame)
    waiting.clear()
    for frame in range(size - 1, -1, -1):
        while waiting and scores[waiting[-1]] <= scores[frame]:
            before[waiting.pop()] = frame
        waiting.append(frame)
    return before, after
