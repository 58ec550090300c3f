"""Plays a bag into the stemseg node.

ros2 launch stemseg replay.launch.py bag:=drive.mcap
ros2 launch stemseg replay.launch.py bag:=labelled.mcap evaluate:=true out:=report

The player waits for the answers, so that no frame is lost however slow the device is; at the end
everything stops. The arguments of camera.launch.py hold here, too; the transport is that of the
bag. With evaluate:=true the answers are recorded and scored against /ground_truth/instances.
If the player, the recorder or the evaluation fails, the launch ends at once with exit code 1.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    ExecuteProcess,
    IncludeLaunchDescription,
    OpaqueFunction,
    RegisterEventHandler,
    TimerAction,
)
from launch.event_handlers import OnProcessExit, OnProcessIO
from launch.events import Shutdown, matches_action
from launch.events.process import ProcessExited, ProcessIO, SignalProcess
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from stemseg_ros.media.bags import IMAGE, IMAGE_TYPES, BagReader

CAMERA = Path(get_package_share_directory("stemseg")) / "launch" / "camera.launch.py"
ARGUMENTS = {
    "bag": (None, "ROS 2 bag: a folder, or an .mcap or .db3 file"),
    "bag_topic": ("", "image topic in the bag; empty: the only one"),
    "rate": ("1.0", "times the recorded rate, at most"),
    "in_flight": (
        "",
        "most frames without an answer; empty: as the node's window needs; 0: no limit",
    ),
    "evaluate": ("false", "true: score the answers against the ground truth in the bag"),
    "out": ("out/replay", "folder for the answers and the report of an evaluation"),
}
ANSWERS = "stemseg/instances"
RECORDED = "instances.mcap"
SETTLE_S = 2.0
"""The last messages may be on their way to the recorder when the player has all its answers."""
EVALUATE = (sys.executable, "-c", "from stemseg_ros.cli.entry import main; main()", "evaluate")


def generate_launch_description() -> LaunchDescription:
    """The arguments of this file; the player, whose bag decides on the node; the node."""
    declared = [
        DeclareLaunchArgument(name, default_value=default, description=description)
        for name, (default, description) in ARGUMENTS.items()
    ]
    # The player says when the stream ends; a busy machine is no reason to cut a window short.
    camera = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(CAMERA)),
        launch_arguments={
            "image_transport": LaunchConfiguration("bag_transport"),
            "flush_after": "0.0",
            "respawn": "false",  # the player would wait for answers that are lost
        }.items(),
    )
    return LaunchDescription(
        [*declared, OpaqueFunction(function=find_transport), camera, OpaqueFunction(function=play)]
    )


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
    arguments = [
        "--bag",
        value["bag"],
        "--topic",
        value["image_topic"],
        "--answers",
        ANSWERS,
        "--rate",
        value["rate"],
    ]
    if value["bag_topic"]:
        arguments += ["--bag-topic", value["bag_topic"]]
    if value["in_flight"]:
        arguments += ["--in-flight", value["in_flight"]]
    player = Node(
        package="stemseg",
        executable="stemseg_player",
        namespace=value["namespace"],
        arguments=arguments,
        output="screen",
    )
    if value["evaluate"].lower() in ("true", "1"):
        out = Path(value["out"])
        score = score_command(value["bag"], value["bag_topic"], out)
        return evaluation(player, score, out, value["namespace"])
    return [player, after(player, shutdown("the player has ended"))]


def score_command(bag: str, bag_topic: str, out: Path) -> list[str]:
    """``stemseg evaluate`` for the recorded answers."""
    command = [*EVALUATE, "--ground-truth", bag, "--results", str(out / RECORDED)]
    return [*command, "--out", str(out), *(["--topic", bag_topic] if bag_topic else [])]


def evaluation(
    player: Node, command: list[str], out: Path, namespace: str
) -> list[LaunchDescriptionEntity]:
    """The recorder, the player once the recorder hears the node, then the score of the answers."""
    out.mkdir(parents=True, exist_ok=True)
    answers = out / RECORDED
    answers.unlink(missing_ok=True)
    recorder = Node(
        package="stemseg",
        executable="stemseg_recorder",
        namespace=namespace,
        arguments=["--out", str(answers), "--topic", ANSWERS],
        output="screen",
    )
    score = ExecuteProcess(cmd=command, output="screen")
    stop = EmitEvent(
        event=SignalProcess(signal_number=signal.SIGINT, process_matcher=matches_action(recorder))
    )
    started: list[Node] = []

    def play_when_heard(event: ProcessIO) -> list[Node]:
        if started or b"recording" not in event.text:
            return []
        started.append(player)
        return started

    return [
        recorder,
        RegisterEventHandler(
            OnProcessIO(
                target_action=recorder, on_stdout=play_when_heard, on_stderr=play_when_heard
            )
        ),
        after(player, TimerAction(period=SETTLE_S, actions=[stop])),
        after(recorder, score),
        after(score, shutdown("the answers are scored")),
    ]


def after(process: ExecuteProcess, action: LaunchDescriptionEntity) -> RegisterEventHandler:
    """Do something once a process has succeeded; if it fails, everything ends with an error."""

    def proceed(event: ProcessExited, context: LaunchContext) -> list[LaunchDescriptionEntity]:
        if context.is_shutdown:
            return []
        if event.returncode != 0:
            # What a handler raises is logged, shuts down and makes the exit code of launch 1.
            raise RuntimeError(f"{event.process_name} failed with exit code {event.returncode}")
        return [action]

    return RegisterEventHandler(OnProcessExit(target_action=process, on_exit=proceed))


def shutdown(reason: str) -> EmitEvent:
    """The end of everything."""
    return EmitEvent(event=Shutdown(reason=reason))
