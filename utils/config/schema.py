"""Every configuration key: its type, default, range and meaning, as pydantic models.

`configs/config.yaml` repeats the defaults with a comment for each; a test holds the two together.
An unknown key is an error (`utils.config.loading` words it). The whole `Config` goes into every
checkpoint as plain data.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    field_validator,
    model_validator,
)

from utils.thresholds import in_order


def _no_bool(value: Any) -> Any:
    # Python counts with booleans, so `batch_size: yes` would be 1 without a word.
    if isinstance(value, bool):
        raise ValueError("should be a number")
    return value


Number = Annotated[float, BeforeValidator(_no_bool), Field(allow_inf_nan=False)]
"""Finite."""
Integer = Annotated[int, BeforeValidator(_no_bool)]
Probability = Annotated[Number, Field(ge=0, le=1)]
"""In [0, 1]."""
Threshold = Annotated[Number, Field(gt=0, le=1)]
"""In (0, 1]: at 0 every moment would be an event."""
NonNegative = Annotated[Number, Field(ge=0)]
Seconds = NonNegative
Positive = Annotated[Number, Field(gt=0)]
LearningRate = Annotated[Number, Field(gt=0, le=10_000)]
"""Far above any that learns; single-precision weights do not bear much higher ones."""
Count = Annotated[Integer, Field(ge=1)]


def _thresholds(by_label: dict[str, float]) -> dict[str, float]:
    for label, value in by_label.items():
        if not 0 < value <= 1:
            raise ValueError(f"of '{label}' should be above 0 and at most 1, got {value:g}")
    return by_label


def _temperatures(by_label: dict[str, float]) -> dict[str, float]:
    for label, value in by_label.items():
        if not value > 0:
            raise ValueError(f"of '{label}' should be greater than 0, got {value:g}")
    return by_label


def _branch(value: Any) -> str:
    return "by class" if isinstance(value, dict) else "for all"


def _shape(value: Any) -> str:
    return "[height, width]" if isinstance(value, list | tuple) else "square"


# With a discriminator only the branch that was meant is complained of.
ThresholdByClass = Annotated[
    Annotated[Threshold, Tag("for all")]
    | Annotated[dict[str, Number], AfterValidator(_thresholds), Tag("by class")],
    Discriminator(_branch),
]
"""One for all classes, or ``{label: number}``."""
TemperatureByClass = Annotated[
    Annotated[Positive, Tag("for all")]
    | Annotated[dict[str, Number], AfterValidator(_temperatures), Tag("by class")],
    Discriminator(_branch),
]
"""Likewise."""
PictureSide = Annotated[Integer, Field(ge=16)]
PictureSize = Annotated[
    Annotated[PictureSide, Tag("square")]
    | Annotated[list[PictureSide], Field(min_length=2, max_length=2), Tag("[height, width]")],
    Discriminator(_shape),
]
"""Side of a square, or ``[height, width]``; pixels."""


class Section(BaseModel):
    """Base of all sections: unknown keys are errors, and assignments are validated."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True, protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _empty_section_is_all_defaults(cls, content: Any) -> Any:
        # YAML reads `events:` with nothing below it as null.
        if not isinstance(content, dict):
            return content
        return {
            key: value
            for key, value in content.items()
            if not (value is None and key in cls.model_fields and _is_section(cls, key))
        }


def _is_section(section: type[BaseModel], key: str) -> bool:
    annotation = section.model_fields[key].annotation
    return isinstance(annotation, type) and issubclass(annotation, Section)


class DataConfig(Section):
    """Which videos, how they are sampled, and how frames become pixels of the model's size."""

    train_annotations: str | None = "data/train/annotations.json"
    train_video_dir: str | None = None
    val_annotations: str | None = "data/val/annotations.json"
    val_video_dir: str | None = None
    frame_sampling_rate: Positive = 3.0
    clip_window_size: Annotated[Integer, Field(ge=2)] = 16
    max_frames: Count | None = None
    image_size: PictureSize = 224
    resize_mode: Literal["crop", "stretch", "letterbox"] = "crop"
    decoder: str = "pyav_isolated"
    decode_short_side: Annotated[Integer, Field(ge=16)] | None = None
    skip_nonref_frames: bool = False
    cache_dir: str | None = "cache"
    cache_max_gb: Positive | None = None
    num_workers: Annotated[Integer, Field(ge=0)] = 0
    point_radius_seconds: Positive = 0.5

    @model_validator(mode="after")
    def _decoded_pictures_are_large_enough(self) -> Self:
        # With letterbox image_size is the longer side, so a shorter one may be below it.
        short_side = self.decode_short_side
        smallest = self.image_size if isinstance(self.image_size, int) else min(self.image_size)
        if short_side is not None and short_side < smallest and self.resize_mode != "letterbox":
            raise ValueError(
                f"decode_short_side is {short_side} but image_size is {self.image_size}: what was "
                "scaled down would be scaled up again; set decode_short_side to image_size or more"
            )
        return self


class MotionConfig(Section):
    """Motion images: differences to the source frames shortly before and after."""

    enabled: bool = False
    offset_seconds: Positive = 0.08
    gain: Positive = 3.0
    signed: bool = False
    num_stages: Count | None = None
    statistics: bool = True
    energy_grid: Annotated[Integer, Field(ge=0, le=32)] = 0
    flow: bool = False


class TemporalShiftConfig(Section):
    """Channels of the backbone that look at neighbouring frames (TSM, GSM)."""

    type: str = "none"
    fraction: Annotated[Number, Field(gt=0, le=1)] = 0.25
    causal: bool = False


class VisualEncoderConfig(Section):
    """Frames to features."""

    type: str = "resnet18"
    weights: str | None = "imagenet"
    feature_dim: Count | None = 512
    pool_grid: Annotated[Integer, Field(ge=1, le=16)] = 1
    appearance: bool = True
    feature_norm: Literal["layer", "standard"] = "layer"
    motion: MotionConfig = Field(default_factory=MotionConfig)
    temporal_shift: TemporalShiftConfig = Field(default_factory=TemporalShiftConfig)

    @field_validator("weights")
    @classmethod
    def _none_by_name(cls, value: str | None) -> str | None:
        # People write `weights: none`; YAML's null is `null`.
        return None if value is not None and value.lower() in ("none", "") else value

    @model_validator(mode="after")
    def _sees_something(self) -> Self:
        if not (self.appearance or self.motion.enabled):
            raise ValueError(
                "appearance and motion.enabled are both false: the encoder would see nothing; set "
                "one of them to true"
            )
        return self


class TriggerDetectorConfig(Section):
    """Features of single frames to one logit for each trigger class."""

    hidden_dims: list[Count] = Field(default_factory=lambda: [256])
    dropout: Annotated[Number, Field(ge=0, lt=1)] = 0.1
    num_classes: Count | None = None
    threshold: ThresholdByClass = 0.5
    candidate_threshold: Probability = 0.1
    temperature: TemperatureByClass = 1.0


class TimeAwareEncoderConfig(Section):
    """Features over time to one logit for each trigger class and frame."""

    type: str = "transformer"
    hidden_dim: Count = 256
    num_layers: Count = 2
    num_heads: Count = 4
    dropout: Annotated[Number, Field(ge=0, lt=1)] = 0.1
    causal: bool = False
    window_size: Annotated[Integer, Field(ge=2)] | None = None


class LlmConfig(Section):
    """Who words an event."""

    describer: str = "template"


class ModelConfig(Section):
    """The trigger model: what `VideoTriggerModel.from_config` builds."""

    labels: list[str] | None = None
    visual_encoder: VisualEncoderConfig = Field(default_factory=VisualEncoderConfig)
    trigger_detector: TriggerDetectorConfig = Field(default_factory=TriggerDetectorConfig)
    time_aware_encoder: TimeAwareEncoderConfig = Field(default_factory=TimeAwareEncoderConfig)
    llm: LlmConfig = Field(default_factory=LlmConfig)

    @field_validator("labels")
    @classmethod
    def _distinct(cls, labels: list[str] | None) -> list[str] | None:
        if labels is not None and (not labels or len(set(labels)) != len(labels)):
            raise ValueError("must name each class once, or be null")
        if labels is not None and not all(label.strip() for label in labels):
            raise ValueError("must not hold an empty name")
        return labels

    @model_validator(mode="after")
    def _one_number_of_classes(self) -> Self:
        num_classes = self.trigger_detector.num_classes
        if self.labels is not None and num_classes not in (None, len(self.labels)):
            raise ValueError(
                f"trigger_detector.num_classes is {num_classes} but labels names "
                f"{len(self.labels)}: {self.labels}; leave num_classes null"
            )
        return self

    @model_validator(mode="after")
    def _every_class_has_its_number(self) -> Self:
        # Where the data decide the classes, this is found once they have.
        if self.labels is None:
            return self
        for name in ("threshold", "temperature"):
            try:
                in_order(getattr(self.trigger_detector, name), self.labels)
            except ValueError as error:
                raise ValueError(f"trigger_detector.{name} {error}") from None
        return self

    def class_labels(self) -> list[str]:
        """The K class names; ``class_0`` and so on where only their number is known.

        Raises:
            ValueError: Neither ``labels`` nor ``trigger_detector.num_classes`` is set.
        """
        if self.labels is not None:
            return list(self.labels)
        if self.trigger_detector.num_classes is None:
            raise ValueError(
                "the model needs its classes: set model.labels, or "
                "model.trigger_detector.num_classes"
            )
        return [f"class_{index}" for index in range(self.trigger_detector.num_classes)]


class EventsConfig(Section):
    """How scores become events (`utils.events.WindowBuilder`)."""

    hysteresis_ratio: Threshold = 0.6
    min_duration_seconds: Seconds = 0.0
    merge_gap_seconds: Seconds = 0.5
    cooldown_seconds: Seconds = 0.0
    context_seconds: Seconds = 2.0


class LossConfig(Section):
    """What training minimises: the loss of the trigger head plus that of the temporal encoder."""

    type: str = "bce"
    positive_weight: Positive | Literal["auto"] | None = None
    focal_gamma: NonNegative = 2.0
    focal_alpha: Probability = 0.25
    label_smoothing: Annotated[Number, Field(ge=0, lt=1)] = 0.0
    trigger_weight: NonNegative = 1.0
    temporal_weight: NonNegative = 1.0


class AugmentationConfig(Section):
    """Random changes of training clips, the same for all frames of a clip."""

    enabled: bool = True
    horizontal_flip: Probability = 0.5
    crop_scale_min: Annotated[Number, Field(gt=0, le=1)] = 0.8
    brightness: Annotated[Number, Field(ge=0, le=1)] = 0.2
    contrast: Annotated[Number, Field(ge=0, le=1)] = 0.2
    saturation: Annotated[Number, Field(ge=0, le=1)] = 0.2
    cached_copies: Annotated[Integer, Field(ge=0)] = 0


class LearningRatesConfig(Section):
    """Learning rates of single components; null takes ``training.learning_rate``.

    What belongs to none of them, the visual encoder's norm and projection, always takes that.
    """

    visual_backbone: LearningRate | None = None
    trigger_detector: LearningRate | None = None
    time_aware_encoder: LearningRate | None = None


class TrainingConfig(Section):
    """The training run."""

    batch_size: Count = 8
    num_epochs: Count = 50
    clips_per_epoch: Count | None = None
    event_fraction: Probability = 0.5
    learning_rate: LearningRate = 1e-4
    learning_rates: LearningRatesConfig = Field(default_factory=LearningRatesConfig)
    weight_decay: NonNegative = 0.05
    warmup_fraction: Annotated[Number, Field(ge=0, lt=1)] = 0.05
    gradient_accumulation_steps: Count = 1
    max_gradient_norm: Positive | None = 1.0
    use_mixed_precision: bool = True
    mixed_precision_dtype: Literal["auto", "bf16", "fp16"] = "auto"
    use_gradient_checkpointing: bool = False
    cache_features: bool = False
    soft_border_seconds: Seconds = 0.0
    mixup_alpha: NonNegative = 0.0
    ema_decay: Annotated[Number, Field(gt=0, lt=1)] | None = None
    loss: LossConfig = Field(default_factory=LossConfig)
    augmentation: AugmentationConfig = Field(default_factory=AugmentationConfig)
    save_every: Count = 1
    save_every_steps: Count | None = None
    keep_last: Count | None = 3
    validate_every: Count = 1
    best_metric: str = "frame_ap"
    early_stopping_patience: Count | None = None
    early_stopping_min_delta: NonNegative = 0.0
    checkpoint_dir: str = "checkpoints"
    log_dir: str = "logs"
    seed: Annotated[Integer, Field(ge=0, lt=2**32)] = 0


class UnfreezeConfig(Section):
    """From an epoch on, a frozen component learns, or the last stages of the backbone do."""

    from_epoch: Annotated[Integer, Field(ge=2)]
    component: Literal["visual_backbone", "trigger_detector", "time_aware_encoder"]
    last_stages: Count | None = None

    @model_validator(mode="after")
    def _only_the_backbone_has_stages(self) -> Self:
        if self.last_stages is not None and self.component != "visual_backbone":
            raise ValueError(f"last_stages is for visual_backbone, not for {self.component}")
        return self


class FreezingConfig(Section):
    """Components whose weights and batch-norm statistics stay as they are."""

    visual_backbone: bool = False
    trigger_detector: bool = False
    time_aware_encoder: bool = False
    llm_base: bool = True
    unfreeze: list[UnfreezeConfig] = Field(default_factory=list)

    @field_validator("llm_base")
    @classmethod
    def _is_never_trained(cls, value: bool) -> bool:
        if not value:
            raise ValueError("must be true; the describer's base model is never trained here")
        return value


class InferenceConfig(Section):
    """How `inference.py` runs a checkpoint."""

    batch_size: Count = 16
    save_scores: bool = False
    thumbnails: bool = True
    thumbnail_size: Annotated[Integer, Field(ge=16)] = 320
    review_ratio: Annotated[Number, Field(gt=0, lt=1)] = 0.6
    review_margin_seconds: Seconds = 5.0
    review_max_clips: Count = 50
    review_max_mb: Positive = 200


class Config(Section):
    """All sections."""

    data: DataConfig = Field(default_factory=DataConfig)
    model: ModelConfig = Field(default_factory=ModelConfig)
    events: EventsConfig = Field(default_factory=EventsConfig)
    training: TrainingConfig = Field(default_factory=TrainingConfig)
    freezing: FreezingConfig = Field(default_factory=FreezingConfig)
    inference: InferenceConfig = Field(default_factory=InferenceConfig)

    @model_validator(mode="after")
    def _motion_needs_every_frame(self) -> Self:
        if self.data.skip_nonref_frames and self.model.visual_encoder.motion.enabled:
            raise ValueError(
                "data.skip_nonref_frames skips the very frames that "
                "model.visual_encoder.motion looks at; set one of the two to false"
            )
        return self

    @model_validator(mode="after")
    def _cached_features_need_a_frozen_backbone(self) -> Self:
        if self.training.cache_features and not self.freezing.visual_backbone:
            raise ValueError(
                "training.cache_features needs freezing.visual_backbone: true; features of a "
                "backbone that learns would be stale after one step"
            )
        if self.training.cache_features and self.data.cache_dir is None:
            raise ValueError("training.cache_features needs data.cache_dir, which is null")
        return self

    @model_validator(mode="after")
    def _standard_norm_needs_cached_features(self) -> Self:
        if (
            self.model.visual_encoder.feature_norm == "standard"
            and not self.training.cache_features
        ):
            raise ValueError(
                "model.visual_encoder.feature_norm: standard takes mean and spread from the cached "
                "features of the training videos; set training.cache_features to true, or the norm "
                "to layer"
            )
        return self

    @model_validator(mode="after")
    def _cached_features_stay_as_they_are(self) -> Self:
        if not self.training.cache_features:
            return self
        for number, step in enumerate(self.freezing.unfreeze):
            if step.component == "visual_backbone":
                raise ValueError(
                    f"training.cache_features needs a backbone that stays frozen, but "
                    f"freezing.unfreeze[{number}] lets it learn from epoch {step.from_epoch} on; "
                    "set training.cache_features to false, or leave that step out"
                )
        shift = self.model.visual_encoder.temporal_shift.type
        if shift != "none":
            raise ValueError(
                "training.cache_features needs features that are of single frames, but with "
                f"model.visual_encoder.temporal_shift.type: {shift} they depend on the clip; set "
                "training.cache_features to false, or the type to none"
            )
        return self

    def to_plain(self) -> dict[str, Any]:
        """Nested plain containers, as checkpoints and reports hold them."""
        return self.model_dump(mode="json")
