"""The node over real DDS, in the test's own process, around a model whose right answers are
known."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")
pytest.importorskip("stemseg.msg", reason="needs the built messages")

from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from ros.harness import ROOT, LocalNode, Peer, message, scene
from sensor_msgs.msg import CompressedImage, Image

from stemseg_ros.media.bags import write_bag
from stemseg_ros.ros.services import Services
from stemseg_ros.stream import open_model

pytestmark = pytest.mark.ros

Start = Callable[..., LocalNode]
LENGTH = 4
ALL = "output.min_area:=0"
WINDOW = (ALL, "window.length:=4", "window.overlap:=2", "stream.flush_after:=0.0")


def send(peer: Peer, *seconds: int, **fields: Any) -> None:
    for second in seconds:
        peer.publisher.publish(message(scene(), second, **fields))


def change_state(peer: Peer, transition: int) -> bool:
    request = ChangeState.Request(transition=Transition(id=transition))
    return bool(peer.call(ChangeState, "stemseg/change_state", request).success)


def state(peer: Peer) -> str:
    return str(peer.call(GetState, "stemseg/get_state", GetState.Request()).current_state.label)


def test_lifecycle(local_node: Start, peer: Peer) -> None:
    node = local_node(*WINDOW, "autostart:=false")
    assert state(peer) == "unconfigured"
    assert change_state(peer, Transition.TRANSITION_CONFIGURE)
    assert state(peer) == "inactive"
    assert peer.publisher.get_subscription_count() == 0
    answer = peer.trigger("reset")
    assert (answer.success, answer.message) == (False, "the node is not active")
    assert change_state(peer, Transition.TRANSITION_ACTIVATE)
    peer.connect()
    send(peer, *range(LENGTH + 1))
    peer.expect(2)  # the others stay in the window
    assert change_state(peer, Transition.TRANSITION_DEACTIVATE)
    assert node.lines("deactivated: 3 pending frames dropped")
    assert peer.spin_until(lambda: peer.publisher.get_subscription_count() == 0)
    assert change_state(peer, Transition.TRANSITION_CLEANUP)
    assert change_state(peer, Transition.TRANSITION_CONFIGURE)
    assert change_state(peer, Transition.TRANSITION_ACTIVATE)
    peer.connect()
    send(peer, *range(10, 10 + LENGTH))
    received = peer.expect(4)
    assert peer.stamps() == [0, 1, 10, 11]
    assert received[2].epoch > received[1].epoch
    assert change_state(peer, Transition.TRANSITION_ACTIVE_SHUTDOWN)
    assert state(peer) == "finalized"


def test_configuring_fails_with_one_line_and_the_node_stays(local_node: Start, peer: Peer) -> None:
    node = local_node("checkpoint:=broken")
    node.wait_for_log("cannot configure")
    assert state(peer) == "unconfigured"
    assert not change_state(peer, Transition.TRANSITION_CONFIGURE)
    assert len(node.lines("cannot configure: broken: not a checkpoint")) == 2
    assert len(node.lines("loading the model 'lite' on ")) == 2
    assert len(node.log.splitlines()) == 4


def test_missing_device_fails_with_one_line(
    local_node: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    node = local_node("device:=cuda:3")
    node.wait_for_log("cannot configure: no CUDA device for 'cuda:3'")


@pytest.mark.parametrize("service", ["flush", "reset"])
def test_services_respond_while_images_arrive_fast(
    local_node: Start, peer: Peer, monkeypatch: pytest.MonkeyPatch, service: str
) -> None:
    images = count()  # another one at every look
    monkeypatch.setattr(Services, "_images_seen", lambda services: next(images))
    local_node(*WINDOW)
    assert peer.trigger(service).success
    assert next(images) > 4  # it did wait for a while


def test_pause_finishes_the_window(local_node: Start, peer: Peer) -> None:
    local_node(*WINDOW[:3], "stream.flush_after:=0.3")
    peer.connect()
    send(peer, 1, 2, 3)
    peer.expect(3)
    assert peer.stamps() == [1, 2, 3]


def test_overload_drops_the_oldest_and_logs_it(
    local_node: Start, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOY_DELAY", "0.5")
    node = local_node(*WINDOW, "node.queue_size:=3")
    peer.connect()
    for second in range(12):
        send(peer, second)
        peer.spin_for(0.05)
    node.wait_for_log("frames dropped from the full queue: ")
    peer.trigger("flush")
    stamps = peer.stamps()
    assert stamps == sorted(set(stamps))
    assert stamps[-3:] == [9, 10, 11]
    assert len(node.lines("arrive faster than")) == 1
    dropped = int(node.lines("frames dropped")[0].rpartition("queue: ")[2].split()[0])
    assert 1 < dropped <= 12 - len(stamps)  # on a busy machine the middleware may lose some before


def test_compressed_images(local_node: Start, peer: Peer) -> None:
    publisher = peer.node.create_publisher(CompressedImage, "image/compressed", 10)
    local_node(*WINDOW, "node.image_transport:=compressed")
    assert peer.spin_until(publisher.get_subscription_count)
    for second in range(LENGTH):
        picture = CompressedImage(format="png", data=cv2.imencode(".png", scene())[1].tobytes())
        picture.header.stamp.sec = second
        publisher.publish(picture)
    assert [i.track_id for i in peer.expect(2)[0].instances] == [5, 9]


def test_a_compressed_bag_is_played_as_the_window_needs_it(
    local_node: Start, peer: Peer, tmp_path: Path
) -> None:
    local_node(*WINDOW, "node.image_transport:=compressed")
    write_bag(
        ((10**9 * (1 + i), scene()) for i in range(9)), tmp_path / "clip.mcap", encoding="jpeg"
    )
    peer.connect_answers()
    player = (
        sys.executable,
        "-m",
        "stemseg_ros.ros",
        "player",
        "--bag",
        str(tmp_path / "clip.mcap"),
        "--topic",
        "/image",
        "--rate",
        "20",
    )
    subprocess.run(player, check=True, timeout=90, cwd=ROOT)
    assert peer.spin_until(lambda: len(peer.received) >= 9)
    assert peer.stamps() == list(range(1, 10))


def test_the_network_has_a_result_for_every_frame(local_node: Start, peer: Peer) -> None:
    small = ("checkpoint:=random", "device:=cpu", "input.min_dim:=96")
    node = local_node(*small, *WINDOW, model_opener=open_model)
    peer.connect()
    send(peer, *range(7))
    assert peer.trigger("flush").success
    peer.expect(7)
    assert peer.stamps() == list(range(7))
    assert {(m.height, m.width, m.header.frame_id) for m in peer.received} == {
        (24, 40, "camera_optical")
    }
    assert not node.lines("failed"), node.log


def test_labels_beyond_16_bits_are_left_out(
    local_node: Start, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stemseg_ros.ros.output.publishers.MAX_LABEL", 7)
    node = local_node(*WINDOW)
    labels: list[Image] = []
    peer.subscribe(Image, "stemseg/label_image", labels)
    peer.connect()
    send(peer, *range(LENGTH))
    assert peer.spin_until(lambda: len(labels) == 2)
    assert set(np.frombuffer(labels[0].data, "<u2")) == {0, 5}
    assert len(node.lines("track ids above 7")) == 1
