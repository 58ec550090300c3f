"""Time and order at the seam of a camera: messages through the real model around a fake engine
that reads colours, without a node."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")

from colour_engine import colour_model, scene
from ros.harness import message

from stemseg_ros.config import Config, update_config
from stemseg_ros.models.stemseg.settings import load_settings
from stemseg_ros.records import FrameResult
from stemseg_ros.ros.health.camera_health import CameraHealth
from stemseg_ros.ros.inference.camera_group import CameraGroup
from stemseg_ros.ros.inference.camera_stream import CameraStream
from stemseg_ros.ros.input.frame_queue import FrameQueue, Waiting
from stemseg_ros.ros.output.publishers import Source

pytestmark = pytest.mark.ros

SIZE = (64, 96)
FIRST_EPOCH = 5


class Log:
    """A logger that keeps its lines."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.info = self.warning = self.lines.append


class Results:
    """Keeps what is published: (stamp in seconds, epoch from 0, track ids)."""

    overlay_wanted = False

    def __init__(self) -> None:
        self.out: list[tuple[float, int, tuple[int, ...]]] = []

    def publish(self, source: Source, result: FrameResult) -> None:
        stamp = source.header.stamp.sec + source.header.stamp.nanosec / 1e9
        ids = tuple(i.track_id for i in result.instances)
        self.out.append((round(stamp, 3), result.epoch - FIRST_EPOCH, ids))

    def update(self, config: Config) -> None:
        pass


class Recorded:
    """A camera without a topic, what comes out of it, and what it logs."""

    def __init__(self, **settings: Any) -> None:
        small = {"input.min_dim": 64, "input.max_dim": 96, "output.min_area": 0}
        window = {"window.length": 4, "window.overlap": 2}
        self.config = load_settings("lite", small | window | settings)
        log: Any = Log()
        self.log: list[str] = log.lines
        self.results: Any = Results()
        self.queue = FrameQueue(self.config.node, 2)
        self.health = CameraHealth(log, "", "/image")
        model = colour_model(self.config)
        self.camera = CameraStream(
            model.stream(), self.queue, self.results, self.health, FIRST_EPOCH
        )
        self.memory: list[str] = []
        self.group = CameraGroup(model, [self.camera], lambda: None, self.memory.append)

    def push(self, *stamps: float, size: tuple[int, int] = SIZE, encoding: str = "bgr8") -> None:
        for stamp in stamps:
            second, nanosecond = divmod(round(stamp * 1e9), 10**9)
            image = message(scene(size, (40, 1, 8, 8, 24)), second, encoding=encoding)
            image.header.stamp.nanosec = nanosecond
            self.queue.put(Waiting(image, 0.0))
            self.group.turn()

    def finish(self) -> tuple[list[float], list[int]]:
        self.camera.flush()
        out = self.results.out
        return [stamp for stamp, _, _ in out], [epoch for _, epoch, _ in out]

    def logged(self) -> list[str]:
        """The lines of the log, bursts included."""
        self.health.poll(finish=True)
        return self.log

    def count(self, name: str) -> int:
        statistics = self.health.statistics
        return int(statistics.values(statistics.period())[name])


@pytest.mark.parametrize(
    ("stamps", "answered", "epochs", "dropped"),
    [
        ([1, 2, 3, 4, 5], [1, 2, 3, 4, 5], [0] * 5, {}),
        # Repeated stamps and exchanged frames are dropped, and tracking goes on.
        ([1, 1.1, 1.1, 1.2], [1, 1.1, 1.2], [0] * 3, {"frames_duplicate": 1}),
        ([1, 1.2, 1.1, 1.3], [1, 1.2, 1.3], [0] * 3, {"frames_out_of_order": 1}),
        # A bag loop: what is pending comes out before the new epoch, and nothing is lost.
        ([1, 5, 9, 1, 5, 9], [1, 5, 9, 1, 5, 9], [0, 0, 0, 1, 1, 1], {}),
        (
            [1, 1.1, 1.2, 1.3, 1, 1.1, 1.2, 1.3],
            [1, 1.1, 1.2, 1.3, 1, 1.1, 1.2, 1.3],
            [0, 0, 0, 0, 1, 1, 1, 1],
            {},
        ),
        # Stamps far ahead; a lone one is a glitch.
        ([1, 2, 13, 14], [1, 2, 13, 14], [0, 0, 1, 1], {}),
        ([1, 2, 13, 3, 4], [1, 2, 3, 4], [0] * 4, {"frames_out_of_order": 1}),
        # A driver that sets no stamps, and one that forgets a single one.
        ([0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0], {}),
        ([7, 8, 0, 9], [7, 8, 9], [0] * 3, {"frames_out_of_order": 1}),
    ],
)
def test_stamps(
    stamps: Sequence[float], answered: list[float], epochs: list[int], dropped: dict[str, int]
) -> None:
    it = Recorded()
    it.push(*stamps)
    assert it.finish() == (answered, epochs)
    for name in ("frames_duplicate", "frames_out_of_order"):
        assert it.count(name) == dropped.get(name, 0)
    lines = it.logged()
    assert len([line for line in lines if "tracking starts anew" in line]) == max(epochs)
    assert len([line for line in lines if "dropped" in line]) == sum(dropped.values())


def test_a_new_size_begins_an_epoch() -> None:
    it = Recorded()
    it.push(1, 2)
    it.push(3, 4, size=(64, 80))
    assert it.finish() == ([1, 2, 3, 4], [0, 0, 1, 1])
    assert it.logged() == [
        "the image size changed from 96x64 to 80x64: tracking starts anew, "
        f"epoch {FIRST_EPOCH + 1}"
    ]


def test_a_new_size_with_a_jump_begins_one_epoch() -> None:
    it = Recorded()
    it.push(11, 12)
    it.push(3, 4, size=(64, 80))
    assert it.finish() == ([11, 12, 3, 4], [0, 0, 1, 1])
    assert len(it.logged()) == 1


def test_a_new_encoding_is_reported_and_tracking_goes_on() -> None:
    it = Recorded()
    it.push(1, 2)
    it.push(3, 4, encoding="8UC3")
    assert it.finish() == ([1, 2, 3, 4], [0] * 4)
    assert it.logged() == ["the encoding changed from 'bgr8' to '8UC3'; tracking continues"]
    assert {ids for _, _, ids in it.results.out} == {(1,)}


@pytest.mark.parametrize(
    ("now", "epochs"),
    [
        (2.0, [0, 0, 1, 1]),  # back, and frames of the new time have yet to come
        (1e6, [0, 0, 1, 1]),  # ahead
        (101.5, [0, 0, 0, 0]),  # the stream is there already
    ],
)
def test_a_jump_of_the_clock_begins_an_epoch(now: float, epochs: list[int]) -> None:
    it = Recorded()
    it.push(100, 101)
    it.group.clock_jumped(round(now * 1e9))
    it.push(102, 103)
    assert it.finish()[1] == epochs
    assert len(it.logged()) == max(epochs)


def test_a_jump_of_the_clock_and_of_the_stamps_is_one_epoch() -> None:
    it = Recorded()
    it.push(100, 101)
    it.group.clock_jumped(0)  # before the first frame of the loop
    it.push(0.1, 0.2)
    it.push(100, 101, 0.1)
    it.group.clock_jumped(0)  # after it
    it.push(0.2)
    assert it.finish()[1] == [0, 0, 1, 1, 2, 2, 3, 3]


def test_a_clock_that_jumps_before_the_first_frame_changes_nothing() -> None:
    it = Recorded()
    it.group.clock_jumped(10**18)
    it.push(1, 2)
    assert it.finish() == ([1, 2], [0, 0])
    assert it.logged() == []


def test_after_a_reset_any_stamp_is_right() -> None:
    it = Recorded()
    it.push(100, 101)
    assert it.camera.reset() == 2
    it.push(5, 6)
    assert it.finish() == ([5, 6], [1, 1])
    assert it.logged() == []
    assert (it.count("frames_dropped"), it.count("dropped.reset")) == (2, 2)


def test_a_changed_gap_takes_effect() -> None:
    it = Recorded()
    it.camera.update(update_config(it.config, {"stream.max_gap": 0.0}))
    it.push(1, 100)
    assert it.finish()[1] == [0, 0]


def test_a_frame_that_cannot_be_decoded_is_refused() -> None:
    it = Recorded()
    it.push(1, 2)
    it.push(3, encoding="none")
    it.push(4)
    assert it.finish() == ([1, 2, 4], [0] * 3)
    assert it.count("frames_refused") == 1
    assert it.logged()[0].startswith("image refused on /image: ")
    assert not it.queue.serving


def test_a_frame_whose_new_epoch_fails_is_lost_and_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails() -> Any:
        raise RuntimeError("poisoned")

    it = Recorded()
    it.push(1, 2)
    monkeypatch.setattr(it.camera.stream._tracker, "finish", fails)
    it.push(3, size=(64, 80))
    assert it.count("frames_failed") == 3
    (line,) = it.logged()
    assert line == "3 frames lost and tracking reset, the model failed: RuntimeError: poisoned"
    it.push(4, 5)
    assert it.finish()[0] == [4, 5]


def test_a_result_that_cannot_be_published_is_lost_and_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(source: Source, result: FrameResult) -> None:
        raise RuntimeError("no publisher")

    it = Recorded()
    it.push(1, 2, 3)
    monkeypatch.setattr(it.results, "publish", fails)
    with pytest.raises(RuntimeError, match="no publisher"):
        it.group.flush([it.camera])
    assert it.count("frames_failed") == 3
    assert it.camera.pending == 0


def test_a_lack_of_memory_is_reported_once_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(function: str, batch: Any) -> Any:
        raise MemoryError("no room")

    it = Recorded()
    monkeypatch.setattr(it.group._model.engine, "run", fails)
    it.push(1)
    assert it.memory == ["MemoryError: no room"]


@pytest.mark.parametrize("policy", ["drop_oldest", "drop_newest", "stride"])
def test_windows_hold_what_was_processed_one_after_the_other(policy: str) -> None:
    """Three times as many frames as are served: every one that is taken is answered, in order, in
    one epoch and with one id."""
    it = Recorded(**{"node.load_policy": policy, "node.queue_size": 3})
    now = 0.0
    queue = FrameQueue(it.config.node, it.config.window.stride, clock=lambda: now)
    taken = []
    for index in range(120):
        queue.put(Waiting(1 + index / 10, now))
        now += 0.1
        if index % 3 == 0 and (frame := queue.take().frame) is not None:
            taken.append(frame.message)
            it.push(frame.message)
            now += 0.2  # the turn
            queue.done()
            now -= 0.2
    stamps, epochs = it.finish()
    np.testing.assert_allclose(stamps, taken)
    assert len(stamps) >= 40 // (3 if policy == "stride" else 1)
    assert set(epochs) == {0}
    assert {ids for _, _, ids in it.results.out} == {(1,)}
    assert it.logged() == []
