"""The live side of ``stemseg view``: pairs a running node's results with the images."""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.qos import QoSProfile, ReliabilityPolicy
from stemseg.msg import InstanceArray

from stemseg_ros.config import Config, update_config
from stemseg_ros.media.bags import PROMPTS
from stemseg_ros.media.messages import ImageMessageError, stamp_ns
from stemseg_ros.media.result_bag import result_from_message
from stemseg_ros.records import FrameResult
from stemseg_ros.ros.health.throttled_log import counted
from stemseg_ros.ros.input.image_messages import bgr_image
from stemseg_ros.ros.input.subscription import ImageSubscription
from stemseg_ros.ros.programs.program import Program, Stopped, ros_program
from stemseg_ros.view.bag_frames import frame_key
from stemseg_ros.view.recording import Recording, Shown
from stemseg_ros.view.stages import stage_ms

NAME = "stemseg_view"
KEPT_IMAGES = 64
"""Images kept until their result comes: more than the largest window has in flight."""
IMAGE_PATIENCE_S = 1.0
"""Seconds that a result waits for an image that arrives later than itself."""
KEPT_NUMBERS = 100
"""Frames to which prompts may come late: the most that propagation.kept_frames allows."""
PROMPT_PATIENCE_S = 5.0
"""Seconds that a prompt waits for the result of its image."""
REPORT_S = 5.0


class Viewer:
    """Pairs each result with its image; latency is the time between their arrivals here."""

    def __init__(self, program: Program, recording: Recording, image: str, topic: str) -> None:
        self._program = program
        self._recording = recording
        self._image, self._topic = image, topic
        self._node_name = topic.rpartition("/")[0]
        self._images: OrderedDict[int, tuple[float, Any]] = OrderedDict()
        self._results: deque[tuple[float, InstanceArray]] = deque()
        self._stages: dict[str, float] = {}
        self._numbers: OrderedDict[tuple[int, int], int] = OrderedDict()
        """Of the last frames that were shown, to which prompts may come late."""
        self._prompts: list[tuple[float, FrameResult]] = []
        reliable = QoSProfile(depth=100, reliability=ReliabilityPolicy.RELIABLE)
        node = program.node
        node.create_subscription(InstanceArray, topic, self._on_result, reliable)
        prompts = f"{self._node_name}{PROMPTS}"
        node.create_subscription(InstanceArray, prompts, self._on_prompts, reliable)
        node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)

    def show(self) -> None:
        """Show results until a signal comes."""
        try:
            settings = self._settings()
            log = self._program.node.get_logger()

            def lost(number: int, seconds: float) -> None:
                images = f"{counted(number, 'image')} lost on the way to the viewer"
                log.warning(f"{images}, in {seconds:.1f} s", throttle_duration_sec=REPORT_S)

            subscription = ImageSubscription(
                self._program.node,
                settings,
                self._on_image,
                lost,
                self._image,
            )
            try:
                while True:
                    self._program.spin_for(0.1)
                    self._show_ready()
                    self._show_prompts()
            finally:
                subscription.close()
        except Stopped:
            pass  # the usual end

    def _settings(self) -> Config:
        """Choose the transport of the images as they are published: raw or compressed."""
        node = self._program.node
        compressed = f"{self._image}/compressed"

        def published() -> str:
            names = {"raw": self._image, "compressed": compressed}
            return next((n for n, topic in names.items() if node.count_publishers(topic)), "")

        while not self._program.spin_until(published, REPORT_S):
            node.get_logger().warning(
                f"nobody publishes {self._image} or {compressed}; name the images with "
                "--image-topic"
            )
        return update_config(Config(), {"node.image_transport": published()})

    def _on_image(self, message: Any) -> None:
        self._images[stamp_ns(message)] = time.monotonic(), message
        while len(self._images) > KEPT_IMAGES:
            self._images.popitem(last=False)
        self._show_ready()

    def _on_result(self, message: InstanceArray) -> None:
        self._results.append((time.monotonic(), message))
        self._show_ready()

    def _on_prompts(self, message: InstanceArray) -> None:
        self._prompts.append((time.monotonic(), result_from_message(message, 0)))

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        self._stages |= stage_ms(message, self._node_name)

    def _show_ready(self) -> None:
        """Show, in order, the results whose image is here or will not come any more."""
        while self._results:
            arrived, message = self._results[0]
            image = self._images.pop(stamp_ns(message), None)
            if image is None and time.monotonic() - arrived < IMAGE_PATIENCE_S:
                return
            self._results.popleft()
            self._show(arrived, message, image)

    def _show(
        self, arrived: float, message: InstanceArray, image: tuple[float, Any] | None
    ) -> None:
        stages, self._stages = self._stages, {}
        result = result_from_message(message, self._recording.frames)
        pixels, latency = None, None
        if image is not None:
            latency = 1e3 * (arrived - image[0])
            try:
                pixels = bgr_image(image[1])
            except ImageMessageError as error:
                self._program.node.get_logger().warning(f"image refused: {error}")
        self._numbers[frame_key(result)] = self._recording.frames
        while len(self._numbers) > KEPT_NUMBERS:
            self._numbers.popitem(last=False)
        self._recording.show(Shown(result, pixels, latency, stages))

    def _show_prompts(self) -> None:
        """Show the prompts whose frame was shown; drop those that wait too long for theirs."""
        waiting, self._prompts = self._prompts, []
        for arrived, given in waiting:
            number = self._numbers.get(frame_key(given))
            if number is not None:
                self._recording.show_prompts(number, given.stamp_ns, given.instances)
            elif time.monotonic() - arrived < PROMPT_PATIENCE_S:
                self._prompts.append((arrived, given))
            else:
                objects = counted(len(given.instances), "given object")
                self._program.node.get_logger().warning(
                    f"{objects} not shown: the result of their image did not arrive here"
                )


def run(recording: Recording, image_topic: str, topic: str) -> None:
    """Show results until SIGINT or SIGTERM."""
    with ros_program(NAME, []) as program:
        viewer = Viewer(program, recording, image_topic, topic)
        program.node.get_logger().info(f"shows {topic} on {image_topic}")
        viewer.show()
