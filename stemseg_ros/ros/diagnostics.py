"""Counts and times of the node on /diagnostics."""

from __future__ import annotations

import threading
from collections import Counter, defaultdict, deque
from collections.abc import Mapping
from statistics import median

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.node import Node

PERIOD_SECONDS = 1.0
WINDOWS_REMEMBERED = 100


class Diagnostics:
    """Publishes once a second, from construction to close: what came in, went out, and was dropped, and the
    median milliseconds per stage of the last windows. Counts come from any thread.
    """

    COUNTS = ("frames_in", "messages_out", "frames_dropped", "frames_refused", "frames_failed")

    def __init__(self, node: Node, device: str) -> None:
        self._node = node
        self._device = device
        self._counts: Counter[str] = Counter()
        self._stage_ms: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=WINDOWS_REMEMBERED))
        self._lock = threading.Lock()
        self._publisher = node.create_publisher(DiagnosticArray, "/diagnostics", 10)
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._timer = node.create_timer(PERIOD_SECONDS, self.publish, clock=steady)

    def count(self, name: str, number: int = 1) -> None:
        """Add to one of COUNTS."""
        with self._lock:
            self._counts[name] += number

    def window(self, stage_ms: Mapping[str, float]) -> None:
        """Milliseconds that the stages of one window took."""
        with self._lock:
            for stage, milliseconds in stage_ms.items():
                self._stage_ms[stage].append(milliseconds)

    def publish(self) -> None:
        """One message with the present state."""
        values = {"device": self._device}
        with self._lock:
            values |= {name: str(self._counts[name]) for name in self.COUNTS}
            values |= {f"stage_ms.{stage}": f"{median(ms):.3f}" for stage, ms in self._stage_ms.items()}
        lossy = self._counts["frames_dropped"] + self._counts["frames_failed"] > 0
        status = DiagnosticStatus(
            level=DiagnosticStatus.WARN if lossy else DiagnosticStatus.OK,
            name=f"{self._node.get_name()}: frames",
            message="frames were dropped" if lossy else "every frame is answered",
            hardware_id=self._device,
            values=[KeyValue(key=key, value=value) for key, value in values.items()],
        )
        message = DiagnosticArray(status=[status])
        message.header.stamp = self._node.get_clock().now().to_msg()
        self._publisher.publish(message)

    def close(self) -> None:
        """Stop publishing."""
        self._node.destroy_timer(self._timer)
        self._node.destroy_publisher(self._publisher)
