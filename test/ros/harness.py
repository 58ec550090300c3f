"""Processes and peers for tests of the node over real DDS."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rclpy
from lifecycle_msgs.srv import GetState
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from ros.toy_node import ToyModel
from sensor_msgs.msg import Image
from std_srvs.srv import Trigger
from stemseg.msg import InstanceArray

from stemseg_ros.ros.inference.supervisor import OpenModel
from stemseg_ros.ros.node import StemsegNode

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
PATIENCE = 90.0
"""Seconds until a test gives up; generous, for machines with other work."""


def without_middleware(log: str) -> str:
    """Without what Fast DDS says about shared memory that killed processes left on the machine."""
    return "".join(
        line for line in log.splitlines(keepends=True) if "RTPS_TRANSPORT_SHM" not in line
    )


class Process:
    """A child process and what it writes."""

    def __init__(self, script: str, *arguments: str, **environment: str) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._output = Path(self._folder.name) / "output"
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        with self._output.open("w") as output:
            self.popen = subprocess.Popen(
                [sys.executable, str(HERE / script), *arguments],
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONPATH": path, **environment},
            )

    @property
    def log(self) -> str:
        return without_middleware(self._output.read_text())

    def lines(self, text: str) -> list[str]:
        """Lines of the log that contain the text."""
        return [line for line in self.log.splitlines() if text in line]

    def wait_for_log(self, text: str) -> None:
        wait_for(lambda: text in self.log or self.popen.poll() is not None)
        assert text in self.log, f"'{text}' is not in the log:\n{self.log}"

    def wait(self) -> int:
        return self.popen.wait(PATIENCE)

    def stop(self, number: int = signal.SIGINT) -> tuple[int, float]:
        """Send the signal; exit code and seconds until the end."""
        started = time.monotonic()
        self.popen.send_signal(number)
        return self.wait(), time.monotonic() - started

    def close(self) -> None:
        self.popen.send_signal(signal.SIGINT)  # at SIGTERM, launch leaves its processes behind
        try:
            self.popen.wait(15.0)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()
        self._folder.cleanup()


@contextmanager
def process(script: str, *arguments: str, **environment: str) -> Iterator[Process]:
    child = Process(script, *arguments, **environment)
    try:
        yield child
    finally:
        child.close()


def toy_node(*parameters: str, **environment: str) -> Any:
    """The node around the toy model, with parameters such as "window.length:=4"."""
    return process("toy_node.py", *ros_arguments(*parameters), **environment)


def ros_arguments(*parameters: str) -> list[str]:
    return ["--ros-args", *(word for parameter in parameters for word in ("-p", parameter))]


class LocalNode:
    """The node in the test's own process, which saves the start of one; its executor runs in a
    thread."""

    def __init__(
        self,
        output: pytest.CaptureFixture[str],
        *parameters: str,
        model_opener: OpenModel = ToyModel,
        file: Path | None = None,
    ) -> None:
        """file: of parameters, as ros2 param dump writes it."""
        self._output = output
        self._log = ""
        self._context = Context()
        self._stop = False
        arguments = ros_arguments(*parameters)
        arguments += ["--params-file", str(file)] if file else []
        rclpy.init(args=arguments, context=self._context)
        self.node = StemsegNode(model_opener, lambda: self._stop, context=self._context)
        self._thread = threading.Thread(target=self._spin)
        self._thread.start()

    def _spin(self) -> None:
        executor = SingleThreadedExecutor(context=self._context)
        executor.add_node(self.node)
        self.node.start()
        while not self._stop:
            executor.spin_once(timeout_sec=0.1)
        executor.shutdown()

    @property
    def log(self) -> str:
        captured = self._output.readouterr()
        self._log += without_middleware(captured.out + captured.err)
        return self._log

    def lines(self, text: str) -> list[str]:
        """Lines of the log that contain the text."""
        return [line for line in self.log.splitlines() if text in line]

    def wait_for_log(self, text: str) -> None:
        assert wait_for(lambda: text in self.log), f"'{text}' is not in the log:\n{self._log}"

    def close(self) -> None:
        self._stop = True
        self._thread.join()
        self.node.close()
        self.node.destroy_node()
        rclpy.shutdown(context=self._context)


def wait_for(condition: Callable[[], object], patience: float = PATIENCE) -> bool:
    deadline = time.monotonic() + patience
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


class Peer:
    """A node in the test's own process: sends images, collects instances, calls services."""

    def __init__(self, reliability: ReliabilityPolicy = ReliabilityPolicy.RELIABLE) -> None:
        self._context = Context()
        rclpy.init(context=self._context)
        self.node = Node("peer", context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        qos = QoSProfile(depth=200, reliability=reliability)
        self.publisher = self.node.create_publisher(Image, "image", qos)
        self.received: list[InstanceArray] = []
        self.answers = self.subscribe(InstanceArray, "stemseg/instances", self.received)

    def subscribe(self, kind: type, topic: str, into: list[Any]) -> Any:
        qos = QoSProfile(depth=200, reliability=ReliabilityPolicy.RELIABLE)
        return self.node.create_subscription(kind, topic, into.append, qos)

    def spin_until(self, condition: Callable[[], object], patience: float = PATIENCE) -> bool:
        deadline = time.monotonic() + patience
        while not condition():
            if time.monotonic() > deadline:
                return False
            self._executor.spin_once(timeout_sec=0.05)
        return True

    def spin_for(self, seconds: float) -> None:
        self.spin_until(lambda: False, seconds)

    def connect(self) -> None:
        """Wait until the node listens and its answers arrive.

        Subscriptions are announced in order: a node that answers a service knows of those made
        before.
        """
        assert self.spin_until(self.publisher.get_subscription_count), "the node does not listen"
        self.connect_answers()

    def connect_answers(self) -> None:
        """Wait until the answers of the node arrive."""
        assert self.spin_until(self.answers.get_publisher_count), "the node does not answer"
        self.call(GetState, "stemseg/get_state", GetState.Request())

    def call(self, kind: Any, name: str, request: Any) -> Any:
        """The answer of a service.

        A question of state is repeated: the node may be asked before it knows where to answer to.
        """
        client = self._client(kind, name)
        for _ in range(10 if kind is GetState else 1):
            future = client.call_async(request)
            if self.spin_until(future.done, PATIENCE / 10 if kind is GetState else PATIENCE):
                break
        assert future.done(), f"no answer of {name}"
        self.node.destroy_client(client)
        return future.result()

    def _client(self, kind: Any, name: str) -> Any:
        # Made anew from time to time: on a starved machine the discovery of one now and then
        # stays half done.
        for _ in range(6):
            client = self.node.create_client(kind, name)
            if self.spin_until(client.service_is_ready, PATIENCE / 6):
                return client
            self.node.destroy_client(client)
        raise AssertionError(f"no service {name}")

    def trigger(self, name: str) -> Any:
        return self.call(Trigger, f"stemseg/{name}", Trigger.Request())

    def stamps(self) -> list[int]:
        return [message.header.stamp.sec for message in self.received]

    def expect(self, number: int) -> list[InstanceArray]:
        """The answers, once there are as many."""
        complete = self.spin_until(lambda: len(self.received) >= number)
        assert complete, f"{len(self.received)} of {number} answers"
        return self.received

    def close(self) -> None:
        self._executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown(context=self._context)


def scene(shift: int = 0, size: tuple[int, int] = (24, 40)) -> np.ndarray:
    """BGR, two objects in the blue channel, ids 5 and 9, the second one moving."""
    image = np.zeros((*size, 3), np.uint8)
    image[4:10, 3:12, 0] = 5
    image[12:20, 6 + shift : 14 + shift, 0] = 9
    return image


def message(
    image: np.ndarray, second: int, frame_id: str = "camera_optical", **fields: Any
) -> Image:
    """An image message with the given stamp; fields override what the picture says."""
    result = Image(
        height=image.shape[0],
        width=image.shape[1],
        encoding="bgr8",
        step=image.shape[1] * 3,
        data=array("B", image.tobytes()),
    )
    result.header.stamp.sec, result.header.frame_id = second, frame_id
    for name, value in fields.items():
        setattr(result, name, value)
    return result
