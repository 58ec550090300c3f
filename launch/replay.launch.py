"""Plays a bag into the stemseg node: ros2 launch stemseg replay.launch.py bag:=drive.mcap.

The player waits for the answers, so that no frame is lost however slow the device is; at the end everything
stops. The arguments of camera.launch.py hold here, too.
"""

from __future__ import annotations

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    IncludeLaunchDescription,
    OpaqueFunction,
    RegisterEventHandler,
)
from launch.event_handlers import OnProcessExit
from launch.events import Shutdown
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity

CAMERA = Path(get_package_share_directory("stemseg")) / "launch" / "camera.launch.py"


def generate_launch_description() -> LaunchDescription:
    """The arguments of this file, the node with its own arguments, and the player."""
    return LaunchDescription([
        DeclareLaunchArgument("bag", description="ROS 2 bag: a folder, or an .mcap or .db3 file"),
        DeclareLaunchArgument("bag_topic", default_value="",
                              description="image topic in the bag; empty: the only one"),
        DeclareLaunchArgument("rate", default_value="1.0", description="times the recorded rate, at most"),
        DeclareLaunchArgument("in_flight", default_value="16",
                              description="most frames without an answer; 0: no waiting for answers"),
        IncludeLaunchDescription(PythonLaunchDescriptionSource(str(CAMERA))),
        OpaqueFunction(function=play),
    ])


def play(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """The player, and the end of everything when it is through."""
    names = ("bag", "bag_topic", "rate", "in_flight", "image_topic", "namespace")
    value = {name: LaunchConfiguration(name).perform(context) for name in names}
    arguments = ["--bag", value["bag"], "--topic", value["image_topic"], "--answers", "stemseg/instances",
                 "--rate", value["rate"], "--in-flight", value["in_flight"]]
    if value["bag_topic"]:
        arguments += ["--bag-topic", value["bag_topic"]]
    player = Node(package="stemseg", executable="stemseg_player", namespace=value["namespace"],
                  arguments=arguments, output="screen")
    end = EmitEvent(event=Shutdown(reason="the player has ended"))
    return [player, RegisterEventHandler(OnProcessExit(target_action=player, on_exit=[end]))]
