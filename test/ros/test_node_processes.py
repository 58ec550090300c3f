"""The node as a process of its own, over real DDS, around a model whose right answers are
known."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")
pytest.importorskip("stemseg.msg", reason="needs the built messages")

from rcl_interfaces.msg import Parameter as ParameterMessage
from rcl_interfaces.msg import ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from ros.harness import Peer, Process, message, process, ros_arguments, scene, toy_node, wait_for
from ros.toy_node import LOADING
from sensor_msgs.msg import Image

from stemseg_ros.masks import decode

pytestmark = pytest.mark.ros

ALL = "output.min_area:=0"
WINDOW = (ALL, "window.length:=4", "window.overlap:=2", "stream.flush_after:=0.0")
LENGTH = 4
WINDOW_SECONDS = 60.0
"""What a signal must not wait for: a window, or the loading of the model."""


@pytest.fixture(scope="module")
def node() -> Iterator[Process]:
    with toy_node(*WINDOW) as child:
        yield child


def send(peer: Peer, *seconds: int, **fields: Any) -> None:
    for second in seconds:
        peer.publisher.publish(message(scene(), second, **fields))


def set_parameter(peer: Peer, name: str, **value: Any) -> Any:
    parameter = ParameterMessage(name=name, value=ParameterValue(**value))
    answer = peer.call(
        SetParameters, "stemseg/set_parameters", SetParameters.Request(parameters=[parameter])
    )
    return answer.results[0]


def test_three_processes_keep_headers_order_and_ids(peer: Peer) -> None:
    frames = 11
    with toy_node(*WINDOW[:3], "stream.flush_after:=0.5"):
        peer.connect()
        with process("image_publisher.py", str(frames), "20"):
            received = peer.expect(frames)
    assert [(m.header.stamp.sec, m.header.stamp.nanosec, m.header.frame_id) for m in received] == [
        (100 + i, 7 * i, f"camera_{i % 3}") for i in range(frames)
    ]
    assert {tuple(i.track_id for i in m.instances) for m in received} == {(5, 9)}
    assert {m.epoch for m in received} == {0}
    for shift, answer in enumerate(received):
        mask = decode(bytes(answer.instances[1].mask_rle), (answer.height, answer.width))
        np.testing.assert_array_equal(mask, scene(shift)[..., 0] == 9)
        roi = answer.instances[1].roi
        assert (roi.x_offset, roi.y_offset, roi.width, roi.height) == (6 + shift, 12, 8, 8)


@pytest.mark.parametrize(
    ("number", "busy", "environment"),
    [
        (signal.SIGINT, "idle", {}),
        (signal.SIGTERM, "in a window", {"TOY_DELAY": str(WINDOW_SECONDS)}),
        (signal.SIGINT, "loading", {"TOY_LOAD_DELAY": str(WINDOW_SECONDS)}),
    ],
)
def test_signals_end_it_without_waiting_for_the_window(
    peer: Peer, number: int, busy: str, environment: dict[str, str]
) -> None:
    with toy_node(*WINDOW, **environment) as child:
        if busy == "loading":
            child.wait_for_log(LOADING)
        else:
            peer.connect()
            send(peer, 1, 2)
            peer.spin_for(0.3)
        code, seconds = child.stop(number)
        assert (code, seconds < WINDOW_SECONDS / 3) == (0, True), (
            f"exit code {code} after {seconds:.1f} s:\n{child.log}"
        )
        assert "Traceback" not in child.log


@pytest.mark.parametrize(
    ("number", "parameters"), [(signal.SIGINT, ()), (signal.SIGTERM, ("autostart:=false",))]
)
def test_it_leaves_no_shared_memory_behind(number: int, parameters: tuple[str, ...]) -> None:
    ready = "waiting for configure" if parameters else "is ready"
    before = set(Path("/dev/shm").glob("fast*"))  # what killed processes left behind
    with toy_node(*WINDOW, *parameters, FASTDDS_BUILTIN_TRANSPORTS="DEFAULT") as child:
        child.wait_for_log(ready)
        used = shared_memory_of(child.popen.pid) - before
        assert used, "the node uses no shared memory"
        assert child.stop(number)[0] == 0
        assert [path for path in sorted(used) if path.exists()] == []


def shared_memory_of(pid: int) -> set[Path]:
    """The files of Fast DDS in /dev/shm that a process has mapped."""
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    return {Path(line.split(maxsplit=5)[5]) for line in lines if " /dev/shm/fast" in line}


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"encoding": "rgb565"}, "'rgb565'"),
        ({"width": 0}, "without pixels"),
        ({"data": [1, 2, 3]}, "truncated"),
        ({"step": 11}, "step of 11"),
        ({"height": 100_000, "width": 100_000}, "at most"),
    ],
)
def test_bad_image_is_refused_in_one_line_and_the_stream_goes_on(
    node: Process, fresh: Peer, fields: dict[str, Any], reason: str
) -> None:
    before = len(node.lines(reason))
    send(fresh, 1, 2)
    send(fresh, 3, **fields)
    send(fresh, 4, 5, 6)
    fresh.expect(2)
    assert fresh.trigger("flush").success
    fresh.expect(5)
    assert fresh.stamps() == [1, 2, 4, 5, 6]
    assert {m.epoch for m in fresh.received} == {fresh.received[0].epoch}
    assert len(node.lines(reason)) == before + 1
    assert "image refused" in node.lines(reason)[-1]


def test_many_bad_images_are_logged_twice_at_most(fresh: Peer, node: Process) -> None:
    send(fresh, *range(6), encoding="rgb888x")
    assert wait_for(lambda: len(node.lines("rgb888x")) == 2)
    first, last = node.lines("rgb888x")
    assert "image refused" in first
    assert ": 6 in" in last


def test_failing_window_is_logged_and_the_stream_continues(fresh: Peer, node: Process) -> None:
    send(fresh, 1)
    poison = np.full((24, 40, 3), 99, np.uint8)
    fresh.publisher.publish(message(poison, 2))
    send(fresh, *range(3, 3 + LENGTH))
    fresh.expect(2)
    assert fresh.stamps() == [3, 4]
    assert len(node.lines("RuntimeError: poisoned")) == 1


def test_backward_stamp_begins_an_epoch(fresh: Peer) -> None:
    send(fresh, 10, 11, 12, 3, 4, 5, 6)
    received = fresh.expect(5)
    assert fresh.stamps() == [10, 11, 12, 3, 4]  # those before the jump come out, too
    first = received[0].epoch
    assert [m.epoch for m in received] == [first] * 3 + [first + 1] * 2


def test_new_size_begins_an_epoch(fresh: Peer) -> None:
    send(fresh, 1, 2)
    for second in range(3, 3 + LENGTH):
        fresh.publisher.publish(message(scene(size=(30, 50)), second))
    received = fresh.expect(4)
    first = received[0].epoch
    assert [(m.height, m.epoch) for m in received] == [(24, first)] * 2 + [(30, first + 1)] * 2


def test_reset_drops_the_window_after_the_frames_before_it(fresh: Peer) -> None:
    send(fresh, 1, 2, 3, 4, 5)
    fresh.expect(2)
    answer = fresh.trigger("reset")
    assert (answer.success, answer.message) == (
        True,
        "tracking starts anew; 3 pending frames dropped",
    )
    send(fresh, 6, 7, 8, 9)
    received = fresh.expect(4)
    assert fresh.stamps() == [1, 2, 6, 7]
    assert received[2].epoch > received[1].epoch


def test_flush_finishes_the_window(fresh: Peer) -> None:
    send(fresh, 1, 2, 3, 4, 5)
    fresh.expect(2)
    answer = fresh.trigger("flush")
    assert (answer.success, answer.message) == (True, "3 pending frames finished")
    fresh.expect(5)
    assert fresh.stamps() == [1, 2, 3, 4, 5]
    send(fresh, 6, 7, 8, 9)
    fresh.expect(7)
    assert len({m.epoch for m in fresh.received}) == 1  # tracking goes on


def test_an_empty_scene_has_a_result(fresh: Peer) -> None:
    for second in range(LENGTH):
        fresh.publisher.publish(message(np.zeros((24, 40, 3), np.uint8), second))
    assert [len(m.instances) for m in fresh.expect(2)] == [0, 0]


def test_label_image_and_overlay_come_while_somebody_subscribes(fresh: Peer) -> None:
    labels: list[Image] = []
    overlays: list[Image] = []
    subscriptions = [
        fresh.subscribe(Image, "stemseg/label_image", labels),
        fresh.subscribe(Image, "stemseg/overlay", overlays),
    ]
    assert fresh.spin_until(lambda: all(s.get_publisher_count() for s in subscriptions))
    fresh.spin_for(0.3)  # until the node knows of them as well
    send(fresh, *range(LENGTH))
    assert fresh.spin_until(lambda: len(labels) >= 2 and len(overlays) >= 2)
    assert (labels[0].encoding, overlays[0].encoding) == ("mono16", "bgr8")
    assert (
        [m.header for m in labels]
        == [m.header for m in overlays]
        == [m.header for m in fresh.received]
    )
    drawn = np.frombuffer(labels[1].data, "<u2").reshape(24, 40)
    np.testing.assert_array_equal(drawn, scene()[..., 0])
    overlay = np.frombuffer(overlays[1].data, np.uint8).reshape(24, 40, 3)
    assert (overlay[5, 5] != scene()[5, 5]).any()
    assert (overlay[-1, -1] == 0).all()


def test_parameters_are_validated_on_set(fresh: Peer) -> None:
    double, integer = ParameterType.PARAMETER_DOUBLE, ParameterType.PARAMETER_INTEGER
    table = [
        ("clustering.min_heat", {"type": double, "double_value": 1.5}, "out of range"),
        (
            "clustering.min_probability",
            {"type": double, "double_value": 1.0},
            "less than 1",
        ),  # an open bound
        ("input.min_dim", {"type": integer, "integer_value": 96}, "read-only"),
        ("output.min_area", {"type": double, "double_value": 2.0}, "type"),
        ("output.min_size", {"type": integer, "integer_value": 2}, "undeclared"),
    ]
    for name, value, reason in table:
        result = set_parameter(fresh, name, **value)
        assert not result.successful
        assert reason in result.reason


def test_live_parameter_takes_effect(fresh: Peer) -> None:
    send(fresh, *range(LENGTH))
    fresh.expect(2)
    assert set_parameter(
        fresh, "output.min_area", type=ParameterType.PARAMETER_INTEGER, integer_value=60
    ).successful
    send(fresh, *range(10, 10 + LENGTH))
    fresh.expect(5)
    assert set_parameter(
        fresh, "output.min_area", type=ParameterType.PARAMETER_INTEGER, integer_value=0
    ).successful
    assert [i.track_id for i in fresh.received[0].instances] == [5, 9]
    assert [i.track_id for i in fresh.received[4].instances] == [9]  # 54 and 64 pixels


def test_wrong_parameter_at_start_ends_it_in_one_line() -> None:
    with process("toy_node.py", *ros_arguments("input.min_dm:=96")) as child:
        assert child.wait() == 2
        assert (
            child.log
            == "stemseg_node: unknown parameter 'input.min_dm'; did you mean 'input.min_dim'?\n"
        )


def test_a_parameter_of_ros_with_a_wrong_type_ends_it_in_one_line() -> None:
    with process("toy_node.py", *ros_arguments("use_sim_time:=5")) as child:
        assert child.wait() == 2
        assert child.lines("stemseg_node: ")
        assert "Traceback" not in child.log
