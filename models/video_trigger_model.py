"""`VideoTriggerModel`: encoder, trigger head and temporal encoder in one module with three doors.

``encode`` and ``trigger`` look at every sampled frame, ``contextualize`` at those near a candidate.
A stream, a feature cache, an export and a describer that reads features all need the doors apart;
``forward`` goes through all three.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from models.context_windows import ContextWindows
from models.freezing import Freeze, frozen_parts
from models.numpy_doors import NumpyDoors
from models.temporal_shift import EncoderState
from models.time_aware_encoder import build_time_aware_encoder
from models.trigger_detector import TriggerDetector
from models.visual_encoder import VisualEncoder
from utils.config import Config, parse_config
from utils.config.schema import EventsConfig, ModelConfig
from utils.errors import UsageError


class TriggerOutput(NamedTuple):
    """What `VideoTriggerModel.forward` gives.

    Attributes:
        trigger_logits: ``(B, T, K)`` of the trigger head, each frame by itself.
        temporal_logits: ``(B, T, K)`` of the temporal encoder.
    """

    trigger_logits: Tensor
    temporal_logits: Tensor


class VideoTriggerModel(nn.Module):
    """The trainable part of the cascade.

    Args:
        config: Section ``model``; its labels or ``trigger_detector.num_classes`` must be set.
        window_size: W, frames that the temporal encoder sees at once;
            ``time_aware_encoder.window_size`` wins over it.

    Raises:
        UsageError: The config does not say which classes there are, or its parts do not fit.
    """

    def __init__(self, config: ModelConfig, *, window_size: int = 16) -> None:
        super().__init__()
        try:
            self.labels: tuple[str, ...] = tuple(config.class_labels())
        except ValueError as error:
            raise UsageError(str(error)) from None
        self.config = config
        self.window_size = config.time_aware_encoder.window_size or window_size
        self.visual_encoder = VisualEncoder(config.visual_encoder)
        width = self.visual_encoder.feature_dim
        self.trigger_detector = TriggerDetector(
            width,
            len(self.labels),
            hidden_dims=config.trigger_detector.hidden_dims,
            dropout=config.trigger_detector.dropout,
        )
        self.time_aware_encoder = build_time_aware_encoder(
            config.time_aware_encoder, feature_dim=width, num_classes=len(self.labels)
        )
        self.freeze = Freeze()

    @classmethod
    def from_config(cls, config: Mapping[str, Any] | ModelConfig) -> Self:
        """Build the architecture; reads no weights.

        Args:
            config: Section ``model`` of a config, such as ``checkpoint["config"]["model"]``.

        Raises:
            ConfigError: Unknown key or bad value.
        """
        if not isinstance(config, ModelConfig):
            config = parse_config({"model": dict(config)}, origin="model config").model
        return cls(config)

    @property
    def frozen_components(self) -> frozenset[str]:
        """Names of the components that do not learn at all (`models.freezing`)."""
        return self.freeze.components

    @property
    def causal(self) -> bool:
        """Whether the temporal encoder looks back alone."""
        return self.config.time_aware_encoder.causal

    @property
    def encoder_window(self) -> int | None:
        """Frames that the encoder sees at once where it looks ahead; None where it does not.

        It is W: clips are as long in training, and a frame needs no more around it here than there.
        """
        return self.window_size if self.visual_encoder.looks_ahead else None

    def train(self, mode: bool = True) -> Self:
        """As `nn.Module.train`, but what is frozen stays in evaluation mode."""
        super().train(mode)
        for part in frozen_parts(self):
            part.eval()
        return self

    def encode(
        self, frames: Tensor, state: EncoderState | None = None
    ) -> tuple[Tensor, EncoderState]:
        """First door: frames to features.

        Args:
            frames: ``(B, T, C, H, W)`` in [0, 1]; ``C = 9`` (frame, before, after) with motion
                images.
            state: Of the chunk before, or None at the start of a stream and after a gap.

        Returns:
            Features ``(B, T, D)``, and the state for the next chunk: empty for encoders of single
            frames, and for those that look ahead (``visual_encoder.looks_ahead``), which take whole
            clips.
        """
        return self.visual_encoder.encode(frames, state)

    @torch.no_grad()
    def initial_state(self, batch_size: int, image_size: int | Sequence[int]) -> EncoderState:
        """What None stands for as a state, for an engine that takes tensors alone.

        Args:
            batch_size: Streams.
            image_size: Side of the pictures in pixels, or their height and width.
        """
        device = next(self.parameters()).device
        channels = self.visual_encoder.num_input_channels
        height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
        frames = torch.zeros(batch_size, 1, channels, height, width, device=device)
        was_training = self.training
        self.eval()
        try:
            _, state = self.encode(frames)
        finally:
            self.train(was_training)
        return {name: torch.zeros_like(value) for name, value in state.items()}

    def trigger(self, features: Tensor) -> Tensor:
        """Second door: features ``(B, T, D)`` to logits ``(B, T, K)``, each frame by itself."""
        logits: Tensor = self.trigger_detector(features)
        return logits

    def contextualize(self, features: Tensor, timestamps: Tensor, valid: Tensor) -> Tensor:
        """Third door: features over time to logits.

        Args:
            features: ``(B, T, D)``.
            timestamps: ``(B, T)`` seconds.
            valid: ``(B, T)`` bool, False on padding.

        Returns:
            ``(B, T, K)``.
        """
        logits: Tensor = self.time_aware_encoder(features, timestamps, valid)
        return logits

    def forward(self, inputs: Tensor, timestamps: Tensor, valid: Tensor) -> TriggerOutput:
        """All three doors.

        Args:
            inputs: Frames ``(B, T, C, H, W)`` in [0, 1], or cached backbone features
                ``(B, T, backbone_dim)``.
            timestamps: ``(B, T)`` seconds.
            valid: ``(B, T)`` bool, False on padding.
        """
        if inputs.dim() == 3:
            features = self.visual_encoder.project(inputs)
        else:
            features = (
                self.encode(inputs)[0]
                if valid.all()
                else self.visual_encoder.encode_valid(inputs, valid)
            )
        return TriggerOutput(
            self.trigger(features), self.contextualize(features, timestamps, valid)
        )

    @torch.inference_mode()
    def infer_triggered_analysis(
        self,
        frames: Tensor,
        *,
        timestamps: Tensor | None = None,
        trigger_threshold: float | None = None,
        events: Mapping[str, Any] | EventsConfig | None = None,
        duration_seconds: float | None = None,
        batch_size: int = 16,
    ) -> dict[str, Any]:
        """Events of one short clip in memory; `pipeline.cascade` does videos of any length.

        With the same frames, rules and duration, these are the events of `inference.py`; only holes
        in a damaged video, across which that joins nothing, are not looked for here.

        Args:
            frames: ``(T, C, H, W)`` in [0, 1], as `VideoProcessor.process_frames` gives them.
            timestamps: ``(T,)`` seconds, rising; by default 1/3 s apart.
            trigger_threshold: Cut on the temporal scores of all classes; by default the model's
                ``threshold``.
            events: How scores become events: section ``events`` of a config, such as
                ``checkpoint["config"]["events"]``, with which `inference.py` runs that checkpoint.
                By default, and for keys that it leaves out, the defaults of that section.
            duration_seconds: Where the video ends, such as ``source.info.duration_seconds``. Frames
                alone do not tell: by default an event that lasts to the last frame ends half a step
                after it.
            batch_size: Frames that are encoded at once.

        Returns:
            ``num_frames_analyzed``, ``num_candidate_frames``, ``num_triggers_detected``,
            ``triggers`` (each ``timestamp``, ``frame_index``, ``sample_index``,
            ``trigger_confidence``, ``analysis``, ``start``, ``end``, ``label``) and
            ``video_summary``: the keys of `inference.py`'s report, and ``sample_index``. Both
            indices are the position among ``frames``: where these lie in a file is not known here.

        Raises:
            ConfigError: ``events`` has an unknown key or a bad value.
            UsageError: Shapes do not fit, times do not rise, the threshold is not in (0, 1], or the
                duration is no time.
        """
        from models.clip_analysis import analyse_clip

        return analyse_clip(
            self,
            frames,
            timestamps=timestamps,
            trigger_threshold=trigger_threshold,
            events=events,
            duration_seconds=duration_seconds,
            batch_size=batch_size,
        )

    def context_windows(self) -> ContextWindows:
        """A fresh `ContextWindows` over this model's temporal encoder, arrays in and out."""
        return ContextWindows(
            NumpyDoors(self).contextualize, window_size=self.window_size, causal=self.causal
        )


def resolve_model_config(config: Config, labels: tuple[str, ...]) -> Config:
    """``config`` with what the data decide filled in, so that the model section stands alone.

    Args:
        config: As the user wrote it.
        labels: Of the training annotations; used where ``model.labels`` is null.

    Raises:
        ConfigError: ``trigger_detector.num_classes`` does not fit the labels.
    """
    plain = config.to_plain()
    model = plain["model"]
    model["labels"] = model["labels"] or list(labels)
    detector = model["trigger_detector"]
    detector["num_classes"] = detector["num_classes"] or len(model["labels"])
    temporal = model["time_aware_encoder"]
    temporal["window_size"] = temporal["window_size"] or config.data.clip_window_size
    return parse_config(plain)
