"""Settings of STEm-Seg."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from stemseg_ros.config import Config, ConfigError, load_config, update_config
from stemseg_ros.settings import LIVE, ClipShape, Section, Switch, Switches
from stemseg_ros.tracker import Latency

Mixing = Literal["xy", "ff", "xyt", "xyf", "xytf", "xyff", "xytff", "xyfff"]


class NetworkConfig(Section):
    """Architecture (Sec. 3.2, 3.5, 3.6). A checkpoint fits exactly one."""

    task: Literal["instances", "saliency"] = "instances"
    """instances: embeddings, heat map and semantics. saliency: one decoder with two channels,
    background and foreground, and all foreground is one object (Sec. 4.5)."""
    backbone: Literal["resnet50", "resnet101", "mobilenet_v2"] = "resnet101"
    """Image encoder. The ResNets have the Caffe layout of the released checkpoints."""
    fpn_channels: int = Field(256, ge=8, le=1024)
    """Channels of every FPN output."""
    decoder_channels: tuple[int, int, int, int] = (256, 256, 128, 128)
    """Channels of a temporal squeeze-expand decoder at strides 32, 16, 8, 4."""
    semantic_channels: tuple[int, int, int, int] | None = None
    """The same for the semantic decoder; None for decoder_channels."""
    norm_groups: int = Field(32, ge=1, le=64)
    """Groups of every GroupNorm."""
    mixing: Mixing = "xyt"
    """Mixing function phi: x, y, t are coordinate dimensions, f a free one (Sec. 3.2)."""
    coordinates: Literal["image", "pixels"] = "image"
    """Unit of the coordinate grid: image, normalised by the padded size (released checkpoints);
    pixels, 256 px to one unit, so that crops and full frames agree."""
    free_sigma: float = Field(0.3, gt=0)
    """Fixed standard deviation of free dimensions."""
    heatmap_head: Literal["embedding", "separate"] = "embedding"
    """Decoder that ends in the heat map: the embedding decoder, or one of its own (DAVIS)."""
    semantic_head: bool = True
    """Semantic decoder with background, the classes, and a foreground channel."""
    classes: tuple[str, ...] = Field(("car", "pedestrian"), min_length=1)
    """Class names; class ids count from 1."""

    @model_validator(mode="after")
    def _groups_divide_channels(self) -> NetworkConfig:
        for channels in (*self.decoder_channels, *(self.semantic_channels or ())):
            if channels % self.norm_groups:
                raise ValueError(
                    f"{channels} decoder channels are no multiple of "
                    f"norm_groups {self.norm_groups}"
                )
        return self

    @model_validator(mode="after")
    def _saliency_knows_one_class(self) -> NetworkConfig:
        if self.task == "saliency" and (self.semantic_head or len(self.classes) != 1):
            raise ValueError(
                "task saliency knows no classes: set semantic_head to false and classes to one "
                "name, as in [object]"
            )
        return self

    @property
    def embedding_dims(self) -> int:
        """E, dimensions of an embedding; 0 for saliency."""
        return 0 if self.task == "saliency" else len(self.mixing)

    @property
    def free_dims(self) -> int:
        """Dimensions without a coordinate, with a fixed sigma; 0 for saliency."""
        return 0 if self.task == "saliency" else self.mixing.count("f")


class WindowConfig(Section):
    """Cutting the stream into windows (Sec. 3.3)."""

    length: Literal[2, 4, 8, 16, 24, 32] = 8
    """T, frames the network sees at once."""
    overlap: int = Field(4, ge=0, le=31)
    """Tc, frames that successive windows share; the online mode always uses T - 1."""
    mode: Literal["near_online", "online", "offline"] = "near_online"
    """near_online: T - Tc frames come out per window. online: one frame per window, the newest, no
    look-ahead. offline: as near_online, but foreground and classes are averaged over all windows
    of a frame, which delays frames by up to two more windows."""
    taps: bool = True
    """Compute what is linear in single frames once a frame, not in every window, and merge linear
    layers; exact up to rounding. False: the layers one by one, as they are trained."""

    @model_validator(mode="after")
    def _overlap_below_length(self) -> WindowConfig:
        if self.overlap >= self.length:
            raise ValueError(f"overlap {self.overlap} is not below length {self.length}")
        return self

    @property
    def stride(self) -> int:
        """Frames from one window to the next."""
        return 1 if self.mode == "online" else self.length - self.overlap

    @property
    def latency(self) -> Latency:
        """When results are returned."""
        delayed = 2 * self.stride if self.mode == "offline" else 0
        ahead = 0 if self.mode == "online" else self.length - 1
        return Latency(
            look_ahead=ahead + delayed,
            burst=1 if self.mode == "online" else self.length,
            in_flight=self.length + self.stride + delayed,
            frames_per_pass=self.stride,
        )


class ClusteringConfig(Switches):
    """From network output to the instances of a window (Sec. 3.3)."""

    distance: Switch = "variant"
    """Probability of a pixel at Mahalanobis distance d: exp(-d / 2) (reference), exp(-d^2 / 2)
    (Eq. 2)."""
    leftovers: Switch = "variant"
    """A leftover pixel is offered to the farthest (reference) or the nearest cluster."""
    instance_limit: Switch = "variant"
    """At most 20 instances per window (reference), or max_instances."""
    seed_rejection: Switch = "variant"
    """corrected: a centre is rejected when less than seed_min_free of its pixels are still
    free."""
    padding: Switch = "variant"
    """Class logits of the first frame of a stream shorter than a window: the mean over the copies
    that pad the window (reference), or those of the frame itself."""
    min_heat: float = Field(0.8, ge=0, le=1, json_schema_extra=LIVE)
    """Lowest heat map value of an instance centre."""
    min_probability: float = Field(0.5, gt=0, lt=1, json_schema_extra=LIVE)
    """A pixel belongs to an instance above this probability (Eq. 3)."""
    leftover_probability: float = Field(0.3, gt=0, lt=1, json_schema_extra=LIVE)
    """The same for pixels that no cluster claimed; 0.5 or more leaves them outliers."""
    foreground_probability: float = Field(0.5, ge=0, le=1, json_schema_extra=LIVE)
    """A pixel is foreground above this probability of the semantic foreground channel."""
    foreground_heat: float = Field(0.25, ge=0, le=1, json_schema_extra=LIVE)
    """The same for the heat map, where there is no semantic head."""
    seed_min_free: float = Field(0.7, ge=0, le=1, json_schema_extra=LIVE)
    """See seed_rejection."""
    max_instances: int = Field(1000, ge=1, le=10000, json_schema_extra=LIVE)
    """Most instances of a window."""


class StitchingConfig(Switches):
    """Joining the instances of successive windows to tracks (Sec. 3.3)."""

    matching: Switch = "variant"
    """Pairs of the assignment are accepted always (reference), or with min_iou and equal class."""
    recovery: Switch = "variant"
    """Only tracks in the shared frames continue (reference), or also lost ones, propagated at
    constant velocity."""
    filling: Switch = "variant"
    """Holes of a frame's first window stay (reference), or are filled from later windows."""
    min_iou: float = Field(0.3, ge=0, le=1, json_schema_extra=LIVE)
    """Lowest IoU over the shared frames at which a cluster continues a track."""
    max_gap: int = Field(12, ge=0, le=1000, json_schema_extra=LIVE)
    """Number of frames within which a lost track can be found again."""
    recover_iou: float = Field(0.1, ge=0, le=1, json_schema_extra=LIVE)
    """Lowest IoU with the lost track's last mask, propagated at constant velocity, at which it is
    found again."""
    recover_distance: float = Field(1.0, ge=0, json_schema_extra=LIVE)
    """Longest distance between the embedding centres (without t) of a lost track and its
    continuation."""


class Settings(Config):
    """The tree of settings of a STEm-Seg model."""

    model: Literal["stemseg"] = "stemseg"
    """Name of the model."""
    network: NetworkConfig = NetworkConfig()
    window: WindowConfig = WindowConfig()
    clustering: ClusteringConfig = ClusteringConfig()
    stitching: StitchingConfig = StitchingConfig()

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names; class ids count from 1."""
        return self.network.classes

    @property
    def latency(self) -> Latency:
        """Latency of a tracker with these settings."""
        return self.window.latency

    @property
    def clip(self) -> ClipShape:
        """Windows of frames 1 to 3 source frames apart."""
        return ClipShape(self.window.length, max_stride=3)

    @property
    def mode(self) -> str:
        """The window mode."""
        return self.window.mode

    def in_mode(self, mode: str) -> Settings:
        """The same settings in another window mode."""
        return update_config(self, {"window.mode": mode})

    @property
    def traits(self) -> dict[str, str]:
        """See ``Config``."""
        window = self.window
        overlap = window.length - window.stride
        return super().traits | {
            "backbone": self.network.backbone,
            "window": f"{window.mode} {window.length}/{overlap}",
        }


def load_settings(source: str | Path, overrides: Mapping[str, Any] | None = None) -> Settings:
    """Read a preset or file of this model, as ``load_config`` does. Raises ConfigError, also for
    one of another model."""
    return own_settings(load_config(source, overrides))


def own_settings(config: Config) -> Settings:
    """``config``, which must be of this model. Raises ConfigError."""
    if not isinstance(config, Settings):
        raise ConfigError(f"{config.name}: is a preset of the model {config.model}, not stemseg")
    return config
