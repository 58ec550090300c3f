"""The node under more images than it can serve, with a device that is slow by decree."""

from __future__ import annotations

import threading
from collections.abc import Callable
from itertools import pairwise

import cv2
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")
pytest.importorskip("stemseg.msg", reason="needs the built messages")

from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from ros.harness import LocalNode, Peer, message, scene
from sensor_msgs.msg import CompressedImage

from stemseg_ros.ros.input.image_messages import bgr_image

pytestmark = pytest.mark.ros

Start = Callable[..., LocalNode]
TURN = 0.3
"""Seconds."""
SLOW = ("output.min_area:=0", "window.length:=4", "window.overlap:=2", "node.queue_size:=4")


def set_parameters(peer: Peer, **values: str | int) -> None:
    parameters = []
    for name, value in values.items():
        kind = ParameterValue(type=ParameterType.PARAMETER_INTEGER)
        if isinstance(value, str):
            kind = ParameterValue(type=ParameterType.PARAMETER_STRING, string_value=value)
        else:
            kind.integer_value = value
        parameters.append(Parameter(name=f"node.{name}", value=kind))
    answer = peer.call(
        SetParameters, "stemseg/set_parameters", SetParameters.Request(parameters=parameters)
    )
    assert all(result.successful for result in answer.results), answer


def test_every_policy_live_in_one_running_node(
    local_node: Start, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All answers come in order, in one epoch, and each policy says what it drops."""
    monkeypatch.setenv("TOY_DELAY", str(TURN))
    node = local_node(*SLOW, "stream.flush_after:=0.0", "stream.max_gap:=0.0")
    peer.connect()
    second, sent = 0, {}
    for policy, bound, told in [
        ("drop_oldest", 0, "the oldest of 4 waiting frames is dropped"),
        ("drop_newest", 0, "4 frames wait, a new one is dropped"),
        ("stride", 0, "frame is processed (node.load_policy)"),
        ("drop_oldest", 250, "a frame that waited too long is dropped"),
    ]:
        set_parameters(peer, load_policy=policy, max_latency_ms=bound)
        first = second
        for _ in range(24):
            peer.publisher.publish(message(scene(), 1 + second))
            peer.spin_for(TURN / 4)
            second += 1
        assert peer.trigger("flush").success
        sent[policy, bound] = (first, second)
        node.wait_for_log(told)
    stamps = peer.stamps()
    assert all(a < b for a, b in pairwise(stamps))
    assert {m.epoch for m in peer.received} == {peer.received[0].epoch}
    for begin, end in sent.values():
        answered = [stamp for stamp in stamps if begin < stamp <= end]
        assert 4 <= len(answered) < 24
    newest = [s for s in stamps if sent["drop_oldest", 0][1] < s <= sent["drop_newest", 0][1]]
    assert newest[:4] == list(range(newest[0], newest[0] + 4))  # those that came first wait


def test_compressed_images_are_decoded_by_the_worker(
    local_node: Start, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[str] = []

    def decode(*arguments: object) -> object:
        threads.append(threading.current_thread().name)
        return bgr_image(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr("stemseg_ros.ros.inference.camera_stream.bgr_image", decode)
    publisher = peer.node.create_publisher(CompressedImage, "image/compressed", 10)
    local_node(*SLOW, "node.image_transport:=compressed")
    assert peer.spin_until(publisher.get_subscription_count)
    for second in range(1, 5):
        picture = CompressedImage(format="png", data=cv2.imencode(".png", scene())[1].tobytes())
        picture.header.stamp.sec = second
        publisher.publish(picture)
    peer.expect(2)
    assert set(threads) == {"stemseg-worker"}
