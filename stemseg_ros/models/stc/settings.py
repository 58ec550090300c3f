"""Settings of STC: architecture, detection, association, losses (docs/models.md)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from stemseg_ros.config import Config
from stemseg_ros.settings import LIVE, ClipShape, InputConfig, Section
from stemseg_ros.tracker import Latency

CondInstVariant = Literal["mmdet", "adelaidet"]
ConsistencyForm = Literal["crossover_dice", "l2", "kl"]

MASK_FEATURES = 8
"""Channels of the mask features, and of the hidden layers of a dynamic mask head."""


class StcNetworkConfig(Section):
    """Architecture. A checkpoint fits exactly one."""

    backbone: Literal["resnet50", "resnet101", "mobilenet_v2"] = "resnet50"
    """Backbone."""
    fpn_channels: int = Field(256, ge=8, le=1024)
    """Channels of P3 to P7 and of the towers of the head."""
    head_convs: int = Field(4, ge=1, le=8)
    """3x3 convolutions of each tower of the head."""
    mask_channels: int = Field(128, ge=8, le=1024)
    """Channels of the mask branch."""
    mask_convs: int = Field(4, ge=1, le=8)
    """3x3 convolutions of the mask branch after the levels are summed."""
    norm_groups: int = Field(32, ge=1, le=64)
    """Groups of the GroupNorms in the towers."""
    classes: tuple[str, ...] = Field(("car", "pedestrian"), min_length=1)
    """Class names; class ids count from 1."""

    @model_validator(mode="after")
    def _groups_divide_channels(self) -> StcNetworkConfig:
        if self.fpn_channels % self.norm_groups:
            raise ValueError(
                f"fpn_channels {self.fpn_channels} is not a multiple of "
                f"norm_groups {self.norm_groups}"
            )
        return self


class CondInstConfig(Section):
    """Detection by CondInst (Tian et al., ECCV 2020)."""

    variant: CondInstVariant = "mmdet"
    """Implementation that the weights come from; it determines input format, position of the
    stride in a bottleneck, scores, selection of boxes, and box loss (``docs/parity.md``)."""
    candidate_score: float = Field(0.05, ge=0, le=1, json_schema_extra=LIVE)
    """A pair of location and class becomes a candidate above this score."""
    level_candidates: int = Field(1000, ge=1, le=100_000, json_schema_extra=LIVE)
    """Most candidates of a pyramid level."""
    suppression_iou: float = Field(0.6, gt=0, le=1, json_schema_extra=LIVE)
    """IoU of non-maximum suppression: boxes that overlap a better one of their class by more are
    dropped."""
    max_detections: int = Field(100, ge=1, le=10_000, json_schema_extra=LIVE)
    """Most detections of an image."""
    mask_probability: float = Field(0.5, gt=0, lt=1, json_schema_extra=LIVE)
    """A pixel belongs to a detection above this probability."""
    center_radius: float = Field(1.5, gt=0)
    """Half-width, in strides, of the square around an object's centroid whose locations are
    trained to detect it (center sampling)."""


class TrackingConfig(Section):
    """Tracking head, whose embeddings re-identify objects over time."""

    enabled: bool = True
    """False: CondInst alone; association uses boxes only."""
    channels: int = Field(256, ge=1, le=1024)
    """Dimensions of an embedding."""
    tower_convs: int = Field(0, ge=0, le=8)
    """3x3 convolutions of the head's own tower; 0: it shares the box tower."""


class AssociationConfig(Section):
    """Association of detections with tracks (after QDTrack, Pang et al., CVPR 2021)."""

    min_score: float = Field(0.2, ge=0, le=1, json_schema_extra=LIVE)
    """Detections with a lower score are dropped."""
    new_score: float = Field(0.4, ge=0, le=1, json_schema_extra=LIVE)
    """An unmatched detection starts a track above this score."""
    match: float = Field(0.5, ge=0, le=2, json_schema_extra=LIVE)
    """A detection continues a track above this affinity."""
    duplicate_iou: float = Field(0.7, gt=0, le=1, json_schema_extra=LIVE)
    """Detections whose box IoU with a better one, of any class, is higher are dropped."""
    iou_weight: float = Field(0.5, ge=0, le=10, json_schema_extra=LIVE)
    """Weight of the box IoU, relative to the appearance term in [0, 1]."""
    momentum: float = Field(0.8, gt=0, le=1, json_schema_extra=LIVE)
    """Weight of the newest embedding in the moving average of a track."""
    max_age: int = Field(10, ge=1, le=10_000, json_schema_extra=LIVE)
    """A track ends after this number of frames without a detection."""
    backdrop_frames: int = Field(1, ge=0, le=100, json_schema_extra=LIVE)
    """Frames whose unmatched detections (backdrops) compete with the tracks."""
    backdrop_iou: float = Field(0.3, ge=0, le=1, json_schema_extra=LIVE)
    """An unmatched detection becomes a backdrop unless its box IoU with a better one is higher."""
    class_gate: bool = Field(True, json_schema_extra=LIVE)
    """Whether a track can only be continued by detections of its last class."""


class ContrastiveConfig(Section):
    """Bi-directional contrastive loss of the embeddings of two frames."""

    weight: float = Field(0.25, ge=0)
    """Weight relative to the losses of CondInst."""
    background_ratio: float = Field(3.0, ge=0)
    """Number of random background locations for each positive location of a frame."""
    auxiliary_cosine: bool = False
    """Whether to add a loss that pulls cosines of pairs to 1 or 0 (mean squared error)."""


class ConsistencyConfig(Section):
    """Instance-wise temporal consistency: filters of one frame applied to the features of the
    other."""

    form: ConsistencyForm = "crossover_dice"
    """crossover_dice: crossed mask against the ground truth. l2, kl: against the other frame's own
    prediction."""
    weight: float = Field(1.0, ge=0)
    """Weight relative to the losses of CondInst."""


class PairsConfig(Section):
    """Training samples: pairs of a key and a reference frame."""

    max_distance: int = Field(20, ge=1, le=1000)
    """Longest distance between the two, in frames of the video; a still gives two augmented
    copies."""
    min_pixels: int = Field(32, ge=1)
    """Objects with fewer pixels in a frame are ignored in it."""
    neck_rate: float = Field(1.0, ge=0)
    """Learning rate of the feature pyramid relative to ``training.learning_rate``."""


class Settings(Config):
    """Settings of an STC model."""

    model: Literal["stc"] = "stc"
    network: StcNetworkConfig = StcNetworkConfig()
    condinst: CondInstConfig = CondInstConfig()
    tracking: TrackingConfig = TrackingConfig()
    association: AssociationConfig = AssociationConfig()
    contrastive: ContrastiveConfig = ContrastiveConfig()
    consistency: ConsistencyConfig = ConsistencyConfig()
    pairs: PairsConfig = PairsConfig()

    @model_validator(mode="after")
    def _input_format_goes_with_the_weights(self) -> Settings:
        for name in ("mean_bgr", "std_bgr"):
            if getattr(self.input, name) != InputConfig.model_fields[name].default:
                raise ValueError(
                    f"input.{name} cannot be set for the model stc: condinst.variant determines "
                    "the normalisation"
                )
        return self

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names; class ids count from 1."""
        return self.network.classes

    @property
    def latency(self) -> Latency:
        """Every frame has its result at once."""
        return Latency(look_ahead=0, burst=1, in_flight=1, frames_per_pass=1)

    @property
    def clip(self) -> ClipShape:
        """Key and reference frame."""
        return ClipShape(2, self.pairs.max_distance)

    @property
    def traits(self) -> dict[str, str]:
        """See ``Config``."""
        return super().traits | {
            "backbone": self.network.backbone,
            "variant": self.condinst.variant,
        }
