"""The subscription to the images, with publishers in processes of their own."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")
pytest.importorskip("stemseg.msg", reason="needs the built messages")

import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import ReliabilityPolicy
from ros.harness import LocalNode, Peer, Process, message, process, scene, wait_for

from stemseg_ros.config import load_config
from stemseg_ros.ros.input import subscription
from stemseg_ros.ros.input.subscription import ImageSubscription

pytestmark = pytest.mark.ros

Start = Callable[..., LocalNode]
WINDOW = ("output.min_area:=0", "window.length:=4", "window.overlap:=2")
PAIRINGS = [
    (reliability, durability)
    for reliability in ("best_effort", "reliable")
    for durability in ("volatile", "transient_local")
]


class Subscriber:
    """A node with nothing but the subscription; its executor runs in a thread."""

    def __init__(self, output: pytest.CaptureFixture[str], topic: str, **settings: Any) -> None:
        self._output, self._log = output, ""
        self._context = Context()
        rclpy.init(context=self._context)
        self._node = Node("seeing", context=self._context)
        self.images: list[Any] = []
        self.lost = 0
        self.busy = False
        self.subscription = ImageSubscription(
            self._node,
            load_config("lite", {name.replace("__", "."): v for name, v in settings.items()}),
            self.images.append,
            self._count,
            topic,
            lambda: self.busy,
        )
        self._stop = False
        self._thread = threading.Thread(target=self._spin)
        self._thread.start()

    def _count(self, number: int, seconds: float) -> None:
        self.lost += number
        assert 0 < seconds < 10

    def _spin(self) -> None:
        executor = SingleThreadedExecutor(context=self._context)
        executor.add_node(self._node)
        while not self._stop:
            executor.spin_once(timeout_sec=0.05)
        executor.shutdown()

    @property
    def log(self) -> str:
        captured = self._output.readouterr()
        self._log += captured.out + captured.err
        return self._log

    def lines(self, text: str) -> list[str]:
        return [line for line in self.log.splitlines() if text in line]

    def wait_for_images(self, number: int = 3) -> None:
        """So many more than there are now."""
        aim = len(self.images) + number
        assert wait_for(lambda: len(self.images) >= aim), self.log

    def wait_for_log(self, text: str) -> None:
        assert wait_for(lambda: text in self.log), f"'{text}' is not in the log:\n{self._log}"

    def wait_for_topic(self, topic: str) -> None:
        """Until the node knows of its publisher."""
        assert wait_for(lambda: self._node.count_publishers(topic))

    def close(self) -> None:
        self._stop = True
        self._thread.join()
        self.subscription.close()
        self._node.destroy_node()
        rclpy.shutdown(context=self._context)


@pytest.fixture
def subscriber(capfd: pytest.CaptureFixture[str]) -> Iterator[Callable[..., Subscriber]]:
    """subscriber(topic, qos__image=...) subscribes."""
    with ExitStack() as stack:
        yield lambda topic, **settings: stack.enter_context(
            closing(Subscriber(capfd, topic, **settings))
        )


@pytest.fixture
def short_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stemseg_ros.ros.input.subscription.NO_IMAGES_SECONDS", 1.0)


@pytest.fixture(scope="module")
def cameras() -> Iterator[Process]:
    """A process that publishes with every QoS there is, on /best_effort/volatile etc."""
    offers = [f"/{r}/{d}:{r}:{d}" for r, d in PAIRINGS]
    with process("qos_publisher.py", *offers) as child:
        child.wait_for_log("ready")
        yield child


@pytest.mark.parametrize(("reliability", "durability"), PAIRINGS)
@pytest.mark.parametrize("qos", ["auto", "sensor_data", "reliable"])
def test_every_pairing_of_qos(
    cameras: Process,
    subscriber: Callable[..., Subscriber],
    short_wait: None,
    qos: str,
    reliability: str,
    durability: str,
) -> None:
    it = subscriber(f"/{reliability}/{durability}", qos__image=qos)
    if (qos, reliability) == ("reliable", "best_effort"):  # the one pairing that cannot be
        it.wait_for_log("set qos.image to auto or sensor_data")
        assert (
            f"/camera (sensor_msgs/msg/Image, best effort, {durability.replace('_', ' ')})"
            in (it.lines("no images on")[-1])
        )
        assert it.images == []
        return
    it.wait_for_images()
    matched = {"auto": reliability, "sensor_data": "best_effort", "reliable": "reliable"}[qos]
    assert it.lines("subscribed to")[-1].endswith(f"(raw, {matched.replace('_', ' ')})")


def test_a_publisher_that_comes_late_is_matched(
    subscriber: Callable[..., Subscriber], short_wait: None
) -> None:
    it = subscriber("/late/image")
    it.wait_for_log("no images on /late/image (sensor_msgs/msg/Image) for 1 s; nobody publishes")
    assert not it.lines("subscribed")
    with process("qos_publisher.py", "/late/image:best_effort:volatile"):
        it.wait_for_images()
    assert len(it.lines("nobody publishes")) == 1
    assert it.lines("images arrive on /late/image")


@pytest.mark.parametrize(
    ("first", "second"), [("reliable", "best_effort"), ("best_effort", "reliable")]
)
def test_a_publisher_that_vanishes_and_returns_is_matched_again(
    subscriber: Callable[..., Subscriber], short_wait: None, first: str, second: str
) -> None:
    it = subscriber("/image")
    for reliability in (first, first, second):
        with process("qos_publisher.py", f"/image:{reliability}:volatile") as camera:
            it.wait_for_images()
            camera.stop(signal.SIGKILL)  # without a word, as a cable that is pulled
        warnings = len(it.lines("no images on"))
        wait_for(lambda n=warnings: len(it.lines("no images on")) > n, 10.0)
    assert it.lines(f"subscribed to /image (raw, {first.replace('_', ' ')})")
    if second == "best_effort":  # the other way, the dead one seems to be there for a while
        assert it.lines("subscribed to /image (raw, best effort)")


def test_lost_images_are_counted_and_explained_once(
    subscriber: Callable[..., Subscriber], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE"):
        monkeypatch.delenv(name, raising=False)
    it = subscriber("/image")
    with process("qos_publisher.py", "/image:reliable:volatile", "--lose", "10"):
        it.wait_for_log("of the images on /image are lost in transit")
        it.wait_for_images(20)
    assert it.lost >= 4
    assert len(it.lines("are lost in transit")) == 1
    assert "config/fastdds_shm.xml" in it.lines("are lost in transit")[0]


def test_no_warning_while_images_are_processed(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A player waits for the answers, for a large network long."""
    monkeypatch.setattr(subscription, "NO_IMAGES_SECONDS", 1.0)
    with closing(Subscriber(capfd, "image")) as subscriber:
        subscriber.busy = True
        time.sleep(2.0)
        assert not subscriber.lines("no images on")
        subscriber.busy = False
        assert wait_for(lambda: subscriber.lines("no images on"))


def test_names_that_are_nearly_right_are_suggested(
    cameras: Process, subscriber: Callable[..., Subscriber], monkeypatch: pytest.MonkeyPatch
) -> None:
    it = subscriber("/reliable/volatil")
    it.wait_for_topic("/reliable/volatile")
    monkeypatch.setattr("stemseg_ros.ros.input.subscription.NO_IMAGES_SECONDS", 0.0)
    it.wait_for_log("the most similar topics")
    line = it.lines("the most similar topics")[0]
    assert "no images on /reliable/volatil (sensor_msgs/msg/Image) for 0 s; nobody" in line
    assert "topics with images: /reliable/volatile (sensor_msgs/msg/Image)" in line
    assert line.endswith("e.g. -r /reliable/volatil:=/reliable/volatile")


def test_the_other_transport_is_suggested(
    subscriber: Callable[..., Subscriber], monkeypatch: pytest.MonkeyPatch
) -> None:
    it = subscriber("/front/image")
    with process("qos_publisher.py", "/front/image/compressed:reliable:volatile"):
        it.wait_for_topic("/front/image/compressed")
        monkeypatch.setattr("stemseg_ros.ros.input.subscription.NO_IMAGES_SECONDS", 0.0)
        it.wait_for_log("set node.image_transport to compressed")
        compressed = subscriber("/front/image", node__image_transport="compressed")
        compressed.wait_for_images()
    assert compressed.images[0].format == "png"


def test_the_node_continues_with_the_publisher_that_returns(local_node: Start, peer: Peer) -> None:
    """All of it: a camera is killed, another with another QoS takes over, later by its stamps."""
    node = local_node(*WINDOW, "stream.flush_after:=0.3")
    peer.connect_answers()
    with process("qos_publisher.py", "/image:reliable:volatile") as camera:
        peer.expect(4)
        camera.stop(signal.SIGKILL)
    peer.spin_for(1.0)
    before = len(peer.received)
    with process("qos_publisher.py", "/image:best_effort:volatile", "--first", "1000"):
        peer.expect(before + 4)
    assert [i.track_id for i in peer.received[-1].instances] == [5, 9]
    assert peer.received[before - 1].epoch < peer.received[-1].epoch
    assert len(node.lines("the stamps jumped ahead")) == 1


def test_qos_follows_the_publisher(local_node: Start, peer: Peer) -> None:
    node = local_node(*WINDOW)
    peer.connect()
    node.wait_for_log("subscribed to /image (raw, reliable)")
    with closing(Peer(ReliabilityPolicy.BEST_EFFORT)) as second:
        node.wait_for_log("subscribed to /image (raw, best effort)")
        second.connect()
        for stamp in range(1, 5):
            second.publisher.publish(message(scene(), stamp))
        second.expect(2)
