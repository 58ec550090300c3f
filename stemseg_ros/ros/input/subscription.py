"""The subscription to the images: matches the publisher, and reports why no images arrive."""

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
from rclpy.utilities import get_rmw_implementation_identifier
from sensor_msgs.msg import CompressedImage, Image

from stemseg_ros.config import Config
from stemseg_ros.media.messages import stamp_ns
from stemseg_ros.ros.input.lost_images import LostImageCounter, remedy
from stemseg_ros.ros.input.no_images import TRANSPORTS, Offer, Request, explain_no_images

POLL_SECONDS = 0.2
NO_IMAGES_SECONDS = 5.0
_RELIABILITY = {
    "sensor_data": ReliabilityPolicy.BEST_EFFORT,
    "reliable": ReliabilityPolicy.RELIABLE,
}
_MESSAGES = {"raw": Image, "compressed": CompressedImage}


class ImageSubscription:
    """Subscribes to ``topic`` (raw) or ``topic``/compressed, as image_transport names them.

    With QoS ``auto`` it waits for a publisher and takes over its reliability, and does so again
    when others come that do not fit, or offer more. (The middleware's own "best available" decides
    once, and without a publisher wrongly.) Each absence of images is reported once, with its
    likely reason from the graph; a large share of lost images is reported once with its remedy.
    """

    def __init__(
        self,
        node: Node,
        config: Config,
        on_image: Callable[[Any], None],
        on_lost: Callable[[int, float], None],
        topic: str = "image",
        busy: Callable[[], bool] = lambda: False,
    ) -> None:
        """on_lost: called with a number of images and the seconds in which they were lost. busy:
        whether images are being processed."""
        self._node = node
        self._busy = busy
        self._settings = config.node
        self._qos = config.qos.image
        self._on_image = on_image
        self._name = topic
        self._type = _MESSAGES[self._settings.image_transport]
        # image_transport appends to the name after it is remapped.
        self.topic = node.resolve_topic_name(topic)
        if self._settings.image_transport != "raw":
            self.topic += f"/{self._settings.image_transport}"
        self._subscription: Subscription | None = None
        self._reliability: ReliabilityPolicy | None = None
        self._wanted: ReliabilityPolicy | None = None  # a poll ago: publishers come one by one
        self._refit = False
        self._losses = LostImageCounter(on_lost, self._explain_losses)
        self._last_image = time.monotonic()
        self._warned = False
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._timer = node.create_timer(POLL_SECONDS, self._poll, clock=steady)
        self._poll()

    @property
    def seconds_without_images(self) -> float:
        """Seconds since the last image, or since the subscription. Time in which images are being
        processed does not count, as a player waits for the results."""
        return time.monotonic() - self._last_image

    def close(self) -> None:
        """Unsubscribe."""
        self._node.destroy_timer(self._timer)
        self._unsubscribe()

    def _poll(self) -> None:
        wanted = _RELIABILITY.get(self._qos) or self._reliability_of_publishers()
        settled = wanted == self._wanted or self._reliability is None
        self._wanted = wanted
        if wanted is not None and settled and (wanted != self._reliability or self._refit):
            self._subscribe(wanted)
        if self._busy():
            self._last_image = time.monotonic()
        if not self._warned and self.seconds_without_images >= NO_IMAGES_SECONDS:
            self._warned = True
            self._warn_no_images()

    def _subscribe(self, reliability: ReliabilityPolicy) -> None:
        self._unsubscribe()
        self._refit = False
        self._reliability = reliability
        events = SubscriptionEventCallbacks(
            message_lost=self._on_message_lost,
            incompatible_qos=self._on_incompatible,
        )
        profile = QoSProfile(depth=self._settings.queue_size, reliability=reliability)
        self._subscription = self._node.create_subscription(
            self._type, self.topic, self._on_message, profile, event_callbacks=events
        )
        self._node.get_logger().info(
            f"subscribed to {self.topic} ({self._settings.image_transport}, {_text(reliability)})"
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
        if self._warned:
            self._warned = False
            self._node.get_logger().info(f"images arrive on {self.topic}")
        self._last_image = time.monotonic()
        self._losses.received(stamp_ns(message))
        self._on_image(message)

    def _on_message_lost(self, event: Any) -> None:
        self._losses.reported(event.total_count_change)

    def _on_incompatible(self, _: object) -> None:
        # Not here: this runs inside the subscription that has to go. A fixed reliability stays;
        # if no one else sends, the next warning names what to change.
        self._refit = self._qos == "auto"
        if not self._refit and self._warned:
            self._warned, self._last_image = False, time.monotonic()

    def _explain_losses(self, share: float) -> None:
        self._node.get_logger().warning(
            f"{share:.0%} of the images on {self.topic} are lost in transit: {_remedy()}"
        )

    def _warn_no_images(self) -> None:
        reliability = None if self._reliability is None else _text(self._reliability)
        kind = f"sensor_msgs/msg/{self._type.__name__}"
        wanted = Request(self._name, self.topic, kind, reliability)
        offers = [
            Offer(
                f"{info.node_namespace.rstrip('/')}/{info.node_name}",
                info.topic_type,
                _text(info.qos_profile.reliability),
                _text(info.qos_profile.durability),
            )
            for info in self._publishers()
        ]
        found = explain_no_images(wanted, offers, self._image_topics(), _remedy())
        self._node.get_logger().warning(
            f"no images on {self.topic} ({kind}) for {NO_IMAGES_SECONDS:.0f} s; {found}"
        )

    def _image_topics(self) -> dict[str, str]:
        """Find the topics with images that others publish: type by name."""
        own = f"{self._node.get_fully_qualified_name()}/"
        return {
            name: kinds[0]
            for name, kinds in self._node.get_topic_names_and_types()
            if kinds[0] in TRANSPORTS
            and not name.startswith(own)
            and self._node.count_publishers(name)
        }


def _remedy() -> str:
    return remedy(get_rmw_implementation_identifier(), os.environ)


def _text(policy: Any) -> str:
    return str(policy.name).lower().replace("_", " ")
