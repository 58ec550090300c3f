"""The state of the node on /diagnostics."""

from __future__ import annotations

from collections.abc import Callable

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.node import Node

from stemseg_ros.ros.health.statistics import PERIOD_SECONDS
from stemseg_ros.ros.health.verdicts import Level


class Diagnostics:
    """Publishes the status of each part of the node once a second.

    An unconfigured node publishes, too: missing messages mean that the process is gone, or that
    its executor hangs.
    """

    def __init__(self, node: Node, parts: Callable[[], list[DiagnosticStatus]]) -> None:
        self._node = node
        self._parts = parts
        self._publisher = node.create_publisher(DiagnosticArray, "/diagnostics", 10)
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._timer = node.create_timer(PERIOD_SECONDS, self.publish, clock=steady)

    def publish(self) -> None:
        """Publish one message with the current state. From any thread."""
        message = DiagnosticArray(status=self._parts())
        message.header.stamp = self._node.get_clock().now().to_msg()
        self._publisher.publish(message)


def diagnostic(
    node: Node, part: str, level: Level, hardware: str, values: dict[str, str]
) -> DiagnosticStatus:
    """The status of a part of the node."""
    return DiagnosticStatus(
        level=level[0],
        name=f"{node.get_fully_qualified_name()}: {part}",
        message=level[1],
        hardware_id=hardware,
        values=[KeyValue(key=key, value=value) for key, value in values.items()],
    )
