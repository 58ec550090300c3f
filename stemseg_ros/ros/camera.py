"""One input of the node, with everything that belongs to it alone."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from rclpy.lifecycle import LifecycleNode

from stemseg_ros.config import Config
from stemseg_ros.records import FrameResult
from stemseg_ros.ros.bursts import BurstLog
from stemseg_ros.ros.conversions import ImageMessageError, bgr_image
from stemseg_ros.ros.diagnostics import Diagnostics
from stemseg_ros.ros.publishers import ResultPublishers
from stemseg_ros.ros.stream import Event, Source, Stream, StreamingPipeline
from stemseg_ros.ros.subscription import ImageSubscription
from stemseg_ros.ros.worker import Worker


class Camera:
    """Images of one topic in, tracked instances out, on topics that bear its name.

    The camera ``front`` listens on ``front/image`` and answers on ``~/front/instances`` etc.; the
    one without a name on ``image`` and ``~/instances``. Methods run on the executor's thread
    unless they say otherwise.
    """

    def __init__(self, node: LifecycleNode, name: str, config: Config, worker: Worker) -> None:
        self._node = node
        self.name = name
        self._config = config
        self._worker = worker
        self._prefix = f"{name}/" if name else ""
        self.images_seen = 0
        self._stream = Stream(self._publish, self._on_window, self._on_event, config.node.max_gap)
        self._results: ResultPublishers | None = None
        self._diagnostics: Diagnostics | None = None
        self._subscription: ImageSubscription | None = None
        title = f"{name}: " if name else ""
        log = node.get_logger()
        self._bursts = BurstLog(lambda text: log.warning(f"{title}{text}"))
        self._notes = BurstLog(lambda text: log.info(f"{title}{text}"))

    @property
    def active(self) -> bool:
        """Whether it listens."""
        return self._subscription is not None

    def poll(self) -> None:
        """To be called now and then: says how troubles went that are over."""
        self._bursts.poll()
        self._notes.poll()

    def configure(self, device: str) -> None:
        """Announce the topics of the results."""
        self._results = ResultPublishers(self._node, self._config, f"~/{self._prefix}")
        self._diagnostics = Diagnostics(self._node, device)

    def activate(self) -> None:
        """Subscribe."""
        self._subscription = ImageSubscription(
            self._node,
            self._config,
            self._on_image,
            partial(self.count, "frames_lost"),
            topic=f"{self._prefix}image",
        )

    def stop(self) -> None:
        """Unsubscribe."""
        if self._subscription is not None:
            self._subscription.close()
            self._subscription = None
        self._bursts.poll(finish=True)
        self._notes.poll(finish=True)

    def release(self) -> None:
        """Withdraw the topics of the results."""
        if self._results is not None:
            self._results.close()
            self._results = None
        if self._diagnostics is not None:
            self._diagnostics.close()
            self._diagnostics = None

    def count(self, name: str, number: int = 1) -> None:
        """Add to one of the numbers of the diagnostics; from any thread."""
        if self._diagnostics is not None:
            self._diagnostics.count(name, number)

    def _on_image(self, message: Any) -> None:
        self.images_seen += 1
        self.count("frames_in")
        try:
            image = bgr_image(message)
        except ImageMessageError as error:
            self.count("frames_refused")
            self._bursts.add(
                f"refused: {error}", f"image refused: {error}", f"images refused ({error})"
            )
            return
        keep = self._results is not None and self._results.overlay_wanted
        encoding = message.format if hasattr(message, "format") else message.encoding
        source = Source(message.header, image if keep else None, encoding)
        if not self._worker.offer(partial(self._stream.push, image, source)):
            self.count("frames_dropped")
            size = self._config.node.queue_size
            self._bursts.add(
                "queue",
                "the device is slower than the images come: the oldest of "
                f"{size} waiting frames is dropped (node.queue_size)",
                "frames dropped from the full queue",
            )

    # From here on: the worker's thread

    def open(self, make_pipeline: Callable[[], StreamingPipeline]) -> None:
        """Load the model, and warm it up."""
        self._stream.open(make_pipeline, self._config.window.length)

    def close(self) -> None:
        """Free the device."""
        self._stream.close()

    def reset(self) -> int:
        """Forget all tracks and the frames inside the window; how many got no result."""
        dropped = self._stream.reset()
        self.count("frames_dropped", dropped)
        return dropped

    def flush(self) -> int:
        """Finish the frames inside the window; how many they were."""
        frames = self._stream.flush()
        if self._diagnostics is not None:
            self._diagnostics.publish()
        return frames

    def pause(self) -> None:
        """No frames for a while: finish those that are pending."""
        frames = self._stream.flush()
        if frames:
            self._node.get_logger().debug(f"no frames for a while: {frames} pending ones finished")

    def update(self, config: Config) -> None:
        """Take over changed settings from the next window on."""
        self._config = config
        self._stream.update(config)
        if self._results is not None:
            self._results.update(config)

    def failed(self, error: Exception) -> None:
        """A window failed: its frames are lost, and tracking starts anew."""
        lost = self._stream.reset()
        what = f"{type(error).__name__}: {error}"
        self.count("frames_failed", lost)
        self._bursts.add(
            f"failed: {what}",
            f"{lost} frames lost and tracking reset, a window failed: {what}",
            f"windows failed ({what})",
        )

    def _publish(self, source: Source, result: FrameResult) -> None:
        if self._results is not None:
            self._results.publish(source, result)
            self.count("messages_out")

    def _on_event(self, kind: Event, text: str) -> None:
        if kind == "epoch":
            self._notes.add(kind, text, "times that tracking started anew")
        elif kind == "encoding":
            self._notes.add(kind, text, "changes of the encoding")
        else:
            self.count(kind)
            self._bursts.add(kind, text, f"dropped, {kind.removeprefix('frames_')}")

    def _on_window(self, stage_ms: Any) -> None:
        if self._diagnostics is not None:
            self._diagnostics.window(stage_ms)
