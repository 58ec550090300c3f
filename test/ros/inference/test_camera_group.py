"""What a worker's thread does that was given up and comes back."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")

from stemseg_ros.ros.inference.camera_group import CameraRig

pytestmark = pytest.mark.ros


class Stream:
    """Notes what is done to it; ``hang`` runs at each step."""

    def __init__(self, name: str, calls: list[str], hang: Callable[[], None]) -> None:
        self.name, self.calls, self.hang = name, calls, hang
        self.pending = 1

    def flush(self) -> None:
        self.calls.append(f"flush {self.name}")
        self.hang()

    def clock_jumped(self, now_ns: int) -> None:
        self.calls.append(f"jump {self.name}")
        self.hang()

    def begin(self, image: Any, source: Any) -> bool:
        self.calls.append(f"begin {self.name}")
        return False


class Camera:
    def __init__(self, stream: Stream) -> None:
        self.stream = stream

    def seconds_to_pause(self) -> float:
        return 0.0

    def pause(self) -> None:
        self.stream.flush()

    def take(self) -> tuple[Stream, None, None]:
        self.stream.calls.append(f"take {self.stream.name}")
        if self.stream.name == "front":  # hangs in the decoder
            with suppress(RuntimeError):
                self.stream.hang()
        return self.stream, None, None

    def done(self) -> None:
        self.stream.calls.append(f"done {self.stream.name}")

    def failed(self, error: Exception) -> None:
        self.stream.calls.append(f"failed {self.stream.name}")


@pytest.mark.parametrize(
    ("step", "done"),
    [
        (lambda rig, cameras: rig.turn(), ["take front"]),
        (lambda rig, cameras: rig.pause(), ["flush front"]),
        (lambda rig, cameras: rig.flush(cameras), ["flush front"]),
        (lambda rig, cameras: rig.clock_jumped(5), ["jump front"]),
    ],
)
def test_a_thread_that_was_given_up_leaves_the_new_streams_alone(
    step: Callable[[Any, Any], object], done: list[str]
) -> None:
    calls: list[str] = []

    def replaced() -> None:
        """What the other thread does while this one hangs in the camera in front."""
        rig.abandoned = True
        for camera in cameras:
            camera.stream = Stream(f"new {camera.stream.name}", calls, lambda: None)
        raise MemoryError("comes back late") if not done[0].startswith("take") else RuntimeError

    cameras: Any = [Camera(Stream(name, calls, replaced)) for name in ("front", "rear")]
    rig = CameraRig(cameras, lambda what: calls.append(f"memory {what}"))
    with suppress(MemoryError):  # of the flush, for a caller that has given up
        step(rig, cameras)
    assert calls == done
