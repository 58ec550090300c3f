"""One input of the node, with everything that belongs to it alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.lifecycle import LifecycleNode

from stemseg_ros.config import Config
from stemseg_ros.records import FrameResult, Image
from stemseg_ros.ros.health.diagnostics import diagnostic
from stemseg_ros.ros.health.statistics import StreamStatistics
from stemseg_ros.ros.health.throttled_log import ThrottledLog
from stemseg_ros.ros.health.verdicts import judge_stream
from stemseg_ros.ros.inference.camera_stream import CameraStream, EventKind, Source
from stemseg_ros.ros.input.conversions import ImageMessageError, bgr_image, check_image
from stemseg_ros.ros.input.frame_queue import FrameQueue, Waiting
from stemseg_ros.ros.input.subscription import ImageSubscription
from stemseg_ros.ros.output.publishers import ResultPublishers

REASONS = {
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
        "frames dropped that could only be late",
    ),
}
"""What to say about a cause of the queue, first and as a total."""


class Camera:
    """Images of one topic in, tracked instances out, on topics that bear its name.

    The camera ``front`` listens on ``front/image`` and answers on ``~/front/instances`` etc.; the
    one without a name on ``image`` and ``~/instances``. Methods run on the executor's thread
    unless they say otherwise.
    """

    def __init__(
        self, node: LifecycleNode, name: str, config: Config, wake: Callable[[], None]
    ) -> None:
        """wake: tells the worker that a frame waits."""
        self._node = node
        self.name = name
        self._config = config
        self._wake = wake
        self._prefix = f"{name}/" if name else ""
        self.images_seen = 0
        self.statistics = StreamStatistics()
        self.queue = FrameQueue(config.node, config.latency.frames_per_pass, self._on_drop)
        self.stream = self._new_stream(first_epoch=0)
        self._results: ResultPublishers | None = None
        self._subscription: ImageSubscription | None = None
        self._last_done = 0.0
        self._taken = 0.0
        """When the frame arrived that was taken last; monotonic seconds."""
        self._answered = False
        """Whether it brought answers."""
        self._in_turn = False
        """Whether it is being processed."""
        title = f"{name}: " if name else ""
        log = node.get_logger()
        self._bursts = ThrottledLog(lambda text: log.warning(f"{title}{text}"))
        self._notes = ThrottledLog(lambda text: log.info(f"{title}{text}"))

    def poll(self) -> None:
        """To be called now and then: says how troubles went that are over."""
        self._bursts.poll()
        self._notes.poll()

    def configure(self) -> None:
        """Announce the topics of the results."""
        self.statistics = StreamStatistics()
        self._results = ResultPublishers(self._node, self._config, f"~/{self._prefix}")

    def activate(self) -> None:
        """Subscribe."""
        self._subscription = ImageSubscription(
            self._node,
            self._config,
            self._on_image,
            partial(self._count, "frames_lost"),
            topic=f"{self._prefix}image",
            busy=lambda: self._in_turn,
        )

    def stop(self) -> int:
        """Unsubscribe and forget the frames that wait; how many they were."""
        if self._subscription is not None:
            self._subscription.close()
            self._subscription = None
        self._bursts.poll(finish=True)
        self._notes.poll(finish=True)
        waiting = self.queue.clear()
        self._count_dropped("reset", waiting)
        return waiting

    def release(self) -> None:
        """Withdraw the topics of the results."""
        if self._results is not None:
            self._results.close()
            self._results = None

    def abandon(self) -> None:
        """Go on with a new stream, of later epochs: the thread of the old one hangs."""
        self._count("frames_failed", self.stream.abandon())
        self.stream = self._new_stream(self.stream.epoch + 1)
        self._in_turn = False

    def status(self, device: str) -> DiagnosticStatus:
        """Its entry of the diagnostics; from any thread."""
        period = self.statistics.period()
        subscription = self._subscription
        silent_s = None if subscription is None else subscription.silent_s
        level, message = judge_stream(period, silent_s, self._config.health)
        values = {"device": device} | self.statistics.values(period)
        values |= {
            "queue_depth": str(len(self.queue)),
            "frames_pending": str(self.stream.pending),
            "epoch": str(self.stream.epoch),
            "load_every": str(self.queue.every),
        }
        part = f"{self.name} frames".strip()
        return diagnostic(self._node, part, (level, message), device, values)

    def _on_image(self, message: Any) -> None:
        arrived = time.monotonic()
        self.images_seen += 1
        self._count("frames_in")
        try:
            check_image(message, self._config.node)
        except ImageMessageError as error:
            self._refuse(error)
            return
        self.queue.put(Waiting(message, arrived))
        self._wake()

    # From here on: the worker's thread

    def take(self) -> tuple[CameraStream, Image, Source] | None:
        """The next frame to process, decoded; none: there is none, or it is no picture."""
        waiting = self.queue.take()
        if waiting is None:
            return None
        begin = time.monotonic()
        self._taken, self._answered, self._in_turn = waiting.arrived, False, True
        try:
            image = bgr_image(waiting.message, self._config.node)
        except ImageMessageError as error:
            self._refuse(error)
            return None
        unpack_ms = 1e3 * (time.monotonic() - begin)
        self.statistics.times({"wait": 1e3 * (begin - waiting.arrived), "unpack": unpack_ms})
        keep = self._results is not None and self._results.overlay_wanted
        message = waiting.message
        encoding = message.format if hasattr(message, "format") else message.encoding
        source = Source(message.header, image if keep else None, encoding, waiting.arrived)
        return self.stream, image, source

    def done(self) -> None:
        """The turn is over, for the frame that was taken, if one was."""
        self.queue.done()
        if not self._in_turn:  # a turn of other cameras: it does not end this one's pause
            return
        self._in_turn = False
        self._last_done = time.monotonic()
        if self._answered:
            self.statistics.delayed(1e3 * (self._last_done - self._taken))
            self._answered = False

    def seconds_to_pause(self) -> float | None:
        """Until frames in the window have waited stream.flush_after for others; none: nothing
        waits, or for ever."""
        after = self._config.stream.flush_after
        if after <= 0 or not self.stream.pending or len(self.queue):
            return None
        return self._last_done + after - time.monotonic()

    def pause(self) -> None:
        """No frames for a while: finish those that are pending."""
        frames = self.stream.flush()
        self._node.get_logger().debug(f"no frames for a while: {frames} pending ones finished")

    def reset(self) -> int:
        """Forget all tracks and the frames inside the window; how many got no result."""
        dropped = self.stream.reset()
        self._count_dropped("reset", dropped)
        return dropped

    def lose_pending(self) -> None:
        """The frames inside the window are lost, because the pipeline goes."""
        self._count("frames_failed", self.stream.pending)

    def update(self, config: Config) -> None:
        """Take over changed settings from the next window on."""
        self._config = config
        self.queue.update(config.node)
        self.stream.update(config)
        if self._results is not None:
            self._results.update(config)

    def failed(self, error: Exception) -> None:
        """A window failed: its frames are lost, and tracking starts anew."""
        lost = self.stream.reset()
        what = f"{type(error).__name__}: {error}"
        self._count("frames_failed", lost)
        self._bursts.add(
            f"failed: {what}",
            f"{lost} frames lost and tracking reset, a window failed: {what}",
            f"windows failed ({what})",
        )

    # What the parts call back; from the thread that each lives on

    def _new_stream(self, first_epoch: int) -> CameraStream:
        return CameraStream(self._publish, self._on_timings, self._on_event, first_epoch)

    def _count(self, name: str, number: int = 1) -> None:
        self.statistics.count(name, number)

    def _count_dropped(self, cause: str, number: int) -> None:
        self._count("frames_dropped", number)
        self._count(f"dropped.{cause}", number)

    def _refuse(self, error: ImageMessageError) -> None:
        self._count("frames_refused")
        total = f"images refused ({error.fault}; first: {error})"
        self._bursts.add(f"refused: {error.fault}", f"image refused: {error}", total)

    def _on_drop(self, cause: str, number: int) -> None:
        self._count_dropped(cause, number)
        what, total = REASONS[cause]
        what = what.format(size=self._config.node.queue_size, every=self.queue.every)
        text = f"the device is slower than the images come: {what}"
        self._bursts.add(cause, text, total, number)

    def _publish(self, source: Source, result: FrameResult) -> None:
        if self._results is None:
            return
        begin = time.monotonic()
        self._results.publish(source, result)
        now = time.monotonic()
        self.statistics.times({"publish": 1e3 * (now - begin)})
        self.statistics.answered(1e3 * (now - source.arrived))
        self._answered = True
        self._count("messages_out")

    def _on_event(self, kind: EventKind, text: str) -> None:
        if kind == "epoch":
            self._notes.add(kind, text, "times that tracking started anew")
        elif kind == "encoding":
            self._notes.add(kind, text, "changes of the encoding")
        else:
            self._count(f"frames_{kind}")
            self._bursts.add(kind, text, f"dropped, {kind}")

    def _on_timings(self, stage_ms: Mapping[str, float]) -> None:
        self.statistics.times(stage_ms)
