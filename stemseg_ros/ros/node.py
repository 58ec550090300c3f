"""The lifecycle node: images in, tracked instances out."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NoReturn

import rclpy
from diagnostic_msgs.msg import DiagnosticStatus
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.exceptions import ParameterException
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.signals import SignalHandlerOptions
from rclpy.utilities import remove_ros_args, try_shutdown

from stemseg_ros.errors import StemsegError
from stemseg_ros.execution.device import resolve_device
from stemseg_ros.ros.health.diagnostics import Diagnostics, diagnostic
from stemseg_ros.ros.health.throttled_log import counted
from stemseg_ros.ros.inference.camera import Camera
from stemseg_ros.ros.inference.supervisor import (
    ModelRequest,
    OpenModel,
    Supervisor,
    SupervisorError,
)
from stemseg_ros.ros.input.clock_watch import ClockWatch
from stemseg_ros.ros.input.frame_queue import FrameQueue
from stemseg_ros.ros.managed_node import ManagedNode, logged
from stemseg_ros.ros.parameters import (
    changed_config,
    check_checkpoint,
    declare_parameters,
    real_numbers,
)
from stemseg_ros.ros.services import Services
from stemseg_ros.stream import open_model

SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE
JOIN_SECONDS = 1.0
"""Seconds that the end of the process waits for the batch in progress."""
LAST_SECONDS = 0.5
"""Seconds that a node that was shut down keeps its topics, so that its last messages arrive."""
WATCH_SECONDS = 0.2
"""Watchdog period, in seconds."""


class StemsegNode(ManagedNode):
    """Segments and tracks the instances on one or several image topics.

    One thread runs the callbacks, which only check and queue; the supervisor's worker owns the
    device, decodes and publishes. Raises ParameterError on construction if a parameter is wrong.
    ``stopping`` tells whether the process is to end.
    """

    def __init__(
        self,
        model_opener: OpenModel = open_model,
        stopping: Callable[[], bool] = lambda: False,
        **node_options: Any,
    ) -> None:
        super().__init__("stemseg", **node_options)
        self.parameters = declare_parameters(self)
        self._config = self.parameters.config
        frames_wait = threading.Condition()
        self._cameras = [
            self._make_camera(name, frames_wait) for name in self._config.node.cameras or ("",)
        ]
        self._supervisor = Supervisor(
            self._cameras, frames_wait, model_opener, stopping, self.get_logger()
        )
        self._diagnostics = Diagnostics(self, self._statuses)
        self._clock_watch: ClockWatch | None = None
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(1.0, self._poll, clock=steady)
        self.create_timer(WATCH_SECONDS, self._watch, clock=steady)
        self.add_pre_set_parameters_callback(partial(real_numbers, self._config))
        self.add_on_set_parameters_callback(self._check_parameters)
        self.add_post_set_parameters_callback(self._apply_parameters)
        Services(self, self._cameras, self._supervisor, self._diagnostics.publish)

    def _make_camera(self, name: str, frames_wait: threading.Condition) -> Camera:
        config = self._config
        queue = FrameQueue(config.node, config.latency.frames_per_pass, frames_wait)
        return Camera(self, name, config, queue)

    @property
    def broken(self) -> str:
        """Reason why the process must end; empty if it need not."""
        return self._supervisor.broken

    # Lifecycle

    @logged
    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the model and warm it up; fails with one log line."""
        try:
            device = str(resolve_device(self.parameters.device))
            self.get_logger().info(f"loading the model '{self._config.name}' on {device}")
            checkpoint = self.get_parameter("checkpoint").value or None
            model = self._supervisor.load(ModelRequest(self._config, checkpoint, device))
        except Exception as error:  # of any kind: the node stays, and can be configured again
            self._supervisor.refuse(error)
            self.get_logger().error(f"cannot configure: {error}")
            return FAILURE
        for camera in self._cameras:
            camera.configure()
        self._supervisor.serve(model)
        self.get_logger().info(
            f"model '{self._config.name}' is ready on {self._supervisor.device} "
            f"after {time.monotonic() - self.requested_at:.1f} s: {self._supervisor.engine}"
        )
        return super().on_configure(state)

    @logged
    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Create publishers and subscriptions."""
        result = super().on_activate(state)
        self._watch_clock()
        for camera in self._cameras:
            camera.input.start()
        return result

    @logged
    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribe; drop waiting and pending frames."""
        waiting = self._stop_cameras()
        if self._supervisor.failed:
            raise SupervisorError(self._supervisor.failed)
        reset = partial(self._supervisor.reset, self._cameras)
        dropped = waiting + self._supervisor.call(reset)
        if dropped:
            self.get_logger().info(f"deactivated: {counted(dropped, 'pending frame')} dropped")
        return super().on_deactivate(state)

    @logged
    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free the device."""
        result = super().on_cleanup(state)
        self._release()
        return result

    @logged
    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free the device, from any state, for good."""
        result = super().on_shutdown(state)
        self._stop_cameras()
        self._release()
        return result

    @logged
    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Return to unconfigured after a transition that raised."""
        self._stop_cameras()
        self._release()
        return super().on_error(state)

    def start(self) -> None:
        """Configure and, where that succeeds, activate, unless that is left to a manager."""
        if not self.parameters.autostart:
            self.get_logger().info("unconfigured; waiting for configure")
        elif self.trigger_configure() == SUCCESS:
            self.trigger_activate()

    def close(self) -> None:
        """Unsubscribe and end the worker, unless its batch takes longer than JOIN_SECONDS."""
        self._stop_cameras()
        self._supervisor.close(JOIN_SECONDS)

    def _watch_clock(self) -> None:
        gap = self._config.stream.max_gap
        self._clock_watch = ClockWatch(self, gap, self._supervisor.clock_jumped)

    def _ignore_clock(self) -> None:
        if self._clock_watch is not None:
            self._clock_watch.close()
            self._clock_watch = None

    def _stop_cameras(self) -> int:
        """Unsubscribe and drop the waiting frames; returns their number."""
        self._ignore_clock()
        return sum(camera.stop() for camera in self._cameras)

    def _release(self) -> None:
        self._supervisor.release()
        for camera in self._cameras:
            camera.release()

    # Health

    def _poll(self) -> None:
        for camera in self._cameras:
            camera.health.poll()
        if self._clock_watch is not None:
            self._clock_watch.poll()

    def _watch(self) -> None:
        if self._supervisor.stalled:
            self._diagnostics.publish()  # no one is notified while the model is loaded again
        self._supervisor.watch()
        if self._supervisor.failed and self.state == "active":
            self.trigger_deactivate()  # which raises: through the error state to unconfigured

    def _statuses(self) -> list[DiagnosticStatus]:
        device = self._supervisor.device
        values = {"state": self.state} | self._supervisor.values()
        worker = diagnostic(self, "worker", self._supervisor.level(), device, values)
        return [*(camera.status(device) for camera in self._cameras), worker]

    # Parameters

    def _check_parameters(self, parameters: list[Parameter]) -> SetParametersResult:
        try:
            changed_config(self._config, parameters)
            for parameter in parameters:
                if parameter.name == "checkpoint":
                    check_checkpoint(parameter.value, self._config.node.remote_checkpoints)
        except StemsegError as error:
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)

    def _apply_parameters(self, parameters: list[Parameter]) -> None:
        config = changed_config(self._config, parameters)
        if config != self._config:
            changes = ", ".join(f"{p.name} = {p.value}" for p in parameters)
            self.get_logger().info(f"settings changed: {changes}")
            self._config = config
            self._supervisor.update(config)
            if self._clock_watch is not None:
                self._ignore_clock()
                self._watch_clock()  # with the present stream.max_gap


class _StopSignals:
    """Turns SIGINT and SIGTERM into a flag, so that the node ends at a safe point."""

    def __init__(self) -> None:
        self._stop = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_signal)

    def _on_signal(self, *_: object) -> None:
        self._stop = True

    def __call__(self) -> bool:
        return self._stop


def main(arguments: Sequence[str] | None = None, model_opener: OpenModel = open_model) -> int:
    """Run the node until SIGINT or SIGTERM ends the process. Returns 2 for a wrong parameter; the
    exit code is 1 after a failure that the node cannot recover from, for respawn to take over."""
    stopping = _StopSignals()
    arguments = sys.argv if arguments is None else [sys.argv[0], *arguments]
    parser = argparse.ArgumentParser(
        prog="stemseg_node",
        description="Video instance segmentation on an image topic. Everything is set by ROS "
        "arguments, e.g.: stemseg_node --ros-args -r image:=/camera/image_raw -p device:=cpu",
    )
    try:
        parser.parse_args(remove_ros_args(list(arguments))[1:])
        rclpy.init(args=list(arguments), signal_handler_options=SignalHandlerOptions.NO)
        node = StemsegNode(model_opener, stopping)
    except (StemsegError, ParameterException, RuntimeError) as error:
        print(f"stemseg_node: {str(error).splitlines()[0]}", file=sys.stderr)
        return 2
    _spin(node, stopping)


def _spin(node: StemsegNode, stopping: Callable[[], bool]) -> NoReturn:
    node.start()
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    while not stopping() and not node.broken and node.state != "finalized":
        executor.spin_once(timeout_sec=0.1)
    if node.broken:
        node.get_logger().fatal(f"the process ends: {node.broken}")
    elif not stopping():
        node.get_logger().info("shut down: the process ends")
        _serve_on(executor, LAST_SECONDS)
    node.close()
    executor.shutdown()
    node.destroy_node()
    try_shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    # Everything is closed. The interpreter would go on to tear torch down, maybe under a batch in
    # progress, which takes seconds on a busy machine.
    os._exit(1 if node.broken else 0)


def _serve_on(executor: SingleThreadedExecutor, seconds: float) -> None:
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        executor.spin_once(timeout_sec=left)
