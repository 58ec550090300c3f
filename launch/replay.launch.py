"""Plays a bag into the stemseg node.

ros2 launch stemseg replay.launch.py bag:=drive.mcap
ros2 launch stemseg replay.launch.py bag:=labelled.mcap evaluate:=true out:=report

The player waits for the results, so that no frame is lost however slow the device is; at the end
everything stops. With evaluate:=true the results are recorded and scored against
/ground_truth/instances. A wrong argument is refused before anything starts. If the node, the
player, the recorder or the evaluation fails, the launch ends at once with exit code 1.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from ament_index_python.packages import get_package_prefix, get_package_share_directory
from launch import Action, LaunchContext, LaunchDescription, LaunchDescriptionEntity
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
from launch_ros.actions import LifecycleNode, Node

from stemseg_ros.ros.launch_arguments import (
    NODE_ARGUMENTS,
    LaunchArgumentError,
    read_bool,
    read_count,
    read_positive,
    refuse_unknown,
    transport_profile,
)

CAMERA = Path(get_package_share_directory("stemseg")) / "launch" / "camera.launch.py"
PROGRAMS = Path(get_package_prefix("stemseg")) / "lib" / "stemseg"
ARGUMENTS = {
    "bag": (None, "ROS 2 bag: a folder, or an .mcap or .db3 file"),
    "bag_topic": ("", "image topic in the bag; empty: the only one"),
    "rate": ("1.0", "times the recorded rate, at most"),
    "in_flight": ("", "most frames without a result; empty: as the model needs; 0: no limit"),
    "evaluate": ("false", "true: score the results against the ground truth in the bag"),
    "out": ("out/replay", "folder for the results and the report of an evaluation"),
    "image_topic": ("/camera/image_raw", "topic to play the images on"),
    **NODE_ARGUMENTS,
}
RESULTS = "stemseg/instances"
RECORDED = "instances.mcap"
TRUTH_TOPIC = "/ground_truth/instances"
NOT_CONFIGURED = "cannot configure: "
"""What the node logs, before the reason, when it cannot load its model."""
SETTLE_S = 2.0
"""The last messages may be on their way to the recorder when the player has all its results."""


def generate_launch_description() -> LaunchDescription:
    """The arguments; the player, whose bag decides on the node; the node."""
    declared = [
        DeclareLaunchArgument(name, default_value=default, description=description)
        for name, (default, description) in ARGUMENTS.items()
    ]
    return LaunchDescription([*declared, OpaqueFunction(function=start)])


def start(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """The node, then the player and what the evaluation needs."""
    refuse_unknown(Path(__file__), ARGUMENTS, sys.argv)
    value = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    evaluate = read_bool("evaluate", value["evaluate"])
    arguments = player_arguments(value)
    transport = look_at_bag(arguments, evaluate)
    return [
        *end_with_the_node(),
        camera(value, transport),
        OpaqueFunction(function=play, args=[value, arguments, evaluate]),
    ]


def player_arguments(value: dict[str, str]) -> list[str]:
    """Command line of the player. Raises LaunchArgumentError."""
    arguments = ["--bag", value["bag"], "--topic", value["image_topic"], "--results", RESULTS]
    arguments += ["--rate", str(read_positive("rate", value["rate"]))]
    if value["bag_topic"]:
        arguments += ["--bag-topic", value["bag_topic"]]
    if value["in_flight"]:
        arguments += ["--in-flight", str(read_count("in_flight", value["in_flight"]))]
    return arguments


def look_at_bag(arguments: list[str], evaluate: bool) -> str:
    """The transport of the images: raw or compressed. Raises LaunchArgumentError.

    The player looks: this process may have no library that reads bags.
    """
    command = [str(PROGRAMS / "stemseg_player"), *arguments, "--check"]
    command += ["--requires", TRUTH_TOPIC] if evaluate else []
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        (*_, reason) = done.stderr.splitlines() or [f"exit code {done.returncode}"]
        raise LaunchArgumentError(reason.removeprefix("stemseg_player: "))
    return done.stdout.split()[-1]


def camera(value: dict[str, str], transport: str) -> IncludeLaunchDescription:
    """The node. It is the player that says when the stream ends: a busy machine is no reason to
    finish pending frames early. Nor is the node started again: results would be missing."""
    arguments = {name: value[name] for name in NODE_ARGUMENTS}
    arguments |= {"image_topic": value["image_topic"], "image_transport": transport}
    arguments |= {"cameras": "", "flush_after": "0.0", "respawn": "false"}
    return IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(CAMERA)), launch_arguments=arguments.items()
    )


def end_with_the_node() -> list[RegisterEventHandler]:
    """End the launch when the node has ended or cannot load its model, with its reason."""
    said: list[str] = []

    def listen(event: ProcessIO) -> None:
        for line in filter(None, event.text.decode(errors="replace").splitlines()):
            said[:] = [line]
            if NOT_CONFIGURED in line:
                raise RuntimeError(line.partition(NOT_CONFIGURED)[2])

    def report(event: ProcessExited, context: LaunchContext) -> None:
        if not context.is_shutdown:
            reason = f": {said[-1]}" if said else ""
            raise RuntimeError(f"the node ended with exit code {event.returncode}{reason}")

    return [
        RegisterEventHandler(OnProcessIO(target_action=is_the_node, on_stderr=listen)),
        RegisterEventHandler(OnProcessExit(target_action=is_the_node, on_exit=report)),
    ]


def is_the_node(action: Action) -> bool:
    """Whether an event is the node's; it is the only one with a lifecycle."""
    return isinstance(action, LifecycleNode)


def play(
    _: LaunchContext, value: dict[str, str], arguments: list[str], evaluate: bool
) -> list[LaunchDescriptionEntity]:
    """The player, and the end of everything when it is through."""
    player = Node(
        package="stemseg",
        executable="stemseg_player",
        namespace=value["namespace"],
        arguments=arguments,
        additional_env=transport_profile(),
        output="screen",
    )
    if evaluate:
        out = Path(value["out"])
        score = score_command(value["bag"], value["bag_topic"], out)
        return evaluation(player, score, out, value["namespace"])
    return [player, after(player, shutdown("the player has ended"))]


def score_command(bag: str, bag_topic: str, out: Path) -> list[str]:
    """``stemseg evaluate`` for the recorded results."""
    command = [str(PROGRAMS / "stemseg"), "evaluate", "--ground-truth", bag]
    command += ["--results", str(out / RECORDED), "--out", str(out)]
    return [*command, *(["--topic", bag_topic] if bag_topic else [])]


def evaluation(
    player: Node, command: list[str], out: Path, namespace: str
) -> list[LaunchDescriptionEntity]:
    """The recorder, the player once the recorder hears the node, then the score of the results."""
    out.mkdir(parents=True, exist_ok=True)
    results = out / RECORDED
    results.unlink(missing_ok=True)
    recorder = Node(
        package="stemseg",
        executable="stemseg_recorder",
        namespace=namespace,
        arguments=["--out", str(results), "--topic", RESULTS],
        additional_env=transport_profile(),
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
        after(score, shutdown("the results are scored")),
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
