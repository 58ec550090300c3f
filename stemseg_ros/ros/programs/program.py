"""Common parts of the ROS programs: start, spinning until a condition holds, a clean end."""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import IO, Any

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from stemseg_ros.errors import StemsegError

SPIN_S = 0.05
"""Longest time in seconds until a signal is noticed."""


class Stopped(Exception):
    """SIGINT or SIGTERM arrived."""


class ProgramError(StemsegError):
    """The other side of a topic or service is missing or silent; the message names it."""


class Program:
    """A node with its executor; one thread does everything."""

    def __init__(
        self, node: Node, executor: SingleThreadedExecutor, stop: threading.Event
    ) -> None:
        self.node = node
        self._executor = executor
        self._stop = stop

    def spin_until(self, holds: Callable[[], object], timeout_s: float | None = None) -> bool:
        """Serve callbacks until ``holds()``; False after timeout_s seconds. Raises Stopped on a
        signal."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while not holds():
            if self._stop.is_set():
                raise Stopped
            left = SPIN_S if deadline is None else min(SPIN_S, deadline - time.monotonic())
            if left <= 0:
                return False
            self._executor.spin_once(timeout_sec=left)
        return True

    def spin_for(self, seconds: float) -> None:
        """Serve callbacks for a while. Raises Stopped on a signal."""
        self.spin_until(lambda: False, seconds)


@contextmanager
def ros_program(name: str, args: list[str] | None) -> Iterator[Program]:
    """A running node of that name; SIGINT and SIGTERM set a flag instead of tearing the context
    down."""
    stop = threading.Event()

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    previous = {
        number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)
    }
    rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    node = Node(name)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    try:
        yield Program(node, executor, stop)
    finally:
        executor.shutdown()
        node.destroy_node()
        rclpy.shutdown()
        for number, handler in previous.items():
            signal.signal(number, handler)


def exit_code(name: str, work: Callable[[], None]) -> int:
    """Run the work and return the exit code: 0, 130 when stopped by a signal, 1 for a silent peer,
    2 for the user's mistakes."""
    try:
        work()
    except Stopped:
        return 130
    except StemsegError as error:
        print(f"{name}: {error}", file=sys.stderr, flush=True)
        return 1 if isinstance(error, ProgramError) else 2
    return 0


class JsonLines:
    """A file of one JSON object a line, readable while it grows; without a path nothing is
    written."""

    def __init__(self, path: Path | None) -> None:
        self._file: IO[str] | None = None
        if path is not None:
            try:
                self._file = path.open("w", encoding="utf-8")
            except OSError as error:
                raise StemsegError(f"cannot write '{path}': {error.strerror}") from error

    def write(self, **values: Any) -> None:
        """Append one object."""
        if self._file is not None:
            print(json.dumps(values), file=self._file, flush=True)

    def __enter__(self) -> JsonLines:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()
