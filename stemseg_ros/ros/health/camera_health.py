"""Counts and times the frames of one camera, and logs what is unusual."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import get_args

from rclpy.impl.rcutils_logger import RcutilsLogger

from stemseg_ros.ros.health.statistics import DropCause, StreamStatistics
from stemseg_ros.ros.health.throttled_log import ThrottledLog, counted
from stemseg_ros.stamps import Dropped, Event

SLOW = "images arrive faster than the device processes them"
DROPPED: dict[DropCause, tuple[str, str]] = {
    "drop_oldest": (
        "the oldest of {size} waiting frames is dropped (node.queue_size)",
        "frames dropped from the full queue",
    ),
    "drop_newest": (
        "{size} frames wait, a new one is dropped (node.queue_size)",
        "new frames dropped before the full queue",
    ),
    "stride": (
        "every {every}. frame is processed (node.load_policy)",
        "frames passed over",
    ),
    "late": (
        "a frame that waited too long is dropped (node.max_latency_ms)",
        "frames dropped that would have been late",
    ),
}
"""Log texts for a cause of drops: first event, total."""
TOTALS = {
    "epoch": "restarts of tracking",
    "prompts": "prompts refused",
    "duplicate": "frames dropped, duplicate",
    "out_of_order": "frames dropped, out_of_order",
}
"""Log texts for totals of the events of a stream."""


class CameraHealth:
    """Counts, times and log lines of one camera; from any thread."""

    def __init__(self, log: RcutilsLogger, name: str, topic: str) -> None:
        """name: of the camera, empty for a single one. topic: of its images, as remapped."""
        title = f"{name}: " if name else ""
        self.statistics = StreamStatistics()
        self._topic = topic
        self._warnings = ThrottledLog(lambda text: log.warning(f"{title}{text}"))
        self._notes = ThrottledLog(lambda text: log.info(f"{title}{text}"))

    def begin(self) -> None:
        """Count from 0."""
        self.statistics = StreamStatistics()

    def poll(self, finish: bool = False) -> None:
        """Log the totals of finished bursts; to finish, of all."""
        self._warnings.poll(finish)
        self._notes.poll(finish)

    # Before the model

    def arrived(self) -> None:
        """Count an image that arrived."""
        self.statistics.count("frames_in")

    def lost(self, number: int, seconds: float) -> None:
        """Count images that were lost in transit in the last ``seconds``."""
        self.statistics.count("frames_lost", number)
        images = counted(number, "image")
        self._warnings.add(
            "lost",
            f"{images} lost in transit from {self._topic}, in {seconds:.1f} s",
            f"images lost in transit from {self._topic}",
            number,
            seconds,
        )

    def refused(self, fault: str, reason: Exception) -> None:
        """Count an image that was refused."""
        self.statistics.count("frames_refused")
        self._warnings.add(
            f"refused: {fault}",
            f"image refused on {self._topic}: {reason}",
            f"images refused on {self._topic} ({fault}; first: {reason})",
        )

    def dropped(self, drops: Mapping[DropCause, int], size: int, every: int) -> None:
        """Count frames that the queue dropped. size: of the queue. every: n of the policy
        stride."""
        for cause, number in drops.items():
            self._count_dropped(cause, number)
            what, total = DROPPED[cause]
            what = what.format(size=size, every=every)
            self._warnings.add(cause, f"{SLOW}: {what}", total, number)

    def discarded(self, number: int) -> None:
        """Count frames that were dropped by a reset, or at the end of the active state."""
        self._count_dropped("reset", number)

    def _count_dropped(self, cause: str, number: int) -> None:
        self.statistics.count("frames_dropped", number)
        self.statistics.count(f"dropped.{cause}", number)

    # From the model on

    def reported(self, event: Event) -> None:
        """Log an event of a stream, and count the frame that was dropped because of its stamp."""
        log = self._notes if event.kind == "epoch" else self._warnings
        log.add(event.kind, event.text, TOTALS[event.kind])
        if event.kind in get_args(Dropped):
            self.statistics.count(f"frames_{event.kind}")

    def encoding_changed(self, before: str, after: str) -> None:
        """Log that the encoding of the images changed."""
        text = f"the encoding changed from '{before}' to '{after}'; tracking continues"
        self._notes.add("encoding", text, "changes of the encoding")

    def published(self, arrived: float, begin: float) -> None:
        """Count a published result. begin: start of the publication; arrived: arrival of its
        image; both in monotonic seconds."""
        now = time.monotonic()
        self.statistics.times({"publish": 1e3 * (now - begin)})
        self.statistics.add_latency(1e3 * (now - arrived))
        self.statistics.count("messages_out")

    def failed(self, error: Exception, lost: int) -> None:
        """Count a failure of a stream, after which it was reset; ``lost`` frames have no
        result."""
        what = f"{type(error).__name__}: {error}"
        self.statistics.count("frames_failed", lost)
        self._warnings.add(
            f"failed: {what}",
            f"{counted(lost, 'frame')} lost and tracking reset, the model failed: {what}",
            f"failures of the model ({what})",
        )
