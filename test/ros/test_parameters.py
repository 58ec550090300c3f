"""Parameters mirror the config tree, and wrong ones are refused with a reason."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")

import rclpy
import yaml
from rclpy.context import Context
from rclpy.node import Node
from rclpy.parameter import Parameter

from stemseg_ros.config import load_config, walk_settings
from stemseg_ros.ros.parameters import (
    AT_START,
    NodeParameters,
    ParameterError,
    changed_config,
    declare_parameters,
    node_settings,
    parameter_type,
)

pytestmark = pytest.mark.ros

Declare = Callable[..., tuple[Node, NodeParameters]]
PARAMETER_FILE = Path(__file__).resolve().parents[2] / "config" / "stemseg.param.yaml"


@pytest.fixture
def declare() -> Iterator[Declare]:
    """declare("input.min_dim:=96", ...) gives a node with these values and what it read."""
    context = Context()
    nodes: list[Node] = []

    def start(*values: str, file: Path | None = None) -> tuple[Node, NodeParameters]:
        words = [word for value in values for word in ("-p", value)]
        files = ["--params-file", str(file)] if file else []
        rclpy.init(args=["--ros-args", *words, *files], context=context)
        nodes.append(Node("stemseg", context=context))
        return nodes[0], declare_parameters(nodes[0])

    yield start
    # Else it stays in the graph, where later tests of this process would take it for theirs.
    for node in nodes:
        node.destroy_node()
    rclpy.try_shutdown(context=context)


def test_every_setting_is_a_parameter_with_the_default_of_the_preset(declare: Declare) -> None:
    node, parameters = declare("config:=davis")
    assert parameters.config == load_config("davis")
    names = {
        name
        for name, _ in walk_settings(type(parameters.config))
        if name not in ("name", "model", "output.class_factors")  # ROS has no mappings
        and not name.startswith("training.")
    }
    assert {name for name, _ in node_settings(parameters.config)} == names
    assert all(node.has_parameter(name) for name in names)
    assert node.get_parameter("input.min_dim").value == load_config("davis").input.min_dim


def test_defaults(declare: Declare) -> None:
    _, parameters = declare()
    assert parameters == NodeParameters(
        load_config("lite"), checkpoint=None, device="auto", autostart=True
    )


@pytest.mark.parametrize(
    ("value", "setting"),
    [
        ("input.min_dim:=96", {"input.min_dim": 96}),
        ("clustering.min_heat:=0.5", {"clustering.min_heat": 0.5}),
        ("clustering.min_heat:=1", {"clustering.min_heat": 1.0}),
        ("input.mean_bgr:=[104,117,123]", {"input.mean_bgr": (104.0, 117.0, 123.0)}),
        ("runtime.channels_last:=true", {"runtime.channels_last": True}),
        ("window.length:=8", {"window.length": 8}),
        ("stitching.variant:=reference", {"stitching.variant": "reference"}),
        ("input.mean_bgr:=[1.0,2.0,3.0]", {"input.mean_bgr": (1.0, 2.0, 3.0)}),
        ("network.classes:=[van]", {"network.classes": ("van",)}),
        ("node.cameras:=[front,rear_left]", {"node.cameras": ("front", "rear_left")}),
        (
            "network.semantic_channels:=[64,64,32,32]",
            {"network.semantic_channels": (64, 64, 32, 32)},
        ),
    ],
)
def test_values_of_every_type_arrive(
    declare: Declare, value: str, setting: dict[str, object]
) -> None:
    _, parameters = declare(value)
    assert parameters.config == load_config("lite", setting)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (["input.min_dm:=96"], "unknown parameter 'input.min_dm'; did you mean 'input.min_dim'?"),
        (["chekpoint:=a"], "unknown parameter 'chekpoint'; did you mean 'checkpoint'?"),
        (["training.targets:=reference"], "unknown parameter 'training.targets'"),
        (["input.min_dim:=9"], "input.min_dim out of range. Min: 32, Max: 4096, value: 9"),
        (
            ["input.min_dim:=9.5"],
            "'input.min_dim' to '9.5' of type 'DOUBLE', expecting type 'INTEGER'",
        ),
        (["clustering.min_heat:=1.5"], "clustering.min_heat out of range"),
        (
            ["clustering.min_probability:=0.0"],
            "clustering.min_probability: Input should be greater than 0",
        ),
        (["window.length:=7"], "window.length: Input should be 2, 4, 8, 16, 24 or 32 (got 7)"),
        (["window.length:=4", "window.overlap:=5"], "overlap 5 is not below length 4"),
        (["network.mixing:=xyz"], "network.mixing: Input should be 'xy'"),
        (["input.mean_bgr:=[1.0,2.0]"], "input.mean_bgr"),
        (["config:=lit"], "no preset and no file named 'lit'; did you mean 'lite'?"),
        (["device:=gpu"], "device: expected auto, cpu, cuda, or cuda:n, got 'gpu'"),
        (["autostart:=2"], "autostart"),
        (["node.cameras:=[front,front]"], "two cameras have the same name: front, front"),
        (
            ["node.cameras:=front"],
            "node.cameras: Input should be a list, as in [a, b] (got 'front')",
        ),
        (["node.cameras:=[front,9lives]"], "node.cameras.1: String should match pattern"),
    ],
)
def test_wrong_values_are_refused(declare: Declare, values: list[str], reason: str) -> None:
    with pytest.raises(ParameterError) as caught:
        declare(*values)
    assert reason in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_descriptors_tell_range_choices_and_whether_it_can_change(declare: Declare) -> None:
    node, parameters = declare()
    heat = node.describe_parameter("clustering.min_heat")
    assert not heat.read_only
    assert (heat.floating_point_range[0].from_value, heat.floating_point_range[0].to_value) == (
        0.0,
        1.0,
    )
    assert heat.description == "Lowest heat map value of an instance centre."
    size = node.describe_parameter("input.min_dim")
    assert size.read_only
    assert size.description.endswith(f" {AT_START}")
    assert (size.integer_range[0].from_value, size.integer_range[0].to_value) == (32, 4096)
    assert (
        node.describe_parameter("window.length").additional_constraints
        == "one of 2, 4, 8, 16, 24, 32"
    )
    names = [name for name, _ in node_settings(parameters.config)]
    live = {name for name in names if not node.describe_parameter(name).read_only}
    assert live
    sections = {name.partition(".")[0] for name in live}
    assert sections == {"clustering", "stitching", "output", "stream", "node", "health"}


def test_setting_takes_effect_on_a_copy() -> None:
    config = load_config("lite")
    given = [Parameter("output.min_area", value=7), Parameter("use_sim_time", value=True)]
    changed = changed_config(config, given)
    assert changed.output.min_area == 7
    assert config.output.min_area == load_config("lite").output.min_area


def test_a_type_that_ros_lacks_is_named() -> None:
    with pytest.raises(TypeError, match="dict"):
        parameter_type(dict[str, int])


@pytest.mark.parametrize("comments", [False, True])
def test_shipped_file_holds_the_defaults(declare: Declare, tmp_path: Path, comments: bool) -> None:
    """As it is, and with the settings in its comments."""
    text = PARAMETER_FILE.read_text()
    file = tmp_path / "all.yaml"
    file.write_text(re.sub("(?m)^    #", "    ", text) if comments else text)
    _, parameters = declare(file=file)
    assert parameters == NodeParameters(load_config("lite"), None, "auto", autostart=True)
    assert list(yaml.safe_load(file.read_text())) == ["/**"]
    shown = yaml.safe_load(file.read_text())["/**"]["ros__parameters"]
    assert ("clustering" in shown) == comments
