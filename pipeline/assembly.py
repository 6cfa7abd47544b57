"""Builds the analysis a command asks for: settings resolved, model loaded, describer picked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.batch import Analysis, ScoresAnalysis, VideoAnalysis
from pipeline.cascade import Cascade, CascadeSettings
from pipeline.describers import DESCRIBERS
from pipeline.describers.base import Describer
from pipeline.score_file import SavedScores
from pipeline.scorers import SCORERS
from pipeline.settings import log_differences, resolve_settings
from utils.config import Config
from utils.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the user asked for.

    Attributes:
        config: Overrides applied; see `pipeline.settings`.
        overrides: As given to ``--set``.
        threshold: ``--threshold``, or None.
        candidate_threshold: ``--candidate-threshold``, or None.
        thumbnails: Whether events carry pictures.
    """

    config: Config
    overrides: Sequence[str] = ()
    threshold: float | None = None
    candidate_threshold: float | None = None
    thumbnails: bool = False

    def settings(self, *, threshold: float, candidate_threshold: float) -> CascadeSettings:
        """Resolved against the thresholds of a checkpoint or score file."""
        return resolve_settings(
            self.config,
            self.overrides,
            threshold=self.threshold,
            candidate_threshold=self.candidate_threshold,
            model_threshold=threshold,
            model_candidate_threshold=candidate_threshold,
            thumbnails=self.thumbnails,
        )

    def describer(self) -> Describer:
        """The one that ``model.llm.describer`` names."""
        describer: Describer = DESCRIBERS.resolve(self.config.model.llm.describer)()
        return describer


def cascade_of_checkpoint(
    request: Request, checkpoint: Path, *, device: str | None, strict: bool
) -> Cascade:
    """The cascade that runs a trained checkpoint.

    Args:
        request: What was asked for.
        checkpoint: A training checkpoint.
        device: See `resolve_device`.
        strict: Refuse a checkpoint with tensors that the model has no use for.

    Raises:
        CheckpointError: It cannot be used.
        UsageError: Device, describer or a threshold cannot be used.
    """
    from utils.device import resolve_device

    # What can be wrong cheaply is found before the weights are read.
    describer = request.describer()
    where = resolve_device(device)
    scorer = SCORERS.resolve("checkpoint").load(checkpoint, device=where, strict=strict)
    log_differences(request.config, scorer.config)
    settings = request.settings(
        threshold=scorer.threshold, candidate_threshold=scorer.candidate_threshold
    )
    return Cascade(scorer, describer, settings)


def analysis_of_checkpoint(
    request: Request, checkpoint: Path, *, device: str | None, strict: bool
) -> Analysis:
    """Videos through a trained checkpoint; arguments and errors as `cascade_of_checkpoint`."""
    cascade = cascade_of_checkpoint(request, checkpoint, device=device, strict=strict)
    return VideoAnalysis(cascade, decoder=request.config.data.decoder)


def analysis_of_scores(request: Request, paths: Sequence[Path]) -> Analysis:
    """Events of saved scores.

    Args:
        request: What was asked for.
        paths: Score files; labels and thresholds are those of the first that can be read.

    Raises:
        UsageError: None can be read, or a threshold or the describer cannot be used.
    """
    scores = _first_readable(paths)
    settings = request.settings(
        threshold=scores.threshold, candidate_threshold=scores.candidate_threshold
    )
    return ScoresAnalysis(scores, request.describer(), settings)


def _first_readable(paths: Sequence[Path]) -> SavedScores:
    errors: list[UsageError] = []
    for path in paths:
        try:
            return SavedScores.read(path)
        except UsageError as error:
            errors.append(error)
    raise errors[0]
