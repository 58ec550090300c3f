"""What happens when memory runs out or the worker hangs: injected at the engine, seen over
DDS."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import torch

pytest.importorskip("rclpy", reason="needs ROS 2")
pytest.importorskip("stemseg.msg", reason="needs the built messages")

from lifecycle_msgs.msg import Transition
from ros.harness import LocalNode, Peer, message, scene, toy_node
from ros.health.test_diagnostics import ERROR, OK, WARN, Listener
from ros.test_node import change_state, state
from ros.toy_node import HANG, ToyEngine, ToyModel

from stemseg_ros.config import Config, load_config

pytestmark = pytest.mark.ros

Start = Callable[..., LocalNode]
WINDOW = ("output.min_area:=0", "window.length:=4", "window.overlap:=2")
FULL = load_config("lite").input.min_dim


def send(peer: Peer, *seconds: int, first_pixel: int = 0) -> None:
    image = scene()
    image[0, 0, 0] = first_pixel
    for second in seconds:
        peer.publisher.publish(message(image, second))


class HungryEngine(ToyEngine):
    """Fails in its second frame."""

    frames = 0

    def look(self, first_pixel: int) -> None:
        self.frames += 1
        if self.frames > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


class Hungry(ToyModel):
    """Fails in its second real frame if the input is above ``limit`` or the device is a GPU."""

    limit = 0
    loading = False
    """Fail in the warm-up already."""
    gpu_too = False

    def __init__(self, config: Config, checkpoint: str | None = None, device: str = "cpu") -> None:
        super().__init__(config, checkpoint, device)
        too_large = config.input.min_dim > self.limit or self.gpu_too
        self.hungry = too_large and device != "cpu"
        if self.hungry and self.loading:
            self.engine = HungryEngine()

    def warm_up(self, size: tuple[int, int], streams: int = 1) -> float:
        seconds = super().warm_up(size, streams)
        if self.hungry:
            self.engine = HungryEngine()
        return seconds


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The node believes that there is a GPU; the stand-in computes nothing on it."""
    monkeypatch.setattr("stemseg_ros.ros.node.resolve_device", lambda name: torch.device("cuda:0"))


@pytest.mark.parametrize(
    ("when", "limit", "gpu_too", "policy", "left"),
    [
        ("running", FULL - 1, False, "smaller_then_cpu", (round(0.7 * FULL), "cuda:0")),
        ("running", 0, True, "smaller_then_cpu", (FULL, "cpu")),
        ("loading", round(0.6 * FULL), False, "smaller", (round(0.5 * FULL), "cuda:0")),
        ("loading", 0, True, "cpu", (FULL, "cpu")),
    ],
)
@pytest.mark.usefixtures("gpu")
def test_less_memory_is_tried(
    local_node: Start,
    peer: Peer,
    when: str,
    limit: int,
    gpu_too: bool,
    policy: str,
    left: tuple[int, str],
) -> None:
    kind = type("_", (Hungry,), {"limit": limit, "gpu_too": gpu_too, "loading": when == "loading"})
    node = local_node(*WINDOW, f"health.out_of_memory:={policy}", model_opener=kind)
    listener = Listener(peer)
    peer.connect()
    second = 0
    while len(peer.received) < 4 and second < 300:
        send(peer, second := second + 1)
        peer.spin_for(0.05)
    assert len(peer.received) >= 4, node.log
    assert peer.stamps() == sorted(set(peer.stamps()))
    size, device = left
    assert node.lines("out of memory on cuda:0: ")[-1].endswith(
        f"continuing with input.min_dim {size} on {device} (health.out_of_memory)"
    )
    assert peer.spin_until(lambda: listener.level("worker") == WARN)
    worker = listener.values("worker")
    assert (worker["fallback"], worker["device"]) == ("yes", device)
    assert worker["input"].startswith(f"{size} ")
    assert node.node.get_parameter("input.min_dim").value == FULL  # what was asked for
    lost = int(listener.values()["frames_failed"])
    assert lost >= 2 if when == "running" else lost == 0


@pytest.mark.usefixtures("gpu")
def test_without_a_fallback_the_node_goes_through_the_error_state(
    local_node: Start, peer: Peer
) -> None:
    class Full(Hungry):
        gpu_too = True

    node = local_node(*WINDOW, "health.out_of_memory:=error", model_opener=Full)
    listener = Listener(peer)
    peer.connect()
    send(peer, 1, 2, 3)
    node.wait_for_log("no fallback is left (health.out_of_memory)")
    assert peer.spin_until(lambda: state(peer) == "unconfigured")
    assert peer.spin_until(lambda: listener.level("worker") == ERROR)
    assert "out of memory" in listener.text("worker")
    assert peer.spin_until(lambda: listener.values("worker")["state"] == "unconfigured")
    assert listener.level("worker") == ERROR
    assert peer.publisher.get_subscription_count() == 0
    assert not peer.trigger("flush").success
    Full.gpu_too = False
    Full.limit = FULL  # somebody made room
    assert change_state(peer, Transition.TRANSITION_CONFIGURE)
    assert change_state(peer, Transition.TRANSITION_ACTIVATE)
    peer.connect()
    send(peer, 11, 12, 13, 14)
    peer.expect(2)
    assert peer.spin_until(lambda: listener.level("worker") == OK)


def test_a_worker_that_hangs_is_replaced(local_node: Start, peer: Peer) -> None:
    gate = threading.Event()

    class Hanging(ToyEngine):
        def look(self, first_pixel: int) -> None:
            if first_pixel == HANG:
                gate.wait(60)

    class HangingModel(ToyModel):
        def make_engine(self) -> ToyEngine:
            return Hanging()

    node = local_node(*WINDOW, "health.stall_after:=3.0", model_opener=HangingModel)
    listener = Listener(peer)
    peer.connect()
    send(peer, 1, 2, 3)
    send(peer, 4, first_pixel=HANG)
    send(peer, 5)
    node.wait_for_log("the worker is restarted (1.)")
    assert len(node.lines("the worker has stalled for")) == 1
    send(peer, 6, 7, 8)
    peer.expect(2)
    gate.set()  # the old thread comes back, too late
    send(peer, 9, 10)
    peer.expect(4)
    assert peer.stamps()[:4] == [5, 6, 7, 8]
    assert peer.spin_until(lambda: listener.values("worker").get("worker_restarts") == "1")
    assert listener.level("worker") == WARN
    assert peer.spin_until(lambda: listener.values()["frames_failed"] == "4")
    assert {answer.epoch for answer in peer.received} == {1}


def test_a_worker_that_hangs_does_not_hold_up_the_lifecycle(local_node: Start, peer: Peer) -> None:
    node = local_node(*WINDOW, "health.stall_after:=5.0")
    peer.connect()
    send(peer, 1, first_pixel=HANG)
    assert peer.spin_until(lambda: node.node._supervisor._worker.busy_seconds > 0)
    assert not change_state(peer, Transition.TRANSITION_DEACTIVATE)
    assert state(peer) == "unconfigured"
    node.wait_for_log("on_deactivate: the worker hangs")
    assert change_state(peer, Transition.TRANSITION_CONFIGURE)
    assert change_state(peer, Transition.TRANSITION_ACTIVATE)
    peer.connect()
    send(peer, 1, 2, 3, 4)
    peer.expect(2)


def test_a_process_whose_worker_hangs_again_ends_for_respawn() -> None:
    with toy_node(*WINDOW, "health.stall_after:=0.5") as process:
        peer = Peer()
        try:
            process.wait_for_log("is ready")
            peer.connect()
            send(peer, 1, 2, first_pixel=HANG)
            assert process.wait() == 1
        finally:
            peer.close()
        assert process.lines("the process ends: the restarted worker stalled, too")
