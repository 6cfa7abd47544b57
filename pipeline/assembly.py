"""Builds the analysis a command asks for: settings resolved, model loaded, describer picked."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.batch import Analysis, ScoresAnalysis, VideoAnalysis
from pipeline.cascade import Cascade
from pipeline.describers import DESCRIBERS
from pipeline.describers.base import Describer
from pipeline.run_records import CascadeSettings
from pipeline.score_file import SavedScores
from pipeline.scorers import SCORERS
from pipeline.settings import (
    check_thresholds,
    load_inference_config,
    log_differences,
    resolve_settings,
    stored_inference_config,
)
from utils.config import Config
from utils.errors import UsageError
from utils.thresholds import Threshold

_log = logging.getLogger(__name__)

DEFAULT_CONFIG = "configs/config.yaml"
"""For score files of a version that stored none."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the user asked for.

    Attributes:
        config_name: ``--config``; None takes the config that checkpoint or score file brings along.
        overrides: As given to ``--set``.
        threshold: ``--threshold``, or None.
        candidate_threshold: ``--candidate-threshold``, or None.
        thumbnails: Whether events carry pictures; None as the config says.
    """

    config_name: str | None = None
    overrides: Sequence[str] = ()
    threshold: float | None = None
    candidate_threshold: float | None = None
    thumbnails: bool | None = None

    def __post_init__(self) -> None:
        check_thresholds(self.threshold, self.candidate_threshold)

    def named_config(self) -> Config | None:
        """Of ``--config``; None where there is none."""
        if self.config_name is None:
            return None
        return load_inference_config(self.config_name, self.overrides)

    def settings(
        self,
        config: Config,
        *,
        labels: Sequence[str],
        threshold: Threshold,
        candidate_threshold: float,
    ) -> CascadeSettings:
        """Resolved against the thresholds of a checkpoint or score file."""
        return resolve_settings(
            config,
            self.overrides,
            labels=labels,
            threshold=self.threshold,
            candidate_threshold=self.candidate_threshold,
            model_threshold=threshold,
            model_candidate_threshold=candidate_threshold,
            thumbnails=config.inference.thumbnails if self.thumbnails is None else self.thumbnails,
        )


def cascade_of_checkpoint(
    request: Request, checkpoint: Path, *, device: str | None, strict: bool
) -> tuple[Cascade, Config]:
    """The cascade that runs a trained checkpoint, and the config that it runs with.

    Args:
        request: What was asked for.
        checkpoint: A training checkpoint.
        device: See `resolve_device`.
        strict: Refuse a checkpoint with tensors that the model has no use for.

    Raises:
        CheckpointError: It cannot be used.
        UsageError: Config, device, describer or a threshold cannot be used.
    """
    # What can be wrong cheaply is found before the weights are read, and before torch is there.
    named = request.named_config()
    if named is not None:
        _describer(named)

    from utils.device import resolve_device

    where = resolve_device(device)
    scorer = SCORERS.resolve("checkpoint").load(checkpoint, device=where, strict=strict)
    if named is None:
        config = stored_inference_config(
            scorer.config.to_plain(), request.overrides, origin=str(checkpoint)
        )
        _log.info("events and inference are set as in the training of %s", checkpoint)
    else:
        config = named
        log_differences(config, scorer.config)
    settings = request.settings(
        config,
        labels=scorer.labels,
        threshold=scorer.threshold,
        candidate_threshold=scorer.candidate_threshold,
    )
    return Cascade(scorer, _describer(config), settings), config


def analysis_of_checkpoint(
    request: Request, checkpoint: Path, *, device: str | None, strict: bool
) -> Analysis:
    """Videos through a trained checkpoint; arguments and errors as `cascade_of_checkpoint`."""
    cascade, config = cascade_of_checkpoint(request, checkpoint, device=device, strict=strict)
    if cascade.settings.max_frames is not None:
        _log.info(
            "data.max_frames: only the first %d sampled frames of a video are looked at",
            cascade.settings.max_frames,
        )
    return VideoAnalysis(cascade, config)


def analysis_of_scores(request: Request, paths: Sequence[Path]) -> Analysis:
    """Events of saved scores.

    Args:
        request: What was asked for.
        paths: Score files; labels, thresholds and, without ``--config``, the rules that make events
            are those of the first that can be read.

    Raises:
        UsageError: None can be read, or a threshold, the config or the describer cannot be used.
    """
    config = request.named_config()
    scores = _first_readable(paths)
    if config is None:
        stored = scores.metadata.get("config")
        config = (
            load_inference_config(DEFAULT_CONFIG, request.overrides)
            if stored is None
            else stored_inference_config(stored, request.overrides, origin=str(scores.path))
        )
    settings = request.settings(
        config,
        labels=scores.labels,
        threshold=scores.threshold,
        candidate_threshold=scores.candidate_threshold,
    )
    return ScoresAnalysis(scores, _describer(config), settings, config)


def _describer(config: Config) -> Describer:
    describer: Describer = DESCRIBERS.resolve(config.model.llm.describer)()
    return describer


def _first_readable(paths: Sequence[Path]) -> SavedScores:
    errors: list[UsageError] = []
    for path in paths:
        try:
            return SavedScores.read(path)
        except UsageError as error:
            errors.append(error)
    raise errors[0]
