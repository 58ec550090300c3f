"""Counts and times of the node on /diagnostics."""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Mapping
from statistics import median

import torch
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.node import Node

PERIOD_SECONDS = 1.0
WINDOWS_REMEMBERED = 100
LOSSES = (
    "frames_lost",
    "frames_refused",
    "frames_duplicate",
    "frames_out_of_order",
    "frames_dropped",
    "frames_failed",
)
COUNTS = ("frames_in", "messages_out", *LOSSES)
"""Counted since the node was configured: images that arrived, answers, images that the middleware
lost on the way, that were no picture, whose stamp was that of the one before or behind it, that
had to make room or were reset, and whose window failed."""


class Diagnostics:
    """Publishes once a second what came in, went out, and was lost, from construction to close.

    With it come the rates of the last period, the device memory of PyTorch, and the median
    milliseconds per stage of the last windows. On a GPU these are times of the host: a stage that
    only queues work (backbone, heads) looks short, the one that waits for it (cluster) long.
    Warns while losses go on. Counts come from any thread.
    """

    def __init__(self, node: Node, device: str) -> None:
        self._node = node
        self._device = device
        self._counts: Counter[str] = Counter()
        self._begin = time.monotonic(), Counter[str]()
        self._rates = {"rate_in_hz": 0.0, "rate_out_hz": 0.0}
        self._lossy = False
        self._stage_ms: dict[str, deque[float]] = defaultdict(
            lambda: deque(maxlen=WINDOWS_REMEMBERED)
        )
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
        with self._lock:
            self._compare_with_last_period()
            values = {"device": self._device} | {name: str(self._counts[name]) for name in COUNTS}
            values |= {name: f"{rate:.2f}" for name, rate in self._rates.items()}
            values |= {
                f"stage_ms.{stage}": f"{median(ms):.3f}" for stage, ms in self._stage_ms.items()
            }
        if self._device.startswith("cuda"):
            values["device_memory_mb"] = f"{torch.cuda.memory_reserved(self._device) / 1e6:.0f}"
        status = DiagnosticStatus(
            level=DiagnosticStatus.WARN if self._lossy else DiagnosticStatus.OK,
            name=f"{self._node.get_fully_qualified_name()}: frames",
            message="frames are lost" if self._lossy else "no frames are lost",
            hardware_id=self._device,
            values=[KeyValue(key=key, value=value) for key, value in values.items()],
        )
        message = DiagnosticArray(status=[status])
        message.header.stamp = self._node.get_clock().now().to_msg()
        self._publisher.publish(message)

    def _compare_with_last_period(self) -> None:
        now, (before, counts) = time.monotonic(), self._begin
        seconds = now - before
        if seconds < PERIOD_SECONDS / 2:
            return  # an extra message between two periods
        new = self._counts - counts
        self._begin = now, self._counts.copy()
        self._lossy = any(new[name] for name in LOSSES)
        self._rates = {
            "rate_in_hz": new["frames_in"] / seconds,
            "rate_out_hz": new["messages_out"] / seconds,
        }

    def close(self) -> None:
        """Stop publishing."""
        self._node.destroy_timer(self._timer)
        self._node.destroy_publisher(self._publisher)
