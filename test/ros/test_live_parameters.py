"""Parameters of a running node, through its services: what takes effect, what is refused, and a
dump that starts the same node again."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml
from colour_engine import scene as colours

pytest.importorskip("rclpy", reason="needs ROS 2")
pytest.importorskip("stemseg.msg", reason="needs the built messages")

from rcl_interfaces.srv import GetParameters, ListParameters, SetParametersAtomically
from rclpy.parameter import Parameter, parameter_value_to_python
from ros.colour_node import open_colour_model
from ros.harness import LocalNode, Peer, message
from ros.toy_node import HANG
from rosgraph_msgs.msg import Clock
from stemseg.msg import InstanceArray

from stemseg_ros.ros.parameters import node_settings

pytestmark = pytest.mark.ros

STARTED = (
    "input.min_dim:=36",
    "window.length:=4",
    "window.overlap:=2",
    "stream.flush_after:=0.0",
    "stitching.variant:=reference",
    "output.min_area:=0",
    "input.mean_bgr:=[1.0,2.5,1e-3]",
)
IMAGES = [colours((36, 64), (1, 1, 2, 2 * t, 12), (2, 2, 20, 50 - t, 6)) for t in range(7)]


def change(peer: Peer, **values: Any) -> Any:
    request = SetParametersAtomically.Request(
        parameters=[
            Parameter(name.replace("__", "."), value=value).to_parameter_msg()
            for name, value in values.items()
        ]
    )
    return peer.call(SetParametersAtomically, "stemseg/set_parameters_atomically", request).result


def dump(peer: Peer, root: str) -> str:
    """As ros2 param dump writes it, through the same services."""
    names = peer.call(ListParameters, "stemseg/list_parameters", ListParameters.Request())
    request = GetParameters.Request(names=sorted(names.result.names))
    values = peer.call(GetParameters, "stemseg/get_parameters", request).values
    tree: dict[str, Any] = {}
    for name, value in zip(request.names, values, strict=True):
        *sections, leaf = name.split(".")
        section = tree
        for part in sections:
            section = section.setdefault(part, {})
        plain = parameter_value_to_python(value)
        section[leaf] = list(plain) if hasattr(plain, "typecode") else plain
    return yaml.dump({root: {"ros__parameters": tree}}, default_flow_style=False)


def answers(peer: Peer) -> list[tuple[int, list[tuple[int, str, float, bytes]]]]:
    peer.received.clear()
    peer.connect()
    for second, image in enumerate(IMAGES):
        peer.publisher.publish(message(image, second))
    assert peer.trigger("flush").success
    return [content(answer) for answer in peer.expect(len(IMAGES))]


def content(answer: InstanceArray) -> tuple[int, list[tuple[int, str, float, bytes]]]:
    return answer.header.stamp.sec, [
        (i.track_id, i.class_name, i.score, bytes(i.mask_rle)) for i in answer.instances
    ]


@pytest.mark.parametrize("root", ["/stemseg", "/**"])
def test_a_dump_starts_a_node_with_equal_settings_and_results(
    capfd: pytest.CaptureFixture[str], peer: Peer, tmp_path: Path, root: str
) -> None:
    with closing(LocalNode(capfd, *STARTED, model_opener=open_colour_model)) as node:
        before = answers(peer)
        live = {"output__min_area": 50, "clustering__min_heat": 0.123456789012345678}
        live |= {"node__load_policy": "stride", "health__warn_lost": 1e-7}
        assert change(peer, **live).successful
        assert peer.trigger("reset").success
        expected, config = answers(peer), node.node._config
        text = dump(peer, root)
    assert before != expected  # the small object is left out
    assert (config.output.min_area, config.health.warn_lost) == (50, 1e-7)
    assert "cameras: null" in text  # what is not set; ROS reads it as a word
    file = tmp_path / "dump.yaml"
    file.write_text(text)
    with closing(LocalNode(capfd, file=file, model_opener=open_colour_model)) as node:
        assert node.node.parameters.config == config
        assert answers(peer) == expected
        assert dump(peer, root) == text


def test_several_settings_are_changed_together_or_not_at_all(
    capfd: pytest.CaptureFixture[str], peer: Peer
) -> None:
    with closing(LocalNode(capfd, "autostart:=false")) as node:
        config = node.node._config
        for bad, reason in [
            ({"clustering__min_heat": 1.5}, "clustering.min_heat out of range"),
            ({"clustering__min_probability": 0.0}, "greater than 0"),
            ({"node__load_policy": "drop_all"}, "node.load_policy: Input should be 'drop_oldest'"),
            ({"node__queue_size": "many"}, "expected 'Type.INTEGER'"),
            ({"window__length": 4}, "read-only"),
            ({"node__cameras": ["front"]}, "read-only"),
            ({"health__out_of_memory": "error"}, "read-only"),
            ({"config": "davis"}, "read-only"),
            ({"checkpoint": "weights.pt"}, "read-only"),
            ({"device": "cpu"}, "read-only"),
        ]:
            result = change(peer, output__min_area=7, **bad)
            assert not result.successful
            assert reason.lower() in result.reason.lower(), result.reason
        assert node.node._config == config
        assert not node.lines("settings changed")
        assert change(peer, output__min_area=7, clustering__min_heat=0.5).successful
        node.wait_for_log("settings changed: output.min_area = 7, clustering.min_heat = 0.5")
        assert change(peer, clustering__min_heat=1).successful  # whole numbers are real ones, too
        node.wait_for_log("settings changed: clustering.min_heat = 1.0")


def test_every_live_setting_is_accepted_by_a_running_node(
    capfd: pytest.CaptureFixture[str], peer: Peer
) -> None:
    """And arrives in the stream, the queue, and the overlay."""
    with closing(LocalNode(capfd, *STARTED, model_opener=open_colour_model)) as node:
        node.wait_for_log("is ready")
        peer.connect()
        for name, _ in node_settings(node.node._config):
            if not node.node.describe_parameter(name).read_only:
                value = node.node.get_parameter(name).value
                changed = another(name, value)
                result = change(peer, **{name.replace(".", "__"): changed})
                assert result.successful, f"{name}: {result.reason}"
        assert peer.trigger("flush").success  # the worker has taken all over
        (camera,) = node.node._cameras
        for name, _ in node_settings(node.node._config):
            if not node.node.describe_parameter(name).read_only:
                section, leaf = name.split(".")
                wanted = node.node.get_parameter(name).value
                assert getattr(getattr(camera.stream.stream.config, section), leaf) == wanted
        assert camera.queue._settings == camera.results._config.node == node.node._config.node


def test_a_change_while_the_worker_hangs_is_not_lost(
    capfd: pytest.CaptureFixture[str], peer: Peer
) -> None:
    settings = ("stream.flush_after:=0.0", "health.stall_after:=3.0")
    with closing(LocalNode(capfd, *settings)) as node:
        peer.connect()
        image = colours((36, 64))
        image[0, 0, 0] = HANG
        peer.publisher.publish(message(image, 1))
        assert peer.spin_until(lambda: node.node._supervisor._worker.busy_seconds > 0)
        assert change(peer, node__queue_size=77).successful
        node.wait_for_log("the worker is restarted (1.)")
        (camera,) = node.node._cameras
        assert camera.queue._settings.queue_size == 77
        assert camera.stream.stream.config.node.queue_size == 77


def test_a_changed_gap_holds_for_the_clock(capfd: pytest.CaptureFixture[str], peer: Peer) -> None:
    with closing(LocalNode(capfd, "use_sim_time:=true", "stream.max_gap:=0.0")) as node:
        clock = peer.node.create_publisher(Clock, "/clock", 10)
        assert peer.spin_until(clock.get_subscription_count)
        assert change(peer, stream__max_gap=5.0).successful
        tick = Clock()
        tick.clock.sec = 1000
        clock.publish(tick)
        assert peer.spin_until(lambda: node.node.get_clock().now().nanoseconds > 0)
        tick.clock.sec = 9000
        clock.publish(tick)
        node.wait_for_log("the clock jumped ahead by 8000")


def another(name: str, value: Any) -> Any:
    """A permitted value that is not the present one."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, str):
        return {"drop_oldest": "drop_newest"}[value]
    return value + 1 if isinstance(value, int) else value / 2 + 0.01
