"""Plays a bag into the stemseg node.

ros2 launch stemseg replay.launch.py bag:=drive.mcap

The player waits for the answers, so that no frame is lost however slow the device is; at the end
everything stops. The arguments of camera.launch.py hold here, too; the transport is that of the
bag.
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
from stemseg_ros.media.bag import IMAGE, IMAGE_TYPES, BagReader

CAMERA = Path(get_package_share_directory("stemseg")) / "launch" / "camera.launch.py"
ARGUMENTS = {
    "bag": (None, "ROS 2 bag: a folder, or an .mcap or .db3 file"),
    "bag_topic": ("", "image topic in the bag; empty: the only one"),
    "rate": ("1.0", "times the recorded rate, at most"),
    "in_flight": (
        "",
        "most frames without an answer; empty: as the node's window needs; 0: no limit",
    ),
}


def generate_launch_description() -> LaunchDescription:
    """The arguments of this file; the player, whose bag decides on the node; the node."""
    declared = [DeclareLaunchArgument(name, default_value=default, description=description)
                for name, (default, description) in ARGUMENTS.items()]
    # The player says when the stream ends; a busy machine is no reason to cut a window short.
    camera = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(CAMERA)),
        launch_arguments={"image_transport": LaunchConfiguration("bag_transport"),
                          "flush_after": "0.0"}.items())
    return LaunchDescription([*declared, OpaqueFunction(function=find_transport), camera,
                              OpaqueFunction(function=play)])


def find_transport(context: LaunchContext) -> None:
    """Set ``bag_transport`` to what the images in the bag are."""
    bag, topic = (LaunchConfiguration(name).perform(context) for name in ("bag", "bag_topic"))
    with BagReader(bag, IMAGE_TYPES, topic or None) as reader:
        transport = "raw" if reader.type == IMAGE else "compressed"
    context.launch_configurations["bag_transport"] = transport


def play(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """The player, and the end of everything when it is through."""
    names = (*ARGUMENTS, "image_topic", "namespace")
    value = {name: LaunchConfiguration(name).perform(context) for name in names}
    arguments = ["--bag", value["bag"], "--topic", value["image_topic"],
                 "--answers", "stemseg/instances", "--rate", value["rate"]]
    if value["bag_topic"]:
        arguments += ["--bag-topic", value["bag_topic"]]
    if value["in_flight"]:
        arguments += ["--in-flight", value["in_flight"]]
    player = Node(package="stemseg", executable="stemseg_player", namespace=value["namespace"],
                  arguments=arguments, output="screen")
    end = EmitEvent(event=Shutdown(reason="the player has ended"))
    return [player, RegisterEventHandler(OnProcessExit(target_action=player, on_exit=[end]))]
