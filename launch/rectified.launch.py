"""Camera images unpacked and rectified in one container, then the stemseg node.

ros2 launch stemseg rectified.launch.py image_topic:=/camera/image_raw
ros2 launch stemseg rectified.launch.py image_topic:=/camera/image_raw republish:=compressed

Needs image_proc (apt install ros-jazzy-image-proc), and for republish the plugin of the transport.
The container passes images between its components without a copy; the node, which is Python and
therefore no component, is a process of its own. A wrong argument is refused before anything
starts.
"""

from __future__ import annotations

import sys
from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, OpaqueFunction
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import ComposableNodeContainer
from launch_ros.descriptions import ComposableNode

from stemseg_ros.ros.launch_arguments import (
    NODE_ARGUMENTS,
    refuse_unknown,
    transport_profile,
)

CAMERA = Path(get_package_share_directory("stemseg")) / "launch" / "camera.launch.py"
ARGUMENTS = {
    "image_topic": ("/camera/image_raw", "images of the camera as they come, distorted"),
    "camera_info_topic": ("", "its calibration; empty: camera_info beside the images"),
    "republish": ("", "transport to unpack first (compressed, theora, ...); empty: raw"),
    "flush_after": (
        "",
        "seconds without images after which pending frames are finished; 0: never",
    ),
    "respawn": ("true", "true: start the node again when its process fails, 2 s later"),
    **NODE_ARGUMENTS,
    "namespace": ("", "namespace of all nodes"),
}
FOR_THE_NODE = ("flush_after", "respawn", *NODE_ARGUMENTS)
UNPACKED, RECTIFIED = "stemseg/input/image_raw", "stemseg/input/image_rect"
INTRA_PROCESS = [{"use_intra_process_comms": True}]


def generate_launch_description() -> LaunchDescription:
    """Declares the arguments; the actions need their values."""
    declared = [
        DeclareLaunchArgument(name, default_value=default, description=description)
        for name, (default, description) in ARGUMENTS.items()
    ]
    return LaunchDescription([*declared, OpaqueFunction(function=start)])


def start(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """The node, whose arguments are checked first, and the container."""
    refuse_unknown(Path(__file__), ARGUMENTS, sys.argv)
    arguments = {name: LaunchConfiguration(name).perform(context) for name in FOR_THE_NODE}
    arguments |= {"image_topic": RECTIFIED, "image_transport": "raw", "cameras": ""}
    camera = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(CAMERA)), launch_arguments=arguments.items()
    )
    container = preprocess(context)  # before the camera overwrites the topic of the images
    return [camera, *container]


def preprocess(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """The container: republish, if asked for, and rectify."""
    value = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    raw = value["image_topic"]
    info = value["camera_info_topic"] or "/".join([*raw.split("/")[:-1], "camera_info"])
    nodes = []
    if value["republish"]:
        transport = value["republish"]
        nodes.append(
            ComposableNode(
                package="image_transport",
                plugin="image_transport::Republisher",
                name="republish",
                namespace=value["namespace"],
                parameters=[{"in_transport": transport, "out_transport": "raw"}],
                remappings=[(f"in/{transport}", f"{raw}/{transport}"), ("out", UNPACKED)],
                extra_arguments=INTRA_PROCESS,
            )
        )
        raw = UNPACKED
    nodes.append(
        ComposableNode(
            package="image_proc",
            plugin="image_proc::RectifyNode",
            name="rectify",
            namespace=value["namespace"],
            remappings=[("image", raw), ("camera_info", info), ("image_rect", RECTIFIED)],
            extra_arguments=INTRA_PROCESS,
        )
    )
    return [
        ComposableNodeContainer(
            package="rclcpp_components",
            executable="component_container",
            name="stemseg_input",
            namespace=value["namespace"],
            composable_node_descriptions=nodes,
            additional_env=transport_profile(),
            output="screen",
        )
    ]
