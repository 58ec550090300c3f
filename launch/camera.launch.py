"""The stemseg node on a camera topic, or on several.

ros2 launch stemseg camera.launch.py image_topic:=/camera/image_raw
ros2 launch stemseg camera.launch.py cameras:=my_cameras.yaml   # as config/cameras.yaml

A wrong argument is refused before anything starts. The node is started again when its process
fails, but for a wrong parameter: then the launch ends with exit code 1. A node that was shut down
stays down.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from ament_index_python.packages import (
    PackageNotFoundError,
    get_package_prefix,
    get_package_share_directory,
)
from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    OpaqueFunction,
    RegisterEventHandler,
)
from launch.event_handlers import OnProcessExit
from launch.events import matches_action
from launch.events.process import ProcessExited, ShutdownProcess
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode, Node

from stemseg_ros.ros.launch_arguments import (
    NODE_ARGUMENTS,
    LaunchArgumentError,
    read_bool,
    read_cameras,
    read_file,
    read_number,
    refuse_unknown,
    transport_profile,
)

SHARE = Path(get_package_share_directory("stemseg"))
RESPAWN_DELAY_S = 2.0
WRONG_PARAMETER = 2
"""Exit code of the node that only the user can do something about."""
ARGUMENTS = {
    "image_topic": (
        "/camera/image_raw",
        "images to segment: the base name, whatever the transport",
    ),
    "cameras": ("", "YAML file of several cameras, instead of image_topic: name: image topic"),
    "image_transport": ("", "raw (sensor_msgs/Image) or compressed (sensor_msgs/CompressedImage)"),
    "flush_after": (
        "",
        "seconds without images after which pending frames are finished; 0: never",
    ),
    "respawn": ("true", "true: start the node again when its process fails, 2 s later"),
    **NODE_ARGUMENTS,
}
PARAMETERS = {
    "image_transport": ("node.image_transport", lambda name, text: text),
    "config": ("config", lambda name, text: text),
    "checkpoint": ("checkpoint", lambda name, text: text),
    "device": ("device", lambda name, text: text),
    "flush_after": ("stream.flush_after", read_number),
    "autostart": ("autostart", read_bool),
    "use_sim_time": ("use_sim_time", read_bool),
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
    """The node, and RViz on demand."""
    refuse_unknown(Path(__file__), ARGUMENTS, sys.argv)
    value = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    given = {
        parameter: read(name, value[name])
        for name, (parameter, read) in PARAMETERS.items()
        if value[name]
    }
    remappings = [("image", value["image_topic"])]
    if value["cameras"]:
        cameras = read_cameras("cameras", value["cameras"])
        given["node.cameras"] = list(cameras)
        remappings = [(f"{name}/image", topic) for name, topic in cameras.items()]
    rviz = overlay_viewer(value["namespace"], given) if read_bool("rviz", value["rviz"]) else []
    logger = ".".join([*value["namespace"].strip("/").split("/"), "stemseg"]).lstrip(".")
    node = LifecycleNode(
        package="stemseg",
        executable="stemseg_node",
        name="stemseg",
        namespace=value["namespace"],
        parameters=[read_file("params_file", value["params_file"]), given],
        remappings=remappings,
        respawn=read_bool("respawn", value["respawn"]),
        respawn_delay=RESPAWN_DELAY_S,
        arguments=["--ros-args", "--log-level", f"{logger}:={value['log_level']}"],
        additional_env=transport_profile(),
        output="screen",
    )
    exit_handler = OnProcessExit(target_action=node, on_exit=decide_on_respawn)
    return [RegisterEventHandler(exit_handler), node, *rviz]


def overlay_viewer(namespace: str, given: dict[str, object]) -> list[Node]:
    """RViz on the overlay. Raises LaunchArgumentError where it is not installed."""
    try:
        get_package_prefix("rviz2")
    except PackageNotFoundError as error:
        distribution = os.environ.get("ROS_DISTRO", "jazzy")
        raise LaunchArgumentError(
            f"rviz: rviz2 is not installed: apt install ros-{distribution}-rviz2, or leave out "
            "rviz:=true and see the overlay with 'stemseg view'"
        ) from error
    return [
        Node(
            package="rviz2",
            executable="rviz2",
            namespace=namespace,
            arguments=["-d", str(SHARE / "config" / "stemseg.rviz")],
            parameters=[{"use_sim_time": given.get("use_sim_time", False)}],
            additional_env=transport_profile(),
        )
    ]


def decide_on_respawn(event: ProcessExited, context: LaunchContext) -> list[EmitEvent]:
    """Keep down a node that was shut down, and end the launch for a wrong parameter, before the
    node is started again only to fail again."""
    if context.is_shutdown:
        return []
    if event.returncode == WRONG_PARAMETER:
        # What a handler raises is logged, shuts down and makes the exit code of launch 1.
        raise RuntimeError(f"{event.process_name}: a parameter is wrong; its last line names it")
    down = ShutdownProcess(process_matcher=matches_action(event.action))
    return [EmitEvent(event=down)] if event.returncode == 0 else []
