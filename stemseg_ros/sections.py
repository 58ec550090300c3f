"""Every setting, by section: names, types, ranges, defaults, descriptions.

Those of training are in training_sections.py. config.py puts the sections together to one tree,
and reads and writes it.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.config import JsonDict

Variant = Literal["reference", "corrected"]
"""``reference`` follows the authors' released code, ``corrected`` the paper
(``docs/parity.md``)."""
Switch = Literal["variant", "reference", "corrected"]
"""One deviation of the released code; ``variant`` follows the section's ``variant``."""
Mixing = Literal["xy", "ff", "xyt", "xyf", "xytf", "xyff", "xytff", "xyfff"]

Positive = Annotated[float, Field(gt=0)]
LIVE: JsonDict = {"live": True}
"""Marks a setting that a running node accepts; all others need a restart."""


class Section(BaseModel):
    """Base of every node of the tree: immutable, and no unknown names."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class InputConfig(Section):
    """How an image becomes the network's input."""

    min_dim: int = Field(736, ge=32, le=4096)
    """Length in pixels to which the shorter side is scaled."""
    max_dim: int = Field(1948, ge=32, le=8192)
    """Upper bound in pixels of the longer side; lowers the scale where it would be passed."""
    mean_bgr: tuple[float, float, float] = (102.9801, 115.9465, 122.7717)
    """Subtracted from the channels, range 0..255."""
    std_bgr: tuple[Positive, Positive, Positive] = (1.0, 1.0, 1.0)
    """Divides the channels after the mean is subtracted."""


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
    """The same for the semantic decoder; none: as decoder_channels."""
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
    flush_after: float = Field(1.0, ge=0, le=3600)
    """A pause of so many seconds without frames finishes what is pending; 0 waits for ever."""

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
    def in_flight(self) -> int:
        """Frames without a result that keep a pipeline busy: a window, and the new ones of the
        next."""
        delayed = 2 * self.stride if self.mode == "offline" else 0
        return self.length + self.stride + delayed


class Switches(Section):
    """A section with named deviations of the released code."""

    variant: Variant = "corrected"
    """Sets the switches below that say "variant"."""

    def corrected(self, switch: str) -> bool:
        """Whether the named switch, after ``variant`` is filled in, says "corrected"."""
        value: str = getattr(self, switch)
        return (self.variant if value == "variant" else value) == "corrected"


class ClusteringConfig(Switches):
    """From network output to the instances of a window (Sec. 3.3)."""

    distance: Switch = "variant"
    """Probability of a pixel at Mahalanobis distance d: exp(-d / 2) (reference), exp(-d^2 / 2)
    (Eq. 2)."""
    leftovers: Switch = "variant"
    """A leftover pixel is offered to the farthest (reference) or the nearest cluster."""
    instance_limit: Switch = "variant"
    """At most 20 instances a window (reference), or max_instances."""
    seed_rejection: Switch = "variant"
    """corrected: a centre is rejected when less than seed_min_free of its pixels are still
    free."""
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
    """Only tracks in the shared frames go on (reference), or also lost ones, carried along."""
    filling: Switch = "variant"
    """Holes of a frame's first window stay (reference), or are filled from later windows."""
    min_iou: float = Field(0.3, ge=0, le=1, json_schema_extra=LIVE)
    """Lowest IoU over the shared frames at which a cluster continues a track."""
    max_gap: int = Field(12, ge=0, le=1000, json_schema_extra=LIVE)
    """A lost track can be found again within so many frames."""
    recover_iou: float = Field(0.1, ge=0, le=1, json_schema_extra=LIVE)
    """Lowest IoU with the lost track's last mask, carried along, at which it is found again."""
    recover_distance: float = Field(1.0, ge=0, json_schema_extra=LIVE)
    """Longest distance between the embedding centres (without t) of a lost track and its
    continuation."""


class OutputConfig(Section):
    """Which instances are reported."""

    min_score: float = Field(0.0, ge=0, le=1, json_schema_extra=LIVE)
    """Instances with a lower score are left out."""
    keep_score: float = Field(1.0, ge=0, le=1, json_schema_extra=LIVE)
    """A track that came out before is left out only below this score, too, so that scores that
    vary around min_score do not interrupt it; from min_score on without effect."""
    min_area: int = Field(0, ge=0, json_schema_extra=LIVE)
    """Masks below so many pixels of the source image are left out."""
    min_track_frames: int = Field(1, ge=1, le=100, json_schema_extra=LIVE)
    """A track is reported from its n-th frame on (causal: earlier frames are not revised)."""


class RuntimeConfig(Section):
    """Where and how the network runs."""

    precision: Literal["auto", "float32", "bfloat16", "float16"] = "float32"
    """Autocast type of the network; outputs are float32 in any case. auto: the shortest type that
    the device computes in natively, so that the last digits differ between machines."""
    channels_last: bool = False
    """Memory format of convolutions."""
    compile: bool = False
    """torch.compile both network functions (slow first window)."""
    fuse: bool = False
    """Fold frozen batch norms into their convolutions (faster; the last digits of float32
    change)."""


class QosConfig(Section):
    """Quality of service of the node's topics."""

    image: Literal["auto", "sensor_data", "reliable"] = "auto"
    """Reliability of the image subscription; auto waits for a publisher and matches it.
    sensor_data: best effort."""


class HealthConfig(Section):
    """When the node reports itself unwell, and what it does then (``docs/node.md``).

    A diagnostic status is a warning or an error above the threshold of that name.
    """

    warn_lost: float = Field(0.0, ge=0, le=1, json_schema_extra=LIVE)
    """Share of the frames of the last second that were lost, refused, dropped or failed; not those
    that load_policy stride passes over."""
    error_lost: float = Field(0.5, ge=0, le=1, json_schema_extra=LIVE)
    """The same, for an error."""
    warn_silence: float = Field(5.0, ge=0, le=86_400, json_schema_extra=LIVE)
    """Seconds without an image while none is being answered; 0: never."""
    error_silence: float = Field(30.0, ge=0, le=86_400, json_schema_extra=LIVE)
    """The same, for an error."""
    warn_delay_ms: float = Field(1000.0, ge=0, json_schema_extra=LIVE)
    """Milliseconds from the arrival of the image that completes a window to the window's answers;
    0: never."""
    error_delay_ms: float = Field(5000.0, ge=0, json_schema_extra=LIVE)
    """The same, for an error."""
    stall_after: float = Field(30.0, ge=0, le=86_400, json_schema_extra=LIVE)
    """Seconds without progress after which a busy worker is restarted, but ten times the slowest
    turn of the warm-up at least; 0: never."""
    out_of_memory: Literal["smaller_then_cpu", "smaller", "cpu", "error"] = "smaller_then_cpu"
    """When the memory of the device does not suffice: lower the input to 0.7, then 0.5 of its
    sides; change to the CPU; or, and when that does not help, go to the error state."""


class NodeConfig(Section):
    """What only the ROS node needs."""

    cameras: tuple[Annotated[str, Field(pattern=r"^[A-Za-z](_?[A-Za-z0-9])*$")], ...] = ()
    """Names of several inputs: each listens on NAME/image and answers on ~/NAME/instances. None:
    one input, image."""
    queue_size: int = Field(16, ge=1, le=1000, json_schema_extra=LIVE)
    """Frames that may wait for the worker; load_policy says which ones give way to further
    ones."""
    load_policy: Literal["drop_oldest", "drop_newest", "stride"] = Field(
        "drop_oldest", json_schema_extra=LIVE
    )
    """Which frames give way when the device is too slow: a full queue drops its oldest, or the
    one that comes; or only every n-th frame is processed, n as small as the device allows."""
    max_latency_ms: int = Field(0, ge=0, le=3_600_000, json_schema_extra=LIVE)
    """Waiting frames that could be answered only later than so many milliseconds after they
    arrived are dropped; 0: none."""
    max_gap: float = Field(10.0, ge=0, le=86_400, json_schema_extra=LIVE)
    """A step of the stamps by more seconds is a jump of time: tracking starts anew; 0: never."""
    image_transport: Literal["raw", "compressed"] = "raw"
    """Type of the input topic: sensor_msgs/Image or sensor_msgs/CompressedImage."""
    max_pixels: int = Field(64_000_000, ge=1, le=1_000_000_000)
    """Most pixels of an image. Larger ones, by their header, are refused undecoded: more likely a
    broken message than a camera."""
    max_message_bytes: int = Field(256_000_000, ge=1000, le=4_000_000_000)
    """Most bytes of an image message. Larger ones are refused undecoded."""
    remote_checkpoints: tuple[str, ...] = ()
    """Folders whose files a parameter client may name as checkpoint, for the next configuration of
    the node; none: the checkpoint is read-only."""
    overlay_opacity: float = Field(0.45, ge=0, le=1, json_schema_extra=LIVE)
    """How strongly masks tint the overlay; 0 leaves their outlines."""
    overlay_labels: bool = Field(True, json_schema_extra=LIVE)
    """Write track id and class on the overlay."""
    overlay_jpeg_quality: int = Field(80, ge=1, le=100, json_schema_extra=LIVE)
    """Quality of the compressed overlay."""

    @model_validator(mode="after")
    def _cameras_differ(self) -> NodeConfig:
        if len(set(self.cameras)) < len(self.cameras):
            raise ValueError(f"two cameras have the same name: {', '.join(self.cameras)}")
        return self
