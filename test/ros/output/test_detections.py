"""Boxes on ~/detections, with the interface of vision_msgs built for the test.

The definitions are those of vision_msgs 4 (ROS 2), written out below; no package index has them.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")
from ros.harness import Peer, message, process, ros_arguments, scene, toy_node
from sensor_msgs.msg import CompressedImage, Image

from stemseg_ros.media.messages import bgr_from_message

pytestmark = pytest.mark.ros

DEFINITIONS = {
    "Point2D": "float64 x\nfloat64 y",
    "Pose2D": "vision_msgs/Point2D position\nfloat64 theta",
    "BoundingBox2D": "vision_msgs/Pose2D center\nfloat64 size_x\nfloat64 size_y",
    "ObjectHypothesis": "string class_id\nfloat64 score",
    "ObjectHypothesisWithPose": "ObjectHypothesis hypothesis\n"
    "geometry_msgs/PoseWithCovariance pose",
    "Detection2D": "std_msgs/Header header\nObjectHypothesisWithPose[] results\n"
    "BoundingBox2D bbox\nstring id",
    "Detection2DArray": "std_msgs/Header header\nDetection2D[] detections",
}
CMAKE = """
cmake_minimum_required(VERSION 3.16)
project(vision_msgs)
find_package(ament_cmake REQUIRED)
find_package(rosidl_default_generators REQUIRED)
find_package(std_msgs REQUIRED)
find_package(geometry_msgs REQUIRED)
file(GLOB messages RELATIVE ${CMAKE_CURRENT_SOURCE_DIR} msg/*.msg)
rosidl_generate_interfaces(${PROJECT_NAME} ${messages} DEPENDENCIES std_msgs geometry_msgs)
ament_package()
"""
MANIFEST = """
<package format="3">
  <name>vision_msgs</name> <version>4.1.1</version> <description>for a test</description>
  <maintainer email="nobody@example.org">nobody</maintainer> <license>Apache-2.0</license>
  <buildtool_depend>ament_cmake</buildtool_depend>
  <buildtool_depend>rosidl_default_generators</buildtool_depend>
  <depend>std_msgs</depend> <depend>geometry_msgs</depend>
  <member_of_group>rosidl_interface_packages</member_of_group>
  <export><build_type>ament_cmake</build_type></export>
</package>
"""
ALL = ("output.min_area:=0",)
TOOLS = Path(__file__).resolve().parents[3] / "tools"


@pytest.fixture(scope="module")
def vision_msgs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Environment of processes that have vision_msgs; the package is built for it, with CMake."""
    if importlib.util.find_spec("vision_msgs") is not None:
        return {}
    spec = importlib.util.spec_from_file_location("build_messages", TOOLS / "build_messages.py")
    assert spec is not None
    assert spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    if reason := tool.missing_tool():
        pytest.skip(reason)
    source, prefix = tmp_path_factory.mktemp("vision_msgs"), tmp_path_factory.mktemp("prefix")
    (source / "msg").mkdir()
    for name, text in DEFINITIONS.items():
        (source / "msg" / f"{name}.msg").write_text(text + "\n")
    (source / "CMakeLists.txt").write_text(CMAKE)
    (source / "package.xml").write_text(MANIFEST)
    tool.build(source / "build", source, prefix)
    python = next(prefix.glob("lib/python3.*/site-packages"))
    added = {
        "PYTHONPATH": [TOOLS.parent, TOOLS.parent / "test", python],
        "LD_LIBRARY_PATH": [prefix / "lib"],
        "AMENT_PREFIX_PATH": [prefix, Path(sys.prefix)],
    }
    return {
        name: os.pathsep.join([*map(str, paths), *filter(None, [os.environ.get(name)])])
        for name, paths in added.items()
    }


def test_boxes_come_out_as_detections(peer: Peer, vision_msgs: dict[str, str]) -> None:
    node = process(
        "toy_node.py", *ros_arguments(*ALL, "window.length:=2", "window.overlap:=1"), **vision_msgs
    )
    listening = process("detection_listener.py", "3", **vision_msgs)
    with node as child, listening as listener:
        peer.connect()
        topic = "/stemseg/detections"
        assert peer.spin_until(lambda: peer.node.count_subscribers(topic))
        peer.spin_for(1.0)  # the node has to hear of the listener, too
        for second in range(4):
            peer.publisher.publish(message(scene(second), second))
        peer.expect(3)
        assert peer.spin_until(lambda: listener.popen.poll() is not None), child.log
        lines = [json.loads(line) for line in listener.log.splitlines()]
    epoch = peer.received[0].epoch
    assert [line["stamp"] for line in lines] == [0, 1, 2]
    for second, line in enumerate(lines):
        assert line["frame_id"] == "camera_optical"
        still, moving = line["detections"]
        assert still["id"] == f"{epoch}-5"
        assert still["center"] == [7.5, 7.0]
        assert still["size"] == [9.0, 6.0]
        assert moving["id"] == f"{epoch}-9"
        assert moving["center"] == [10.0 + second, 16.0]
        assert (moving["class"], moving["score"], moving["theta"]) == ("car", 0.5, 0.0)
        assert moving["same_header"]


@pytest.mark.skipif(
    importlib.util.find_spec("vision_msgs") is not None, reason="vision_msgs is installed"
)
def test_without_vision_msgs_there_is_no_such_topic(peer: Peer) -> None:
    with toy_node():
        peer.connect()

        def topics() -> dict[str, list[str]]:
            return dict(peer.node.get_topic_names_and_types())

        # They are announced in order: whoever knows of the last one knows of all.
        assert peer.spin_until(lambda: "/stemseg/overlay/compressed" in topics())
        assert "/stemseg/detections" not in topics()


def test_the_compressed_overlay_is_the_overlay(peer: Peer) -> None:
    """Without labels no pixel outside of the masks changes, which JPEG leaves nearly so."""
    raw: list[Image] = []
    compressed: list[CompressedImage] = []
    with toy_node(*ALL, "window.length:=2", "window.overlap:=1", "node.overlay_labels:=false"):
        peer.connect()
        peer.subscribe(Image, "stemseg/overlay", raw)
        peer.subscribe(CompressedImage, "stemseg/overlay/compressed", compressed)
        peer.spin_for(1.0)
        image = scene(size=(96, 128))
        for second in range(3):
            peer.publisher.publish(message(image, second))
        assert peer.spin_until(lambda: len(raw) >= 2 and len(compressed) >= 2)
    assert compressed[0].format == "bgr8; jpeg compressed bgr8"
    assert compressed[0].header == raw[0].header
    drawn, unpacked = bgr_from_message(raw[0]), bgr_from_message(compressed[0])
    assert drawn.max() > 50
    assert abs(drawn.astype(int) - unpacked).mean() < 3
    assert (drawn[30:] == image[30:]).all()
