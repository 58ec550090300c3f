"""``stemseg view`` beside a running node, both real processes."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")
pytest.importorskip("rerun", reason="needs the extra view")
from ros.harness import Peer, message, process, ros_arguments, scene, toy_node
from stemseg.msg import Region
from stemseg.srv import TrackMasks
from view.rrd import labels, read, values

pytestmark = pytest.mark.ros

ALL = ("output.min_area:=0",)
HODOR = ("config:=hodor_lite", "checkpoint:=random", "input.min_dim:=64", "input.max_dim:=96")


def test_a_live_stream_is_shown(peer: Peer, tmp_path: Path) -> None:
    out = tmp_path / "live.rrd"
    viewer = process("view_live.py", "--image-topic", "/image", "--save", str(out))
    with toy_node(*ALL, "window.length:=2", "window.overlap:=1") as node, viewer as child:
        peer.connect()
        assert peer.spin_until(lambda: peer.publisher.get_subscription_count() == 2), child.log
        assert peer.spin_until(lambda: peer.node.count_subscribers("/stemseg/instances") == 2)
        for second in range(12):  # of the first, the node may not know yet who else listens
            peer.publisher.publish(message(scene(second), 100 + second))
            peer.spin_for(0.3)
        peer.expect(12)
        peer.spin_for(1.0)
        assert child.stop(signal.SIGINT)[0] == 0, child.log
        assert "Traceback" not in child.log + node.log
    rows = read(out)
    shown = [row["stamp"] // 10**9 for row in rows["/camera/image"].values()]
    assert len(shown) > 5
    assert shown == [*range(112 - len(shown), 112)]
    for second, row in zip(shown, rows["/camera/masks"].values(), strict=True):
        assert (labels(row) == scene(second - 100)[..., 0]).all()
    assert all(row["Boxes2D:class_ids"] == [5, 9] for row in rows["/camera/boxes"].values())
    trails = [row["LineStrips2D:strips"][1] for row in rows["/camera/trails"].values()]
    assert [len(trail) for trail in trails] == [*range(1, len(shown) + 1)]
    latency = values(rows, "/timing/latency_ms")
    assert len(latency) == len(shown)
    assert all(0 < milliseconds < 60_000 for milliseconds in latency.values())
    stages = values(rows, "/stage/network")
    assert stages and all(0 < milliseconds < 60_000 for milliseconds in stages.values())


def test_prompts_are_shown_in_the_image_that_they_are_given_for(
    peer: Peer, tmp_path: Path
) -> None:
    """Which is a past one, when a client points at it."""
    out = tmp_path / "live.rrd"
    viewer = process("view_live.py", "--image-topic", "/image", "--save", str(out))
    with process("prompt_node.py", *ros_arguments(*HODOR)) as node, viewer as child:
        peer.connect()
        assert peer.spin_until(lambda: peer.publisher.get_subscription_count() == 2), child.log
        assert peer.spin_until(lambda: peer.node.count_subscribers("/stemseg/instances") == 2)
        assert peer.spin_until(lambda: peer.node.count_subscribers("/stemseg/prompts") == 1)
        for second in range(100, 108):
            peer.publisher.publish(message(scene(size=(64, 96)), second))
            peer.spin_for(0.3)
        peer.expect(8)
        peer.spin_for(1.5)  # the viewer waits a second for images that it may have missed
        request = TrackMasks.Request(regions=[Region(kind=Region.POINT, x=20.0, y=30.0)])
        request.header.stamp.sec, request.track_ids = 106, [40]
        answer = peer.call(TrackMasks, "stemseg/track_masks", request)
        assert answer.success, answer.message
        peer.spin_for(1.0)
        assert child.stop(signal.SIGINT)[0] == 0, child.log
        assert "Traceback" not in child.log + node.log
    rows = read(out)
    assert [name for name in rows if name.startswith("/camera/prompts")] == ["/camera/prompts/40"]
    (shown, row), (end, _) = rows["/camera/prompts/40"].items()
    assert row["LineStrips2D:labels"] == ["prompt 40 object"]
    assert row["stamp"] == 106 * 10**9 == rows["/camera/image"][shown]["stamp"]
    assert end == shown + 1
