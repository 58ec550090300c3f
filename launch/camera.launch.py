"""The stemseg node on a camera topic, or on several.

ros2 launch stemseg camera.launch.py image_topic:=/camera/image_raw
ros2 launch stemseg camera.launch.py cameras:=my_cameras.yaml   # as config/cameras.yaml
"""

from __future__ import annotations

import os
from pathlib import Path

import yaml
from ament_index_python.packages import get_package_share_directory
from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode, Node

SHARE = Path(get_package_share_directory("stemseg"))
RESPAWN_DELAY_S = 2.0
PROFILES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")
"""Variables of Fast DDS: the one of all versions, and that of newer ones."""
ARGUMENTS = {
    "namespace": ("", "namespace of the node"),
    "image_topic": (
        "/camera/image_raw",
        "images to segment: the base name, whatever the transport",
    ),
    "cameras": ("", "YAML file of several cameras, instead of image_topic: name: image topic"),
    "image_transport": ("", "raw (sensor_msgs/Image) or compressed (sensor_msgs/CompressedImage)"),
    "config": ("", "preset, or path of a YAML file"),
    "checkpoint": ("", "file of the weights"),
    "device": ("", "auto, cpu, cuda, or cuda:1"),
    "flush_after": (
        "",
        "seconds without images after which pending frames are finished; 0: never",
    ),
    "autostart": ("", "true: configure and activate at start; false: leave that to a manager"),
    "respawn": ("true", "true: start the node again when its process ends, 2 s later"),
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
    remappings = [("image", value["image_topic"])]
    if value["cameras"]:
        cameras = read_cameras(Path(value["cameras"]))
        given["node.cameras"] = list(cameras)
        remappings = [(f"{name}/image", topic) for name, topic in cameras.items()]
    logger = ".".join([*value["namespace"].strip("/").split("/"), "stemseg"]).lstrip(".")
    actions: list[LaunchDescriptionEntity] = []
    if not any(name in os.environ for name in PROFILES):
        profile = str(SHARE / "config" / "fastdds_shm.xml")
        actions.append(SetEnvironmentVariable(PROFILES[0], profile))
    actions.append(
        LifecycleNode(
            package="stemseg",
            executable="stemseg_node",
            name="stemseg",
            namespace=value["namespace"],
            parameters=[value["params_file"], given],
            remappings=remappings,
            respawn=value["respawn"].lower() == "true",
            respawn_delay=RESPAWN_DELAY_S,
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


def read_cameras(file: Path) -> dict[str, str]:
    """Name -> image topic. Raises ValueError, which ends the launch, for what is no such file."""
    try:
        cameras = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"cameras: '{file}' cannot be read: {error}") from error
    if not isinstance(cameras, dict) or not cameras:
        raise ValueError(f"cameras: '{file}' holds no lines such as 'front: /front/image_raw'")
    for name, topic in cameras.items():
        if not isinstance(name, str) or not isinstance(topic, str) or not topic:
            raise ValueError(
                f"cameras: '{file}': expected a name and a topic, got {name}: {topic}"
            )
    return cameras
