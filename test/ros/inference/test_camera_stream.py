"""Time and order at the seam of the stream: the real pipeline around a network that reads colours,
without a node."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")

from colour_network import ColourNetwork, scene
from std_msgs.msg import Header
from stemseg_ros.models.stemseg.pipeline import Pipeline

from stemseg_ros.config import Config, load_config
from stemseg_ros.records import FrameResult
from stemseg_ros.ros.inference.camera_stream import Source, Stream, push_frames
from stemseg_ros.ros.input.frame_queue import FrameQueue, Waiting

pytestmark = pytest.mark.ros

SIZE = (64, 96)


def config(**settings: Any) -> Config:
    base = {
        "input.min_dim": 64,
        "input.max_dim": 96,
        "window.length": 4,
        "window.overlap": 2,
        "output.min_area": 0,
    }
    return load_config("lite", base | settings)


class Recorded:
    """A stream, what comes out of it, and what it tells."""

    def __init__(self, **settings: Any) -> None:
        self.config = config(**settings)
        self.out: list[tuple[float, int, tuple[int, ...]]] = []
        """(stamp in seconds, epoch, track ids)"""
        self.events: list[tuple[str, str]] = []
        self.stream = Stream(
            self.publish,
            lambda stage_ms: None,
            lambda kind, text: self.events.append((kind, text)),
            self.config.node.max_gap,
        )
        network: Any = ColourNetwork(self.config)
        self.stream.open(Pipeline(self.config, network=network))
        self.first_epoch = self.stream.epoch

    def publish(self, source: Source, result: FrameResult) -> None:
        stamp = source.header.stamp.sec + source.header.stamp.nanosec / 1e9
        ids = tuple(i.track_id for i in result.instances)
        self.out.append((round(stamp, 3), result.epoch - self.first_epoch, ids))

    def push(self, *stamps: float, size: tuple[int, int] = SIZE, encoding: str = "bgr8") -> None:
        for stamp in stamps:
            header = Header()
            header.stamp.sec, fraction = divmod(round(stamp * 1e9), 10**9)
            header.stamp.nanosec = fraction
            image = scene(size, (40, 1, 8, 8, 24))
            assert not push_frames([(self.stream, image, Source(header, None, encoding))])

    def finish(self) -> tuple[list[float], list[int]]:
        self.stream.flush()
        return [stamp for stamp, _, _ in self.out], [epoch for _, epoch, _ in self.out]

    def told(self) -> list[str]:
        return [kind for kind, _ in self.events]


@pytest.mark.parametrize(
    ("stamps", "answered", "epochs", "told"),
    [
        ([1, 2, 3, 4, 5], [1, 2, 3, 4, 5], [0] * 5, []),
        # Duplicated stamps and exchanged frames are dropped, and tracking goes on.
        ([1, 1.1, 1.1, 1.2], [1, 1.1, 1.2], [0] * 3, ["frames_duplicate"]),
        ([1, 1.2, 1.1, 1.3], [1, 1.2, 1.3], [0] * 3, ["frames_out_of_order"]),
        # A bag loop: what is pending comes out before the new epoch.
        ([1, 5, 9, 1, 5, 9], [1, 5, 9, 1, 5, 9], [0, 0, 0, 1, 1, 1], ["epoch"]),
        # One of a bag below a second loses the two frames that tell it from exchanged ones.
        (
            [1, 1.1, 1.2, 1.3, 1, 1.1, 1.2, 1.3],
            [1, 1.1, 1.2, 1.3, 1.2, 1.3],
            [0, 0, 0, 0, 1, 1],
            ["frames_out_of_order", "frames_out_of_order", "epoch"],
        ),
        # Stamps far ahead.
        ([1, 2, 13, 14], [1, 2, 13, 14], [0, 0, 1, 1], ["epoch"]),
        # A driver that sets no stamps.
        ([0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0], []),
    ],
)
def test_stamps(
    stamps: Sequence[float], answered: list[float], epochs: list[int], told: list[str]
) -> None:
    it = Recorded()
    it.push(*stamps)
    assert it.finish() == (answered, epochs)
    assert it.told() == told


def test_a_new_size_begins_an_epoch() -> None:
    it = Recorded()
    it.push(1, 2)
    it.push(3, 4, size=(64, 80))
    assert it.finish() == ([1, 2, 3, 4], [0, 0, 1, 1])
    assert it.events == [
        (
            "epoch",
            "the image size changed from 96x64 to 80x64: tracking starts anew, "
            f"epoch {it.first_epoch + 1}",
        )
    ]


def test_a_new_size_with_a_jump_begins_one_epoch() -> None:
    it = Recorded()
    it.push(11, 12)
    it.push(3, 4, size=(64, 80))
    assert it.finish() == ([11, 12, 3, 4], [0, 0, 1, 1])
    assert it.told() == ["epoch"]


def test_a_new_encoding_is_told_and_tracking_goes_on() -> None:
    it = Recorded()
    it.push(1, 2)
    it.push(3, 4, encoding="mono8")
    assert it.finish() == ([1, 2, 3, 4], [0] * 4)
    assert it.events == [
        ("encoding", "the encoding changed from 'bgr8' to 'mono8'; tracking goes on")
    ]
    assert {ids for _, _, ids in it.out} == {(1,)}


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
    it.stream.clock_jumped(round(now * 1e9))
    it.push(102, 103)
    assert it.finish()[1] == epochs
    assert it.told() == ["epoch"] * max(epochs)


def test_a_jump_of_the_clock_and_of_the_stamps_is_one_epoch() -> None:
    it = Recorded()
    it.push(100, 101)
    it.stream.clock_jumped(0)  # before the first frame of the loop
    it.push(0.1, 0.2)
    it.push(100, 101, 0.1)
    it.stream.clock_jumped(0)  # after it
    it.push(0.2)
    assert it.finish()[1] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert len(it.told()) == 3


def test_a_clock_that_jumps_before_the_first_frame_changes_nothing() -> None:
    it = Recorded()
    it.stream.clock_jumped(10**18)
    it.push(1, 2)
    assert it.finish() == ([1, 2], [0, 0])
    assert it.events == []


def test_after_a_reset_any_stamp_is_right() -> None:
    it = Recorded()
    it.push(100, 101)
    assert it.stream.reset() == 2
    it.push(5, 6)
    assert it.finish() == ([5, 6], [1, 1])
    assert it.events == []


def test_a_changed_gap_takes_effect() -> None:
    it = Recorded()
    it.stream.update(config(**{"node.max_gap": 0.0}))
    it.push(1, 100)
    assert it.finish()[1] == [0, 0]


def test_a_frame_whose_new_epoch_fails_is_lost_and_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails() -> list[FrameResult]:
        raise RuntimeError("poisoned")

    it = Recorded()
    it.push(1, 2)
    monkeypatch.setattr(it.stream.pipeline, "flush", fails)
    source = Source(Header(), None, "bgr8")
    ((stream, error),) = push_frames([(it.stream, scene((64, 80), (40, 1, 8, 8, 24)), source)])
    assert (stream, str(error)) == (it.stream, "poisoned")
    assert it.stream.reset() == 3


def test_a_frame_that_cannot_be_published_is_lost_and_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(source: Source, result: FrameResult) -> None:
        raise RuntimeError("no publisher")

    it = Recorded()
    it.push(1, 2, 3)
    monkeypatch.setattr(it.stream, "_publish", fails)
    with pytest.raises(RuntimeError, match="no publisher"):
        it.stream.flush()
    assert it.stream.reset() == 3


@pytest.mark.parametrize("policy", ["drop_oldest", "drop_newest", "stride"])
def test_windows_hold_what_was_processed_one_after_the_other(policy: str) -> None:
    """Three times as many frames as are served: every one that is taken is answered, in order, in
    one epoch and with one id."""
    it = Recorded(**{"node.load_policy": policy, "node.queue_size": 3})
    now = 0.0
    queue = FrameQueue(it.config.node, it.config.window.stride, lambda *_: None, lambda: now)
    taken = []
    for index in range(120):
        queue.put(Waiting(1 + index / 10, now))
        now += 0.1
        if index % 3 == 0 and (frame := queue.take()) is not None:
            taken.append(frame.message)
            it.push(frame.message)
            now += 0.2  # the turn
            queue.done()
            now -= 0.2
    stamps, epochs = it.finish()
    np.testing.assert_allclose(stamps, taken)
    assert len(stamps) >= 40 // (3 if policy == "stride" else 1)
    assert set(epochs) == {0}
    assert {ids for _, _, ids in it.out} == {(1,)}
    assert it.events == []
