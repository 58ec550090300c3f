"""Settings of the ROS node; importable without ROS."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from stemseg_ros.settings import LIVE, Section


class QosConfig(Section):
    """Quality of service of the node's topics."""

    image: Literal["auto", "sensor_data", "reliable"] = "auto"
    """Reliability of the image subscription; auto waits for a publisher and matches it.
    sensor_data: best effort."""


class HealthConfig(Section):
    """Thresholds of the node's health, and its reactions (``docs/node.md``).

    A diagnostic status is a warning or an error above the threshold of that name.
    """

    warn_lost: float = Field(0.0, ge=0, le=1, json_schema_extra=LIVE)
    """Share of the frames of the last second that were lost, refused, dropped or failed; not those
    that load_policy stride passes over."""
    error_lost: float = Field(0.5, ge=0, le=1, json_schema_extra=LIVE)
    """The same, for an error."""
    warn_no_images: float = Field(5.0, ge=0, le=86_400, json_schema_extra=LIVE)
    """Seconds without an image, not counting those in which images are processed; 0: never."""
    error_no_images: float = Field(30.0, ge=0, le=86_400, json_schema_extra=LIVE)
    """The same, for an error."""
    warn_delay_ms: float = Field(1000.0, ge=0, json_schema_extra=LIVE)
    """Milliseconds from the arrival of the image that completes a window to the window's results;
    0: never."""
    error_delay_ms: float = Field(5000.0, ge=0, json_schema_extra=LIVE)
    """The same, for an error."""
    stall_after: float = Field(30.0, ge=0, le=86_400, json_schema_extra=LIVE)
    """Seconds without progress after which a busy worker is restarted, at least ten times the
    slowest batch of the warm-up; 0: never."""
    out_of_memory: Literal["smaller_then_cpu", "smaller", "cpu", "error"] = "smaller_then_cpu"
    """When the device runs out of memory: lower the input to 0.7, then 0.5 of its sides; change to
    the CPU; or, and when that does not help, go to the error state."""


class NodeConfig(Section):
    """Settings that only the ROS node needs."""

    cameras: tuple[Annotated[str, Field(pattern=r"^[A-Za-z](_?[A-Za-z0-9])*$")], ...] = ()
    """Names of several inputs: each subscribes to NAME/image and publishes ~/NAME/instances. None:
    one input, image."""
    queue_size: int = Field(16, ge=1, le=1000, json_schema_extra=LIVE)
    """Largest number of frames that wait for the worker; load_policy chooses which ones are
    dropped."""
    load_policy: Literal["drop_oldest", "drop_newest", "stride"] = Field(
        "drop_oldest", json_schema_extra=LIVE
    )
    """Frames to drop when the device is too slow: the oldest of a full queue, or the new one; or
    all but every n-th frame, n as small as the device allows."""
    max_latency_ms: int = Field(0, ge=0, le=3_600_000, json_schema_extra=LIVE)
    """Waiting frames are dropped if their result would come later than this many milliseconds
    after they arrived; 0: none."""
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
    """Opacity of the masks on the overlay; 0 leaves their outlines."""
    overlay_labels: bool = Field(True, json_schema_extra=LIVE)
    """Write track id and class on the overlay."""
    overlay_jpeg_quality: int = Field(80, ge=1, le=100, json_schema_extra=LIVE)
    """Quality of the compressed overlay."""

    @model_validator(mode="after")
    def _cameras_differ(self) -> NodeConfig:
        if len(set(self.cameras)) < len(self.cameras):
            raise ValueError(f"two cameras have the same name: {', '.join(self.cameras)}")
        return self
