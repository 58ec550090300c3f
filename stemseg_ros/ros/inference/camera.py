"""One camera of the node, from its images to its results."""

from __future__ import annotations

from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.lifecycle import LifecycleNode

from stemseg_ros.config import Config
from stemseg_ros.ros.health.camera_health import CameraHealth
from stemseg_ros.ros.health.diagnostics import diagnostic
from stemseg_ros.ros.health.verdicts import judge_stream
from stemseg_ros.ros.inference.camera_stream import CameraStream
from stemseg_ros.ros.input.camera_input import CameraInput
from stemseg_ros.ros.input.frame_queue import FrameQueue
from stemseg_ros.ros.output.publishers import ResultPublishers
from stemseg_ros.stream import Stream


class Camera:
    """An input side and a stream side with a queue between them.

    The camera ``front`` subscribes to ``front/image`` and publishes ``~/front/instances`` etc.;
    the one without a name uses ``image`` and ``~/instances``. Methods run on the executor's thread
    unless they say otherwise.
    """

    def __init__(self, node: LifecycleNode, name: str, config: Config, queue: FrameQueue) -> None:
        self._node = node
        self._config = config
        self.name = name
        self._prefix = f"{name}/" if name else ""
        topic = f"{self._prefix}image"
        self.health = CameraHealth(node.get_logger(), name, node.resolve_topic_name(topic))
        self.queue = queue
        self.input = CameraInput(node, topic, config, queue, self.health)
        self.results: ResultPublishers | None = None
        """None if not configured."""
        self.stream: CameraStream | None = None
        """None while no model is loaded."""
        self._next_epoch = 0

    def configure(self) -> None:
        """Create the publishers of the results, and count from 0."""
        self.health.begin()
        self.results = ResultPublishers(self._node, f"~/{self._prefix}", self._config)

    def stop(self) -> int:
        """Unsubscribe and drop the waiting frames; returns their number."""
        waiting = self.input.stop()
        self.health.poll(finish=True)
        return waiting

    def release(self) -> None:
        """Destroy the publishers of the results."""
        if self.results is not None:
            self.results.close()
            self.results = None

    def update(self, config: Config) -> None:
        """Apply changed settings; those of the stream follow on the worker's thread."""
        self._config = config
        self.input.update(config)

    def open_stream(self, stream: Stream) -> CameraStream:
        """Start to use a new stream. On the worker's thread."""
        assert self.results is not None, "configure the camera first"
        self.stream = CameraStream(stream, self.queue, self.results, self.health, self._next_epoch)
        self.results.update(stream.config)
        return self.stream

    def close_stream(self) -> None:
        """Discard the stream, with its model or its worker; its pending frames are lost. From any
        thread."""
        if self.stream is not None:
            self.health.statistics.count("frames_failed", self.stream.pending)
            self._next_epoch = self.stream.epoch + 1
            self.stream = None
        self.queue.give_up()

    def status(self, device: str) -> DiagnosticStatus:
        """Build the camera's entry of the diagnostics. From any thread."""
        stream, statistics = self.stream, self.health.statistics
        period = statistics.period()
        verdict = judge_stream(period, self.input.seconds_without_images, self._config.health)
        values = {"device": device} | statistics.values(period)
        values |= {
            "queue_depth": str(len(self.queue)),
            "frames_pending": str(0 if stream is None else stream.pending),
            "frames_held": str(0 if stream is None else stream.held),
            "epoch": str(self._next_epoch if stream is None else stream.epoch),
            "load_every": str(self.queue.every),
            "in_flight": str(self._config.latency.in_flight),
        }
        part = f"{self.name} frames".strip()
        return diagnostic(self._node, part, verdict, device, values)
