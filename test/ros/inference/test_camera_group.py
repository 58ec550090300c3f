"""A worker thread that was abandoned and returns does nothing."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")

from stemseg_ros.records import FrameResult
from stemseg_ros.ros.inference.camera_group import CameraGroup
from stemseg_ros.ros.inference.worker import WorkerClosed

pytestmark = pytest.mark.ros


class HangingCamera:
    """Notes what is done to it; ``hang`` runs at each step."""

    def __init__(self, name: str, calls: list[str], hang: Callable[[], None]) -> None:
        self.name, self.calls, self.hang = name, calls, hang
        self.stream = name
        self.pending = 1

    def _step(self, what: str) -> None:
        self.calls.append(f"{what} {self.name}")
        self.hang()

    def take(self) -> str | None:
        with suppress(MemoryError):
            self._step("take")
        return "frame"

    def finish(self, frame: str, results: list[FrameResult]) -> None:
        self._step("finish")

    def flush(self) -> None:
        self._step("flush")

    def clock_jumped(self, now_ns: int) -> None:
        self._step("jump")

    def seconds_to_pause(self) -> float:
        return 0.0

    def done(self) -> None:
        self.calls.append(f"done {self.name}")

    def failed(self, error: Exception) -> None:
        self.calls.append(f"failed {self.name}")


class Model:
    def __init__(self, calls: list[str], hang: Callable[[], None]) -> None:
        self.calls, self.hang = calls, hang

    def push_all(self, turns: list[Any]) -> list[list[FrameResult]]:
        self.calls.append("push")
        with suppress(MemoryError):
            self.hang()
        return [[] for _ in turns]


@pytest.mark.parametrize(
    ("step", "hanging", "done"),
    [
        (lambda group: group.turn(), "take front", ["take front"]),
        (lambda group: group.turn(), "push", ["take front", "take rear", "push"]),
        (lambda group: group.pause(), "flush front", ["flush front"]),
        (lambda group: group.flush(group.streams), "flush front", ["flush front"]),
        (lambda group: group.clock_jumped(5), "jump front", ["jump front"]),
    ],
)
def test_a_thread_that_was_given_up_touches_nothing_any_more(
    step: Callable[[CameraGroup], object], hanging: str, done: list[str]
) -> None:
    calls: list[str] = []

    def hang() -> None:
        if calls[-1] == hanging:
            raise MemoryError("comes back late")

    def check() -> None:
        if calls[-1] == hanging:
            raise WorkerClosed("abandoned")

    model: Any = Model(calls, hang)
    cameras: Any = [HangingCamera(name, calls, hang) for name in ("front", "rear")]
    group = CameraGroup(model, cameras, check, lambda what: calls.append(f"memory {what}"))
    with pytest.raises(WorkerClosed):
        step(group)
    assert calls == done
