"""`Cascade`: the one runtime, from a video to events; an offline run is a stream that ends.

Every stage is dearer than the one before it and sees less of the video::

    decode + sample -> encoder + trigger head -> temporal encoder -> events -> words
    every frame        every sampled frame       near candidates     few       fewer

`Cascade.stream` gives events as they become certain, in memory that does not grow with the video;
`Cascade.run` is the convenience for a file. The stages are in `pipeline.video_run` and
`pipeline.event_stage`; `pipeline.replay` makes events of saved scores, without the first ones.
"""

from __future__ import annotations

import dataclasses
import os
from contextlib import closing
from dataclasses import dataclass

from pipeline.describers.base import Describer
from pipeline.event_stage import summarize_video
from pipeline.run_records import CascadeSettings, DescribedEvent, RunTotals, ScoreObserver
from pipeline.scorers.base import FrameScorer
from pipeline.video_run import VideoRun
from utils.video.source import VideoSource


@dataclass(frozen=True, kw_only=True)
class VideoResult:
    """A whole video: its events by start (without pictures), one sentence, and the totals."""

    events: tuple[DescribedEvent, ...]
    summary: str
    totals: RunTotals


class Cascade:
    """Runs videos through one scorer with one setting; holds nothing of any video.

    Args:
        scorer: The model.
        describer: Who words events.
        settings: Of the run.
    """

    def __init__(
        self, scorer: FrameScorer, describer: Describer, settings: CascadeSettings
    ) -> None:
        self.scorer = scorer
        self.describer = describer
        self.settings = settings
        self.labels = scorer.labels

    def stream(self, source: VideoSource, *, observe: ScoreObserver | None = None) -> VideoRun:
        """The events of an open source as they become certain; iterate over what this returns.

        Args:
            source: Stays open while the run is iterated; closing it is the caller's.
            observe: See `ScoreObserver`.
        """
        return VideoRun(self.scorer, self.describer, self.settings, source, observe=observe)

    def run(
        self,
        path: str | os.PathLike[str],
        *,
        decoder: str = "pyav",
        observe: ScoreObserver | None = None,
    ) -> VideoResult:
        """A whole file at once.

        Raises:
            VideoError: The file cannot be used.
        """
        with VideoSource.open(path, decoder=decoder) as source:
            run = self.stream(source, observe=observe)
            # Closed before the source is, also when interrupted: a thread reads from it.
            with closing(iter(run)) as stream:
                events = [dataclasses.replace(described, picture=None) for described in stream]
        events.sort(key=lambda described: (described.event.start, described.event.label))
        summary = summarize_video(
            self.describer, (described.event for described in events), run.totals, self.labels
        )
        return VideoResult(events=tuple(events), summary=summary, totals=run.totals)
