"""The stemseg node on a camera topic.

ros2 launch stemseg camera.launch.py image_topic:=/camera/image_raw
"""

from __future__ import annotations

import os
from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode, Node

SHARE = Path(get_package_share_directory("stemseg"))
PROFILES = "FASTRTPS_DEFAULT_PROFILES_FILE"
ARGUMENTS = {
    "namespace": ("", "namespace of the node"),
    "image_topic": (
        "/camera/image_raw",
        "images to segment: the base name, whatever the transport",
    ),
    "image_transport": ("", "raw (sensor_msgs/Image) or compressed (sensor_msgs/CompressedImage)"),
    "config": ("", "preset, or path of a YAML file"),
    "checkpoint": ("", "file of the weights"),
    "device": ("", "auto, cpu, cuda, or cuda:1"),
    "flush_after": (
        "",
        "seconds without images after which pending frames are finished; 0: never",
    ),
    "autostart": ("", "true: configure and activate at start; false: leave that to a manager"),
    "use_sim_time": ("", "true: use the time of /clock"),
    "params_file": (
        str(SHARE / "config" / "stemseg.param.yaml"),
        "parameters; what is given by the other arguments wins",
    ),
    "log_level": ("info", "debug, info, warn, error"),
    "rviz": ("false", "true: show the overlay in RViz"),
}
PARAMETERS = {
    "image_transport": ("node.image_transport", str),
    "config": ("config", str),
    "checkpoint": ("checkpoint", str),
    "device": ("device", str),
    "flush_after": ("window.flush_after", float),
    "autostart": ("autostart", lambda text: text.lower() == "true"),
    "use_sim_time": ("use_sim_time", lambda text: text.lower() == "true"),
}
"""Arguments that set a parameter, if they are not empty: its name, and how the text is read."""


def generate_launch_description() -> LaunchDescription:
    """Declares the arguments; the actions need their values."""
    declared = [
        DeclareLaunchArgument(name, default_value=default, description=description)
        for name, (default, description) in ARGUMENTS.items()
    ]
    return LaunchDescription([*declared, OpaqueFunction(function=start)])


def start(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """The node, the transport profile unless one is set, and RViz on demand."""
    value = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    given = {
        parameter: read(value[name])
        for name, (parameter, read) in PARAMETERS.items()
        if value[name]
    }
    logger = ".".join([*value["namespace"].strip("/").split("/"), "stemseg"]).lstrip(".")
    actions: list[LaunchDescriptionEntity] = []
    if PROFILES not in os.environ:
        profile = str(SHARE / "config" / "fastdds_shm.xml")
        actions.append(SetEnvironmentVariable(PROFILES, profile))
    actions.append(
        LifecycleNode(
            package="stemseg",
            executable="stemseg_node",
            name="stemseg",
            namespace=value["namespace"],
            parameters=[value["params_file"], given],
            remappings=[("image", value["image_topic"])],
            arguments=["--ros-args", "--log-level", f"{logger}:={value['log_level']}"],
            output="screen",
        )
    )
    if value["rviz"].lower() == "true":
        actions.append(
            Node(
                package="rviz2",
                executable="rviz2",
                namespace=value["namespace"],
                arguments=["-d", str(SHARE / "config" / "stemseg.rviz")],
                parameters=[{"use_sim_time": given.get("use_sim_time", False)}],
            )
        )
    return actions
