"""The topics that the node fills."""

from __future__ import annotations

from dataclasses import replace

from rclpy.lifecycle import LifecycleNode
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
from stemseg.msg import InstanceArray

from stemseg_ros.config import WindowConfig
from stemseg_ros.masks import label_image
from stemseg_ros.media.overlay import draw_instances
from stemseg_ros.records import FrameResult
from stemseg_ros.ros.conversions import image_message, instances_message
from stemseg_ros.ros.stream import Source

MAX_LABEL = 2**16 - 1
"""Highest track id in a mono16 image."""


class ResultPublishers:
    """``~/instances``, and, while somebody subscribes, ``~/label_image`` and ``~/overlay``."""

    def __init__(self, node: LifecycleNode, window: WindowConfig) -> None:
        # The end of a stream publishes the frames of up to three windows at once.
        depth = max(10, 4 * window.length)
        qos = QoSProfile(depth=depth, reliability=ReliabilityPolicy.RELIABLE)
        self._node = node
        self._instances = node.create_lifecycle_publisher(InstanceArray, "~/instances", qos)
        self._labels = node.create_lifecycle_publisher(Image, "~/label_image", qos)
        self._overlay = node.create_lifecycle_publisher(Image, "~/overlay", qos)

    def close(self) -> None:
        """Withdraw the topics."""
        for publisher in (self._instances, self._labels, self._overlay):
            self._node.destroy_lifecycle_publisher(publisher)

    @property
    def overlay_wanted(self) -> bool:
        """Whether the image of a frame is needed again."""
        return self._overlay.get_subscription_count() > 0

    def publish(self, source: Source, result: FrameResult) -> None:
        """Everything that is wanted of one frame, under the header of its image."""
        self._instances.publish(instances_message(result, source.header))
        if self._labels.get_subscription_count() > 0:
            self._publish_labels(source, result)
        if source.image is not None and self.overlay_wanted:
            self._overlay.publish(
                image_message(draw_instances(source.image, result), source.header)
            )

    def _publish_labels(self, source: Source, result: FrameResult) -> None:
        fitting = tuple(i for i in result.instances if i.track_id <= MAX_LABEL)
        if len(fitting) < len(result.instances):
            self._node.get_logger().warning(
                f"track ids above {MAX_LABEL} do not fit into ~/label_image and are left out; "
                "call ~/reset to number anew",
                once=True,
            )
        labels = label_image(replace(result, instances=fitting))
        self._labels.publish(image_message(labels, source.header))
