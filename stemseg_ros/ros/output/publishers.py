"""The topics that the node fills."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import numpy as np
import numpy.typing as npt
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image
from stemseg.msg import InstanceArray

from stemseg_ros.config import Config
from stemseg_ros.masks import label_image
from stemseg_ros.media.overlay import draw_instances
from stemseg_ros.records import FrameResult
from stemseg_ros.ros.inference.camera_stream import Source
from stemseg_ros.ros.input.conversions import image_message, instances_message, jpeg_message

if find_spec("vision_msgs") is not None:
    from stemseg_ros.ros.output.detections import Detection2DArray, detections_message
else:
    Detection2DArray = None

MAX_LABEL = 2**16 - 1
"""Highest track id in a mono16 image."""


class ResultPublishers:
    """``~/instances``, and the other views of a result, each only while somebody subscribes.

    These are ``~/label_image``, ``~/overlay``, ``~/overlay/compressed`` and, where vision_msgs is
    installed, ``~/detections``. prefix: what their names begin with.
    """

    def __init__(self, node: LifecycleNode, config: Config, prefix: str = "~/") -> None:
        # The end of a stream publishes all frames in flight at once.
        depth = max(10, 2 * config.latency.in_flight)
        qos = QoSProfile(depth=depth, reliability=ReliabilityPolicy.RELIABLE)
        self._node = node
        self._config = config
        self._all: list[Any] = []

        def publisher(kind: type, name: str) -> Any:
            self._all.append(node.create_lifecycle_publisher(kind, f"{prefix}{name}", qos))
            return self._all[-1]

        self._instances = publisher(InstanceArray, "instances")
        self._labels = publisher(Image, "label_image")
        self._overlay = publisher(Image, "overlay")
        self._compressed = publisher(CompressedImage, "overlay/compressed")
        self._detections = publisher(Detection2DArray, "detections") if Detection2DArray else None

    def close(self) -> None:
        """Withdraw the topics."""
        for publisher in self._all:
            self._node.destroy_lifecycle_publisher(publisher)

    def update(self, config: Config) -> None:
        """Draw overlays as the settings say from now on."""
        self._config = config

    @property
    def overlay_wanted(self) -> bool:
        """Whether the image of a frame is needed again."""
        return _wanted(self._overlay) or _wanted(self._compressed)

    def publish(self, source: Source, result: FrameResult) -> None:
        """Everything that is wanted of one frame, under the header of its image."""
        self._instances.publish(instances_message(result, source.header))
        if self._detections is not None and _wanted(self._detections):
            self._detections.publish(detections_message(result, source.header))
        if _wanted(self._labels):
            self._publish_labels(source, result)
        if source.image is not None and self.overlay_wanted:
            self._publish_overlay(source, source.image, result)

    def _publish_overlay(
        self, source: Source, image: npt.NDArray[np.uint8], result: FrameResult
    ) -> None:
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
                f"track ids above {MAX_LABEL} do not fit into ~/label_image and are left out; "
                "call ~/reset to number anew",
                once=True,
            )
        labels = label_image(replace(result, instances=fitting))
        self._labels.publish(image_message(labels, source.header))


def _wanted(publisher: Any) -> bool:
    return bool(publisher.get_subscription_count() > 0)
