"""The input side of a camera: its topic, checked and queued."""

from __future__ import annotations

import time
from typing import Any

from rclpy.node import Node

from stemseg_ros.config import Config
from stemseg_ros.ros.health.camera_health import CameraHealth
from stemseg_ros.ros.input.frame_queue import FrameQueue, Waiting
from stemseg_ros.ros.input.image_messages import ImageMessageError, check_image
from stemseg_ros.ros.input.subscription import ImageSubscription


class CameraInput:
    """Checks the images of one topic by their header and queues them; nothing is decoded here.

    Lives on the executor's thread.
    """

    def __init__(
        self, node: Node, topic: str, config: Config, queue: FrameQueue, health: CameraHealth
    ) -> None:
        """topic: name before remapping."""
        self._node = node
        self._topic = topic
        self._config = config
        self._queue = queue
        self._health = health
        self._subscription: ImageSubscription | None = None
        self.images_seen = 0
        """Images received since the start of the process."""

    @property
    def seconds_without_images(self) -> float | None:
        """Seconds since the last image; None if not subscribed."""
        return None if self._subscription is None else self._subscription.seconds_without_images

    def start(self) -> None:
        """Subscribe."""
        self._subscription = ImageSubscription(
            self._node,
            self._config,
            self._on_image,
            self._health.lost,
            self._topic,
            lambda: self._queue.serving,
        )

    def stop(self) -> int:
        """Unsubscribe and drop the waiting frames; returns their number."""
        if self._subscription is not None:
            self._subscription.close()
            self._subscription = None
        waiting = self._queue.clear()
        self._health.discarded(waiting)
        return waiting

    def update(self, config: Config) -> None:
        """Apply changed settings."""
        self._config = config
        self._queue.update(config.node)

    def _on_image(self, message: Any) -> None:
        arrived = time.monotonic()
        self.images_seen += 1
        self._health.arrived()
        try:
            check_image(message, self._config.node)
        except ImageMessageError as error:
            self._health.refused(error.fault, error)
            return
        drops = self._queue.put(Waiting(message, arrived))
        self._health.dropped(drops, self._queue.size, self._queue.every)
