"""The topics of the results."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any

from rclpy.lifecycle import LifecycleNode
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header
from stemseg.msg import InstanceArray

from stemseg_ros.config import Config
from stemseg_ros.masks import label_image
from stemseg_ros.media.overlay import draw_instances
from stemseg_ros.records import FrameResult
from stemseg_ros.records import Image as Pixels
from stemseg_ros.ros.output.result_messages import image_message, instances_message, jpeg_message

if find_spec("vision_msgs") is not None:
    from vision_msgs.msg import Detection2DArray

    from stemseg_ros.ros.output.detections import detections_message
else:
    Detection2DArray = None

MAX_LABEL = 2**16 - 1
"""Highest track id in a mono16 image."""


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """Data of a frame's message that its result needs."""

    header: Header
    image: Pixels | None
    """uint8 (H, W, 3), BGR; kept only while the overlay has a subscriber."""
    encoding: str = ""
    """Encoding as named in the message."""
    arrived: float = 0.0
    """Time of arrival, monotonic seconds."""


class ResultPublishers:
    """Publishes ``~/instances``, ``~/prompts``, and the other views of a result, each only while
    it has a subscriber.

    These are ``~/label_image``, ``~/overlay``, ``~/overlay/compressed`` and, where vision_msgs is
    installed, ``~/detections``; for a camera with a name, ``~/NAME/instances`` etc.
    """

    def __init__(self, node: LifecycleNode, prefix: str, config: Config) -> None:
        """Create the publishers. prefix: of the topic names."""
        self._node = node
        self._prefix = prefix
        self._config = config
        # The end of a stream publishes all frames in flight at once.
        depth = max(10, 2 * config.latency.in_flight)
        self._qos = QoSProfile(depth=depth, reliability=ReliabilityPolicy.RELIABLE)
        self._all: list[Any] = []
        self._instances = self._publisher(InstanceArray, "instances")
        self._prompts = self._publisher(InstanceArray, "prompts")
        self._labels = self._publisher(Image, "label_image")
        self._overlay = self._publisher(Image, "overlay")
        self._compressed = self._publisher(CompressedImage, "overlay/compressed")
        self._detections = (
            self._publisher(Detection2DArray, "detections") if Detection2DArray else None
        )

    def _publisher(self, kind: type, name: str) -> Any:
        topic = f"{self._prefix}{name}"
        self._all.append(self._node.create_lifecycle_publisher(kind, topic, self._qos))
        return self._all[-1]

    def close(self) -> None:
        """Destroy the publishers."""
        for publisher in self._all:
            self._node.destroy_lifecycle_publisher(publisher)

    def update(self, config: Config) -> None:
        """Apply changed settings of the overlay."""
        self._config = config

    @property
    def overlay_wanted(self) -> bool:
        """Whether the image of a frame is needed for the overlay."""
        return _wanted(self._overlay) or _wanted(self._compressed)

    def publish(self, source: Source, result: FrameResult) -> None:
        """Publish every subscribed view of one frame, with the header of its image."""
        self._instances.publish(instances_message(result, source.header))
        if self._detections is not None and _wanted(self._detections):
            self._detections.publish(detections_message(result, source.header))
        if _wanted(self._labels):
            self._publish_labels(source, result)
        if source.image is not None and self.overlay_wanted:
            self._publish_overlay(source, source.image, result)

    def publish_prompts(self, header: Header, prompts: FrameResult) -> None:
        """Publish objects that are followed from an image on, as they were given."""
        self._prompts.publish(instances_message(prompts, header))

    def _publish_overlay(self, source: Source, image: Pixels, result: FrameResult) -> None:
        settings = self._config.node
        drawn = draw_instances(
            image, result, opacity=settings.overlay_opacity, labels=settings.overlay_labels
        )
        if _wanted(self._overlay):
            self._overlay.publish(image_message(drawn, source.header))
        if _wanted(self._compressed):
            message = jpeg_message(drawn, source.header, settings.overlay_jpeg_quality)
            self._compressed.publish(message)

    def _publish_labels(self, source: Source, result: FrameResult) -> None:
        fitting = tuple(i for i in result.instances if i.track_id <= MAX_LABEL)
        if len(fitting) < len(result.instances):
            self._node.get_logger().warning(
                f"track ids above {MAX_LABEL} do not fit into {self._labels.topic_name} and are "
                f"left out; {self._node.get_fully_qualified_name()}/reset restarts the numbering",
                once=True,
            )
        labels = label_image(replace(result, instances=fitting))
        self._labels.publish(image_message(labels, source.header))


def _wanted(publisher: Any) -> bool:
    return bool(publisher.get_subscription_count() > 0)
