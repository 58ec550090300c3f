"""Several cameras in one node: each as if it were alone, and none disturbs the others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from colour_engine import ColourEngine, colour_model
from colour_engine import scene as colours

pytest.importorskip("rclpy", reason="needs ROS 2")
pytest.importorskip("stemseg.msg", reason="needs the built messages")

from rclpy.qos import QoSProfile, ReliabilityPolicy
from ros.harness import ROOT, LocalNode, Peer, message, scene
from ros.health.test_diagnostics import OK, WARN, Listener
from ros.toy_node import POISON
from sensor_msgs.msg import Image
from stemseg.msg import InstanceArray

from stemseg_ros.config import Config
from stemseg_ros.media.sources import open_source
from stemseg_ros.models.stemseg.settings import own_settings
from stemseg_ros.records import Frame
from stemseg_ros.stream import Model, open_model

pytestmark = pytest.mark.ros

Start = Callable[..., LocalNode]
CAMERAS = "node.cameras:=[front,rear]"
WINDOW = (
    CAMERAS,
    "output.min_area:=0",
    "window.length:=4",
    "window.overlap:=2",
)
NO_PAUSE = "stream.flush_after:=0.0"
HIGHWAY = ROOT / "media" / "highway_1280x720_25fps.mp4"


class Eye:
    """The other side of one camera."""

    def __init__(self, peer: Peer, name: str) -> None:
        self._peer = peer
        qos = QoSProfile(depth=200, reliability=ReliabilityPolicy.RELIABLE)
        self.publisher = peer.node.create_publisher(Image, f"{name}/image", qos)
        self.received: list[InstanceArray] = []
        self.answers = peer.subscribe(InstanceArray, f"stemseg/{name}/instances", self.received)

    def connect(self) -> None:
        assert self._peer.spin_until(self.publisher.get_subscription_count)
        self._peer.answers = self.answers
        self._peer.connect_answers()

    def send(self, *seconds: int, image: np.ndarray | None = None, **fields: Any) -> None:
        for second in seconds:
            self.publisher.publish(message(scene() if image is None else image, second, **fields))

    def expect(self, number: int) -> list[int]:
        """The stamps of the answers, once there are as many."""
        complete = self._peer.spin_until(lambda: len(self.received) >= number)
        assert complete, f"{len(self.received)} of {number} answers"
        return [answer.header.stamp.sec for answer in self.received]


@pytest.fixture
def eyes(peer: Peer) -> tuple[Eye, Eye]:
    return Eye(peer, "front"), Eye(peer, "rear")


def movers(camera: int, frames: int) -> list[np.ndarray]:
    return [
        colours((36, 64), *((n + 1, 1, 2 + 16 * n, (camera + n) * t, 12) for n in range(camera)))
        for t in range(frames)
    ]


def test_each_camera_gives_what_it_gives_alone(
    local_node: Start, peer: Peer, eyes: tuple[Eye, Eye]
) -> None:
    models: list[Model] = []

    def open_once(config: Config, checkpoint: str | None, device: str) -> Model:
        models.append(colour_model(own_settings(config)))
        return models[-1]

    node = local_node(*WINDOW, NO_PAUSE, "input.min_dim:=36", model_opener=open_once)
    streams = [movers(1, 6), movers(2, 9)]
    for eye in eyes:
        eye.connect()
    for t in range(9):
        for eye, images in zip(eyes, streams, strict=True):
            if t < len(images):
                eye.send(t, image=images[t])
    assert peer.trigger("flush").message == "1 pending frame finished"
    assert [eye.expect(n) for eye, n in zip(eyes, (6, 9), strict=True)] == [
        list(range(6)),
        list(range(9)),
    ]
    (model,) = models  # loaded once
    assert isinstance(model.engine, ColourEngine)
    assert max(model.engine.batches) == 2
    for eye, images in zip(eyes, streams, strict=True):
        alone = model.stream()
        expected = [r for t, image in enumerate(images) for r in alone.push(Frame(image, t))]
        expected += alone.flush()
        assert [[(i.track_id, bytes(i.mask_rle)) for i in a.instances] for a in eye.received] == [
            [(i.track_id, i.rle["counts"]) for i in result.instances] for result in expected
        ]
        assert expected[-1].instances
    assert not node.lines("failed")


def test_each_camera_of_stc_gives_what_it_gives_alone(
    local_node: Start, peer: Peer, eyes: tuple[Eye, Eye]
) -> None:
    """With the bundled weights, in images of two sizes."""
    models: list[Model] = []

    def open_once(config: Config, checkpoint: str | None, device: str) -> Model:
        models.append(open_model(config, checkpoint, device))
        return models[-1]

    small = ("config:=stc_lite", "device:=cpu", "input.min_dim:=224")
    local_node(*small, CAMERAS, NO_PAUSE, model_opener=open_once)
    with open_source(HIGHWAY) as source:
        road = [image for (_, image), _ in zip(source, range(7), strict=False)]
    streams = [road[:5], [image[300:600, 700:1200] for image in road[3:]]]
    for eye in eyes:
        eye.connect()
    for eye, images in zip(eyes, streams, strict=True):
        for t, image in enumerate(images):
            eye.send(t, image=image)
    for eye, images in zip(eyes, streams, strict=True):
        assert eye.expect(len(images)) == list(range(len(images)))
        alone = models[0].stream()
        results = [r for t, image in enumerate(images) for r in alone.push(Frame(image, t))]
        assert [[seen(i, bytes(i.mask_rle)) for i in m.instances] for m in eye.received] == [
            [seen(i, i.rle["counts"]) for i in result.instances] for result in results
        ]
        assert results[-1].instances
        assert {m.epoch for m in eye.received} == {0}


def seen(instance: Any, mask: bytes) -> tuple[int, int, bytes]:
    return instance.track_id, instance.class_id, mask


def test_every_frame_of_both_has_its_result(
    local_node: Start, peer: Peer, eyes: tuple[Eye, Eye]
) -> None:
    small = ("checkpoint:=random", "device:=cpu", "input.min_dim:=96")
    node = local_node(*small, *WINDOW, NO_PAUSE, model_opener=open_model)
    front, rear = eyes
    for eye in eyes:
        eye.connect()
    front.send(*range(5))
    rear.send(*range(7), image=scene(size=(40, 24)))
    assert peer.trigger("flush").success
    assert (front.expect(5), rear.expect(7)) == (list(range(5)), list(range(7)))
    assert {(answer.height, answer.width) for answer in rear.received} == {(40, 24)}
    assert not node.lines("failed"), node.log


@pytest.mark.parametrize("fault", ["bad images", "failing windows", "no images", "time goes back"])
def test_a_failing_camera_does_not_affect_the_other(
    local_node: Start, peer: Peer, eyes: tuple[Eye, Eye], fault: str
) -> None:
    node = local_node(*WINDOW, NO_PAUSE)
    listener = Listener(peer)
    front, rear = eyes
    for eye in eyes:
        eye.connect()
    for t in range(8):
        rear.send(t)
        if fault == "bad images":
            front.send(t, encoding="none")
        elif fault == "failing windows":
            poisoned = scene()
            poisoned[0, 0, 0] = POISON
            front.send(t, image=poisoned)
        elif fault == "time goes back":
            front.send(1000 - 20 * t, 1001 - 20 * t)
    assert peer.trigger("rear/flush").success
    assert rear.expect(8) == list(range(8))
    assert len({answer.epoch for answer in rear.received}) == 1
    assert all(len(answer.instances) == 2 for answer in rear.received)
    assert peer.spin_until(lambda: listener.values("rear frames").get("messages_out") == "8")
    counts = listener.values("front frames")
    if fault == "bad images":
        assert counts["frames_refused"] == "8"
    elif fault == "failing windows":
        assert counts["frames_failed"] == "8"
        assert node.lines("front: 1 frame lost and tracking reset")
    elif fault == "no images":
        assert (counts["frames_in"], front.received) == ("0", [])
    else:
        assert int(counts["epoch"]) >= rear.received[0].epoch + 7
    assert not node.lines("rear: ")
    if fault != "no images":
        assert peer.spin_until(lambda: listener.level("front frames") == OK, 10)
    assert listener.level("rear frames") in (OK, WARN)


def test_a_camera_that_pauses_is_finished_while_the_other_goes_on(
    local_node: Start, peer: Peer, eyes: tuple[Eye, Eye]
) -> None:
    local_node(*WINDOW, "stream.flush_after:=0.5")
    front, rear = eyes
    for eye in eyes:
        eye.connect()
    front.send(1, 2, 3)
    t = 0
    while len(front.received) < 3 and t < 300:
        rear.send(t := t + 1)
        peer.spin_for(0.1)
    assert [answer.header.stamp.sec for answer in front.received] == [1, 2, 3]  # with rear at it
    assert t > 3
    rear.expect(t - 3)  # less the last ones, which wait for their window


def test_services_of_one_camera(local_node: Start, peer: Peer, eyes: tuple[Eye, Eye]) -> None:
    local_node(*WINDOW, NO_PAUSE)
    front, rear = eyes
    for eye in eyes:
        eye.connect()
        eye.send(1, 2, 3)
    assert peer.trigger("front/reset").message == "tracking starts anew; 3 pending frames dropped"
    front.send(4)
    assert peer.trigger("flush").message == "4 pending frames finished"
    assert (front.expect(1), rear.expect(3)) == ([4], [1, 2, 3])
    assert front.received[0].epoch == rear.received[0].epoch + 1
