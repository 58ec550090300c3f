"""The stemseg node on a camera topic: ros2 launch stemseg camera.launch.py image_topic:=/camera/image_raw."""

from __future__ import annotations

import os
from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable
from launch.conditions import IfCondition
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode, Node

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity

SHARE = Path(get_package_share_directory("stemseg"))
PROFILES = "FASTRTPS_DEFAULT_PROFILES_FILE"
ARGUMENTS = {
    "namespace": ("", "namespace of the node"),
    "image_topic": ("/camera/image_raw", "images to segment; the base name, whatever the transport"),
    "image_transport": ("", "raw (sensor_msgs/Image) or compressed (sensor_msgs/CompressedImage)"),
    "config": ("", "preset, or path of a YAML file"),
    "checkpoint": ("", "file of the weights"),
    "device": ("", "auto, cpu, cuda, or cuda:1"),
    "params_file": (str(SHARE / "config" / "stemseg.param.yaml"),
                    "parameters; the arguments here that are not empty go before it"),
    "autostart": ("true", "configure and activate at start, or leave that to a lifecycle manager"),
    "use_sim_time": ("false", "use the time of /clock"),
    "log_level": ("info", "debug, info, warn, error"),
    "rviz": ("false", "show the overlay in RViz"),
}
PARAMETERS = {"image_transport": "node.image_transport", "config": "config", "checkpoint": "checkpoint",
              "device": "device"}


def generate_launch_description() -> LaunchDescription:
    """Declares the arguments; the actions need their values."""
    declared = [DeclareLaunchArgument(name, default_value=default, description=description)
                for name, (default, description) in ARGUMENTS.items()]
    return LaunchDescription([*declared, OpaqueFunction(function=start)])


def start(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """The node, the transport profile unless one is set, and RViz on demand."""
    value = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    given = {parameter: value[name] for name, parameter in PARAMETERS.items() if value[name]}
    switches = {name: value[name].lower() == "true" for name in ("autostart", "use_sim_time")}
    logger = ".".join([*value["namespace"].strip("/").split("/"), "stemseg"]).lstrip(".")
    node = LifecycleNode(
        package="stemseg", executable="stemseg_node", name="stemseg", namespace=value["namespace"],
        parameters=[value["params_file"], given | switches],
        remappings=[("image", value["image_topic"])],
        arguments=["--ros-args", "--log-level", f"{logger}:={value['log_level']}"],
        output="screen",
    )
    rviz = Node(
        package="rviz2", executable="rviz2", arguments=["-d", str(SHARE / "config" / "stemseg.rviz")],
        condition=IfCondition(value["rviz"]),
    )
    profile = SetEnvironmentVariable(PROFILES, str(SHARE / "config" / "fastdds_shm.xml"))
    return [*([] if PROFILES in os.environ else [profile]), node, rviz]
