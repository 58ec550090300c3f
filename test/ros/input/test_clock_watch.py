"""A clock that is played, with images or without, by a process of its own."""

from __future__ import annotations

from collections.abc import Callable

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")
pytest.importorskip("stemseg.msg", reason="needs the built messages")

from ros.harness import LocalNode, Peer, message, process, scene
from rosgraph_msgs.msg import Clock

pytestmark = pytest.mark.ros

Start = Callable[..., LocalNode]
SIMULATED = (
    "use_sim_time:=true",
    "output.min_area:=0",
    "window.length:=4",
    "window.overlap:=2",
    "stream.flush_after:=0.0",
    "node.queue_size:=100",  # all frames of a test wait, should the machine be busy
)


def test_every_loop_of_a_bag_with_its_clock_is_one_epoch(local_node: Start, peer: Peer) -> None:
    node = local_node(*SIMULATED)
    peer.connect_answers()
    loops, frames = 3, 15
    with process("sim_player.py", str(loops), str(frames)) as player:
        assert peer.spin_until(lambda: "played" in player.log)
        peer.trigger("flush")
        received = peer.expect(loops * frames)
    first = received[0].epoch
    assert [m.epoch - first for m in received] == [i // frames for i in range(loops * frames)]
    assert len(node.lines("the clock jumped back by 1.400 s")) == loops - 1
    assert node.lines("tracking starts anew, epoch")


@pytest.mark.parametrize(("second", "direction"), [(10, "back"), (9_000, "ahead")])
def test_a_jump_of_the_clock_alone_begins_an_epoch(
    local_node: Start, peer: Peer, second: int, direction: str
) -> None:
    """The camera's stamps go on, as those of a driver with a clock of its own."""
    node = local_node(*SIMULATED)
    clock = peer.node.create_publisher(Clock, "/clock", 10)
    assert peer.spin_until(clock.get_subscription_count)
    peer.connect()
    for now in (1000, 1001):
        tick = Clock()
        tick.clock.sec = now
        clock.publish(tick)
        peer.publisher.publish(message(scene(), now))
        peer.spin_for(0.2)
    tick.clock.sec = second
    clock.publish(tick)
    node.wait_for_log(f"the clock jumped {direction}")
    peer.publisher.publish(message(scene(), 1002))
    peer.publisher.publish(message(scene(), 1003))
    peer.spin_for(0.3)
    peer.trigger("flush")
    received = peer.expect(4)
    assert [m.epoch - received[0].epoch for m in received] == [0, 0, 1, 1]
    assert len(node.lines("the clock of the node jumped: tracking starts anew")) == 1
