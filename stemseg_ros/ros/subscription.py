"""The subscription to the images: matches the publisher, and says why nothing comes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription
from rclpy.topic_endpoint_info import TopicEndpointInfo
from sensor_msgs.msg import CompressedImage, Image

from stemseg_ros.config import NodeConfig
from stemseg_ros.ros.bursts import BurstLog

POLL_SECONDS = 0.2
SILENCE_SECONDS = 5.0
_RELIABILITY = {
    "sensor_data": ReliabilityPolicy.BEST_EFFORT,
    "reliable": ReliabilityPolicy.RELIABLE,
}
_MESSAGES = {"raw": Image, "compressed": CompressedImage}
_PROFILE_VARIABLES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")
_PROFILE_HINT = (
    ": the shared memory of Fast DDS is smaller than an image by default; where camera and node "
    f"start, set {_PROFILE_VARIABLES[0]} to stemseg's config/fastdds_shm.xml"
)


class ImageSubscription:
    """Subscribes to a topic (transport raw) or its ``compressed`` one, as image_transport names
    it.

    With QoS ``auto`` it waits for a publisher and takes over its reliability, and does so again
    when one comes that does not fit. (The middleware's own "best available" decides once, and
    without a publisher wrongly.) A topic that is silent from the start is reported once, with its
    publishers and their QoS.
    """

    def __init__(
        self,
        node: Node,
        settings: NodeConfig,
        on_image: Callable[[Any], None],
        on_lost: Callable[[int], None],
        topic: str = "image",
    ) -> None:
        self._node = node
        self._settings = settings
        self._on_image = on_image
        self._count_lost = on_lost
        self._type = _MESSAGES[settings.image_transport]
        # image_transport appends to the name after it is remapped.
        self.topic = node.resolve_topic_name(topic)
        self._base = topic
        if settings.image_transport != "raw":
            self.topic += f"/{settings.image_transport}"
        self._subscription: Subscription | None = None
        self._refit = False
        self._lost = BurstLog(node.get_logger().warning)
        self._silent_since: float | None = time.monotonic()
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._timer = node.create_timer(POLL_SECONDS, self._poll, clock=steady)
        self._poll()

    def close(self) -> None:
        """Unsubscribe."""
        self._node.destroy_timer(self._timer)
        self._unsubscribe()
        self._lost.poll(finish=True)

    def _poll(self) -> None:
        if self._subscription is None or self._refit:
            self._subscribe()
        self._lost.poll()
        if (
            self._silent_since is not None
            and time.monotonic() - self._silent_since >= SILENCE_SECONDS
        ):
            self._silent_since = None
            self._report_silence()

    def _subscribe(self) -> None:
        reliability = (
            _RELIABILITY.get(self._settings.qos_image) or self._reliability_of_publishers()
        )
        if reliability is None:
            return
        self._unsubscribe()
        self._refit = False
        events = SubscriptionEventCallbacks(message_lost=self._on_lost)
        if self._settings.qos_image == "auto":
            events.incompatible_qos = self._on_incompatible
        profile = QoSProfile(depth=self._settings.queue_size, reliability=reliability)
        self._subscription = self._node.create_subscription(
            self._type, self.topic, self._on_message, profile, event_callbacks=events
        )
        self._node.get_logger().info(
            f"subscribed to {self.topic} ({self._settings.image_transport}, {_name(reliability)})"
        )

    def _unsubscribe(self) -> None:
        if self._subscription is not None:
            self._node.destroy_subscription(self._subscription)
            self._subscription = None

    def _publishers(self) -> list[TopicEndpointInfo]:
        return list(self._node.get_publishers_info_by_topic(self.topic))

    def _reliability_of_publishers(self) -> ReliabilityPolicy | None:
        """Reliable if all publishers are; a best-effort subscription fits both kinds."""
        offered = {info.qos_profile.reliability for info in self._publishers()}
        if not offered:
            return None
        return _RELIABILITY[
            "reliable" if offered == {ReliabilityPolicy.RELIABLE} else "sensor_data"
        ]

    def _on_message(self, message: Any) -> None:
        self._silent_since = None
        self._on_image(message)

    def _on_incompatible(self, _: object) -> None:
        self._refit = True  # not here: this runs inside the subscription that has to go

    def _on_lost(self, event: Any) -> None:
        self._count_lost(event.total_count_change)
        hint = "" if any(name in os.environ for name in _PROFILE_VARIABLES) else _PROFILE_HINT
        self._lost.add(
            "lost",
            f"images get lost on the way to the node{hint}",
            "images lost on the way to the node",
            event.total_count_change,
        )

    def _report_silence(self) -> None:
        publishers = [
            f"{info.node_namespace.rstrip('/')}/{info.node_name} ({info.topic_type}, "
            f"{_name(info.qos_profile.reliability)})"
            for info in self._publishers()
        ]
        found = f"nobody publishes; remap '{self._base}'"
        if publishers:
            found = f"publishers: {', '.join(publishers)}"
        self._node.get_logger().warning(
            f"no images on {self.topic} (sensor_msgs/msg/{self._type.__name__}) for "
            f"{SILENCE_SECONDS:.0f} s; {found}"
        )


def _name(policy: ReliabilityPolicy) -> str:
    return policy.name.lower().replace("_", " ")
