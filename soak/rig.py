"""What the soak and the fault scripts share: the node as a process of its own, and a robot around
it.

All of it talks over DDS in a domain of its own, by UDP: processes that are killed leave no shared
memory behind.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header
from std_srvs.srv import Trigger
from stemseg.msg import InstanceArray

from soak.reports import FaultError, Usage
from stemseg_ros.media.messages import stamp_ns
from stemseg_ros.media.sources import open_source
from stemseg_ros.replay.processes import ChildProcess, free_domain
from stemseg_ros.resources import resource_path
from stemseg_ros.ros.output.result_messages import image_message

ROOT = Path(__file__).resolve().parent.parent
VIDEO = "media/highway_1280x720_25fps.mp4"
SECOND = 1_000_000_000
PATIENCE = 120.0
"""Seconds until something that has to happen counts as failed."""
SMALL = ("input.min_dim:=96", "input.max_dim:=192")
"""Parameters of a small input, so that the network costs little."""
DEPTH = 200
Frame = npt.NDArray[np.uint8]
TRANSITIONS = {
    "configure": Transition.TRANSITION_CONFIGURE,
    "activate": Transition.TRANSITION_ACTIVATE,
    "deactivate": Transition.TRANSITION_DEACTIVATE,
    "cleanup": Transition.TRANSITION_CLEANUP,
}


@dataclass(frozen=True)
class Rig:
    """How nodes are started, and what their cameras see."""

    out: Path
    """Folder for the logs of the processes."""
    images: Sequence[Frame]
    """Shown over and over, uint8 (H, W, 3), BGR."""
    parameters: tuple[str, ...] = SMALL
    """As in "window.length:=4", for every node."""
    program: tuple[str, ...] = ("stemseg_ros.ros", "node")
    """Module of the node, and its first arguments."""
    environment: Mapping[str, str] = field(default_factory=dict)

    @contextmanager
    def node(
        self,
        name: str = "node",
        *parameters: str,
        namespace: str = "",
        domain: int | None = None,
        compressed: bool = False,
    ) -> Iterator[NodeProcess]:
        """The node as a process; its log lies in ``out`` under the given name."""
        module, *first = self.program
        words = [*first, "--ros-args", "-r", f"__ns:=/{namespace}"]
        transport = f"node.image_transport:={'compressed' if compressed else 'raw'}"
        for parameter in (*self.parameters, transport, *parameters):
            words += ["-p", parameter]
        with self.process(name, module, words, domain=domain) as child:
            yield NodeProcess(child, namespace, domain, compressed)

    def process(
        self, name: str, module: str, words: list[str], domain: int | None = None
    ) -> ChildProcess:
        """A module of Python as a process, in the rig's domain or another."""
        environment = {**os.environ, **self.environment, "PYTHONUNBUFFERED": "1"}
        path = [str(ROOT), environment.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(part for part in path if part)
        if domain is not None:
            environment["ROS_DOMAIN_ID"] = str(domain)
        return ChildProcess(name, module, words, self.out / f"{name}.log", environment)


@dataclass(frozen=True, slots=True)
class NodeProcess:
    """A running node."""

    process: ChildProcess
    namespace: str
    domain: int | None
    compressed: bool

    @property
    def usage(self) -> Usage:
        """What it holds now."""
        return Usage.of(self.process.pid)

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self.process.exit_code is None

    def kill(self) -> None:
        """SIGKILL."""
        os.kill(self.process.pid, signal.SIGKILL)

    def robot(self, camera: bool = True) -> AbstractContextManager[Robot]:
        """A robot around it; camera: whether that publishes images itself."""
        return closing(
            Robot(self.namespace, self.domain, compressed=self.compressed, camera=camera)
        )


@dataclass(frozen=True, slots=True)
class Result:
    """A received result: stamp, epoch, ids."""

    stamp_ns: int
    epoch: int
    track_ids: tuple[int, ...]


class Robot:
    """The other side of the topics of one node: camera, listener and operator."""

    def __init__(
        self, namespace: str, domain: int | None, *, compressed: bool, camera: bool
    ) -> None:
        """camera: whether it publishes images itself."""
        prefix = f"/{namespace}" if namespace else ""
        self.topic = f"{prefix}/image" + ("/compressed" if compressed else "")
        self.stemseg = f"{prefix}/stemseg"
        self.results: list[Result] = []
        self.counts: dict[str, str] = {}
        """Values of the last diagnostics of the node."""
        self._context = Context()
        rclpy.init(context=self._context, domain_id=domain)
        self.node = Node("robot", context=self._context, enable_rosout=False)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self._kind = CompressedImage if compressed else Image
        qos = QoSProfile(depth=DEPTH, reliability=ReliabilityPolicy.RELIABLE)
        self.camera = self.node.create_publisher(self._kind, self.topic, qos) if camera else None
        self.subscription = self.node.create_subscription(
            InstanceArray, f"{self.stemseg}/instances", self._on_result, qos
        )
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)

    def close(self) -> None:
        """Leave the graph."""
        self._executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown(context=self._context)

    def _on_result(self, message: Any) -> None:
        ids = tuple(instance.track_id for instance in message.instances)
        self.results.append(Result(stamp_ns(message), message.epoch, ids))

    def _on_diagnostics(self, message: Any) -> None:
        for status in message.status:
            if status.name.startswith(self.stemseg):
                self.counts |= {item.key: item.value for item in status.values}

    def count(self, name: str) -> int:
        """A number of the last diagnostics; 0 while there is none."""
        return int(float(self.counts.get(name, 0)))

    def spin_until(self, holds: Callable[[], object], seconds: float = PATIENCE) -> bool:
        """Serve the topics until something holds; False if it does not in time."""
        deadline = time.monotonic() + seconds
        while not holds():
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            self._executor.spin_once(timeout_sec=min(0.05, left))
        return True

    def spin_for(self, seconds: float) -> None:
        """Serve the topics for a while."""
        self.spin_until(lambda: False, seconds)

    def need(self, holds: Callable[[], object], what: str, seconds: float = PATIENCE) -> None:
        """Serve the topics until something holds. Raises FaultError if it does not in time."""
        if not self.spin_until(holds, seconds):
            raise FaultError(f"{what}: not within {seconds:g} s")

    def connect(self) -> None:
        """Wait until the node takes images, and its results and diagnostics arrive here."""
        if self.camera is not None:
            self.need(lambda: self.subscribed, f"a subscription to {self.topic}")
        self.need(
            self.subscription.get_publisher_count, f"a publisher of {self.stemseg}/instances"
        )
        self.trigger("flush")  # whoever responds has found this peer
        self.need(lambda: self.counts, f"diagnostics of {self.stemseg}")

    def show(self, image: Frame, stamp: int) -> None:
        """Publish an image with a stamp in ns."""
        header = Header(frame_id="camera")
        header.stamp.sec, header.stamp.nanosec = divmod(stamp, SECOND)
        if self._kind is Image:
            self.publish(image_message(image, header))
        else:
            data = cv2.imencode(".jpg", image)[1].tobytes()
            self.publish(CompressedImage(header=header, format="jpeg", data=data))

    def publish(self, message: Any) -> None:
        """Publish an image message, or the bytes of one."""
        assert self.camera is not None, "this robot has no camera"
        self.camera.publish(message)

    @property
    def subscribed(self) -> int:
        """How many subscriptions the images have."""
        return 0 if self.camera is None else int(self.camera.get_subscription_count())

    def stream(self, images: Iterator[Frame], rate: float, number: int, stamp: int) -> None:
        """Show the next images at a rate in Hz, the first with the given stamp, ns."""
        begin = time.monotonic()
        for index in range(number):
            self.show(next(images), stamp + int(index / rate * SECOND))
            self.spin_for(begin + (index + 1) / rate - time.monotonic())

    def call(self, kind: Any, service: str, request: Any, seconds: float = PATIENCE) -> Any:
        """Call a service of the node; returns its response."""
        name = f"{self.stemseg}/{service}"
        client = self.node.create_client(kind, name)
        self.need(client.service_is_ready, f"service {name}", seconds)
        future = client.call_async(request)
        self.need(future.done, f"response of {name}", seconds)
        self.node.destroy_client(client)
        return future.result()

    def trigger(self, service: str) -> Any:
        """Call ~/flush or ~/reset."""
        return self.call(Trigger, service, Trigger.Request())

    def change_state(self, transition: str) -> None:
        """Drive the lifecycle of the node. Raises FaultError where the node refuses."""
        request = ChangeState.Request(transition=Transition(id=TRANSITIONS[transition]))
        if not self.call(ChangeState, "change_state", request).success:
            raise FaultError(f"{self.stemseg} does not {transition}")

    def endpoints(self) -> int:
        """Topics and services, by type, that the node offers or uses."""
        namespace, _, name = self.stemseg.rpartition("/")
        kinds = ("publisher", "subscriber", "service", "client")
        return sum(
            len(getattr(self.node, f"get_{kind}_names_and_types_by_node")(name, namespace or "/"))
            for kind in kinds
        )


def video_frames(number: int, size: tuple[int, int]) -> list[Frame]:
    """The first frames of the bundled video, scaled to (width, height)."""
    with open_source(resource_path(VIDEO)) as source:
        return [
            np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
            for _, image in islice(source, number)
        ]


def own_domain() -> int:
    """Put this process, and those it starts, into a free ROS domain on this machine."""
    domain = free_domain()
    os.environ["ROS_DOMAIN_ID"] = str(domain)
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    os.environ["FASTDDS_BUILTIN_TRANSPORTS"] = "UDPv4"
    return domain
