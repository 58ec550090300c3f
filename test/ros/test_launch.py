"""The launch files, where launch and an ament installation of the package are at hand."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")
pytest.importorskip(
    "launch_ros", reason="launch is not installed (it comes with a ROS installation)"
)

from ament_index_python.packages import (
    PackageNotFoundError,
    get_package_prefix,
    get_package_share_directory,
)
from launch import LaunchContext
from launch.actions import DeclareLaunchArgument
from launch.utilities import perform_substitutions
from ros.harness import Peer, message, process, scene
from sensor_msgs.msg import Image
from stemseg.msg import InstanceArray

from stemseg_ros.evaluation.truth_bag import read_sequence, write_labelled_bag
from stemseg_ros.masks import encode
from stemseg_ros.media.bags import write_bag
from stemseg_ros.ros.launch_arguments import NODE_ARGUMENTS

pytestmark = pytest.mark.ros

try:
    SHARE = Path(get_package_share_directory("stemseg"))
except PackageNotFoundError:
    pytest.skip(
        "stemseg is not installed in a ROS workspace (colcon build)", allow_module_level=True
    )

COMMON = {*NODE_ARGUMENTS, "image_topic"}
SQUARE = encode(np.pad(np.ones((16, 16), bool), ((40, 40), (56, 56))))["counts"].decode()
SMALL = ["checkpoint:=random", "device:=cpu"]


@pytest.fixture
def small(tmp_path: Path) -> str:
    """Launch argument of a parameter file for a small input."""
    file = tmp_path / "small.yaml"
    file.write_text(
        "/**:\n  ros__parameters:\n    input: {min_dim: 96, max_dim: 192}\n"
        "    window: {length: 4, overlap: 2, flush_after: 0.0}\n"
    )
    return f"params_file:={file}"


def load(name: str) -> ModuleType:
    """A launch file as a module."""
    spec = importlib.util.spec_from_file_location(name, SHARE / "launch" / f"{name}.launch.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("camera", COMMON | {"cameras", "image_transport", "flush_after", "respawn"}),
        ("rectified", COMMON | {"camera_info_topic", "republish", "flush_after", "respawn"}),
        ("replay", COMMON | {"bag", "bag_topic", "rate", "in_flight", "evaluate", "out"}),
    ],
)
def test_arguments(name: str, arguments: set[str]) -> None:
    description = load(name).generate_launch_description()
    declared = description.get_launch_arguments_with_include_launch_description_actions()
    assert {argument.name for argument, _ in declared} == arguments


def test_camera_starts_the_node_and_frames_come_out(peer: Peer, small: str) -> None:
    with process(
        "run_launch.py", "camera.launch.py", "image_topic:=/image", small, *SMALL
    ) as child:
        peer.connect()
        for second in range(6):
            peer.publisher.publish(message(scene(second, (96, 128)), second))
        peer.expect(4)
        assert peer.stamps()[:4] == [0, 1, 2, 3]
        assert child.stop(signal.SIGINT)[0] == 0
        assert child.lines("process has finished cleanly"), child.log


def test_camera_leaves_the_start_to_a_manager(peer: Peer, small: str) -> None:
    with process("run_launch.py", "camera.launch.py", small, "autostart:=false", *SMALL) as child:
        assert peer.spin_until(lambda: "stemseg" in peer.node.get_node_names())
        peer.spin_for(1.0)
        assert not child.lines("is ready")


def test_only_the_node_gets_the_memory_for_images(small: str) -> None:
    """Launch takes part in the domain, too, but passes no images."""
    with process("run_launch.py", "camera.launch.py", small, "autostart:=false", *SMALL) as child:
        child.wait_for_log("waiting for configure")
        (started,) = child.lines("process started with pid")
        assert largest_segment(int(started.rpartition("[")[2].rstrip("]"))) > 10_000_000
        assert largest_segment(child.popen.pid) < 1_000_000


def largest_segment(pid: int) -> int:
    """Bytes of the largest shared memory of Fast DDS whose lock a process holds."""
    files = (file.readlink() for file in Path(f"/proc/{pid}/fd").iterdir())
    locks = [file for file in files if file.match("/dev/shm/fastrtps_*_el")]
    return max(file.with_name(file.name.removesuffix("_el")).stat().st_size for file in locks)


def test_camera_leaves_to_the_file_what_no_argument_sets(peer: Peer, small: str) -> None:
    file = Path(small.partition(":=")[2])
    file.write_text(file.read_text() + "    autostart: false\n")
    with process("run_launch.py", "camera.launch.py", small, *SMALL) as child:
        assert peer.spin_until(lambda: "stemseg" in peer.node.get_node_names())
        peer.spin_for(1.0)
        assert not child.lines("is ready")


def test_several_cameras_from_a_file(peer: Peer, small: str, tmp_path: Path) -> None:
    file = tmp_path / "cameras.yaml"
    file.write_text("front: /image\nrear: /other/image\n")
    answers: list[InstanceArray] = []
    with process("run_launch.py", "camera.launch.py", f"cameras:={file}", small, *SMALL) as child:
        other = peer.node.create_publisher(Image, "/other/image", 50)
        peer.subscribe(InstanceArray, "/stemseg/front/instances", answers)
        peer.subscribe(InstanceArray, "/stemseg/rear/instances", answers)
        assert peer.spin_until(
            lambda: peer.publisher.get_subscription_count() and other.get_subscription_count()
        ), child.log
        assert peer.spin_until(lambda: peer.node.count_publishers("/stemseg/rear/instances"))
        peer.spin_for(1.0)
        for second in range(4):
            peer.publisher.publish(message(scene(second, (96, 128)), second, "front"))
            other.publish(message(scene(second, (96, 128)), second, "rear"))
        assert peer.spin_until(lambda: len(answers) >= 8), child.log
    by_frame = sorted((answer.header.frame_id, answer.header.stamp.sec) for answer in answers)
    assert by_frame == [(name, second) for name in ("front", "rear") for second in range(4)]


def test_a_node_that_dies_is_started_again(peer: Peer, small: str) -> None:
    arguments = ["camera.launch.py", "image_topic:=/image", small, *SMALL]
    with process("run_launch.py", *arguments) as child:
        peer.connect()
        (started,) = child.lines("process started with pid")
        os.kill(int(started.rpartition("[")[2].rstrip("]")), signal.SIGKILL)
        child.wait_for_log("process has died")
        assert peer.spin_until(lambda: len(child.lines("is ready")) == 2), child.log
        assert peer.spin_until(lambda: len(child.lines("subscribed to /image")) == 2), child.log
        assert peer.spin_until(peer.publisher.get_subscription_count)
        peer.spin_for(1.0)
        for second in range(4):
            peer.publisher.publish(message(scene(second, (96, 128)), second))
        assert peer.expect(2)[0].epoch == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_node_that_is_shut_down_stays_down(small: str, number: signal.Signals) -> None:
    arguments = ["camera.launch.py", small, "respawn:=true", "autostart:=false", *SMALL]
    with process("run_launch.py", *arguments) as child:
        child.wait_for_log("waiting for configure")
        (started,) = child.lines("process started with pid")
        os.kill(int(started.rpartition("[")[2].rstrip("]")), number)
        assert child.wait() == 0, child.log
        assert len(child.lines("process started")) == 1, child.log


def composed(*arguments: str) -> tuple[list[dict[str, Any]], LaunchContext]:
    """The components that rectified.launch.py would load; the packages are not needed for it."""
    context = LaunchContext()
    context.launch_configurations.update(argument.split(":=") for argument in arguments)
    module = load("rectified")
    for action in module.generate_launch_description().entities:
        if isinstance(action, DeclareLaunchArgument):
            action.visit(context)
    (container,) = module.preprocess(context)
    assert container._Node__node_executable  # made by the constructor of ComposableNodeContainer

    def text(words: Any) -> str:
        return perform_substitutions(context, words)

    loaded = container._ComposableNodeContainer__composable_node_descriptions
    return [
        {
            "plugin": text(node.node_plugin),
            "remappings": {text(a): text(b) for a, b in node.remappings or []},
        }
        for node in loaded
    ], context


def test_images_are_rectified_before_the_node() -> None:
    (rectify,), _ = composed("image_topic:=/front/image_raw")
    assert rectify["plugin"] == "image_proc::RectifyNode"
    assert rectify["remappings"] == {
        "image": "/front/image_raw",
        "camera_info": "/front/camera_info",
        "image_rect": "stemseg/input/image_rect",
    }


@pytest.mark.parametrize(
    ("topic", "info"),
    [
        ("image_raw", "camera_info"),
        ("front/image_raw", "front/camera_info"),
        ("/image_raw", "/camera_info"),
    ],
)
def test_the_calibration_lies_beside_the_images(topic: str, info: str) -> None:
    (rectify,), _ = composed(f"image_topic:={topic}")
    assert rectify["remappings"]["camera_info"] == info


def test_packed_images_are_unpacked_before_they_are_rectified() -> None:
    (republish, rectify), _ = composed("image_topic:=/front/image_raw", "republish:=theora")
    assert republish["plugin"] == "image_transport::Republisher"
    assert republish["remappings"] == {
        "in/theora": "/front/image_raw/theora",
        "out": rectify["remappings"]["image"],
    }
    assert rectify["remappings"]["camera_info"] == "/front/camera_info"


@pytest.mark.parametrize("encoding", ["bgr8", "jpeg"])
def test_replay_plays_a_bag_and_ends(
    peer: Peer, small: str, tmp_path: Path, encoding: str
) -> None:
    bag = tmp_path / "clip.mcap"
    frames = [(10**9 * (1 + i), np.roll(scene(size=(96, 128)), i, 1)) for i in range(7)]
    write_bag(iter(frames), bag, encoding=encoding)
    with process(
        "run_launch.py", "replay.launch.py", f"bag:={bag}", "rate:=20.0", small, *SMALL
    ) as child:
        assert peer.spin_until(lambda: child.popen.poll() is not None), child.log
        assert child.wait() == 0, child.log
        # The player has checked every answer; this peer may have joined after the first.
        assert child.lines("played 7 frames"), child.log
        assert peer.stamps()[-1] == 7


def labelled_bag(folder: Path) -> Path:
    """Seven frames with a square as ground truth."""
    truth = folder / "0000.txt"
    truth.write_text("".join(f"{frame} 1001 1 96 128 {SQUARE}\n" for frame in range(7)))
    source = [(i, 10**9 * (1 + i), np.roll(scene(size=(96, 128)), i, 1)) for i in range(7)]
    bag = folder / "labelled.mcap"
    write_labelled_bag(
        source,
        read_sequence(folder, "kitti_mots", None),
        bag,
        topic="/camera/image_raw",
        frame_id="camera",
        encoding="bgr8",
        storage=None,
        progress=lambda done: None,
    )
    return bag


def test_replay_scores_a_labelled_bag(small: str, tmp_path: Path) -> None:
    """Every frame is answered, recorded and scored; random weights have no good score."""
    pytest.importorskip("trackeval")
    bag, out = labelled_bag(tmp_path), tmp_path / "out"
    with process(
        "run_launch.py",
        "replay.launch.py",
        f"bag:={bag}",
        "rate:=20",
        "evaluate:=true",
        f"out:={out}",
        small,
        *SMALL,
    ) as child:
        assert child.wait() == 0, child.log
    report = json.loads((out / "report.json").read_text())
    measures = report["runs"][0]["measures"]["car"]
    assert measures["TP"] + measures["FN"] == 7


@pytest.mark.parametrize(
    ("file", "argument", "reason"),
    [
        ("camera", "autostart:=maybe", "autostart: expected true or false, got 'maybe'"),
        ("camera", "respawn:=2", "respawn: expected true or false, got '2'"),
        ("camera", "imagetopic:=/x", "did you mean 'image_topic'?"),
        ("camera", "params_file:=/nosuch.yaml", "params_file: no file '/nosuch.yaml'"),
        ("camera", "flush_after:=abc", "flush_after: expected a number"),
        ("camera", "cameras:=/nosuch.yaml", "cameras: no file '/nosuch.yaml'"),
        ("rectified", "rviz:=perhaps", "rviz: expected true or false"),
        ("rectified", "cameras:=x.yaml", "unknown argument 'cameras'"),
        ("replay", "rate:=abc", "rate: expected a number"),
        ("replay", "rate:=-1", "rate: expected a number"),
        ("replay", "in_flight:=x", "in_flight: expected a whole number"),
        ("replay", "flush_after:=1", "unknown argument 'flush_after'"),
        ("replay", "bag:=/nosuch", "no bag at '/nosuch'"),
        ("replay", "evaluate:=yes", "/ground_truth/instances"),
        ("replay", "rviz:=maybe", "rviz: expected true or false"),
    ],
)
def test_a_wrong_argument_is_refused_before_anything_starts(
    tmp_path: Path, file: str, argument: str, reason: str
) -> None:
    arguments = [f"out:={tmp_path / 'out'}", argument] if file == "replay" else [argument]
    if file == "replay" and not argument.startswith("bag"):
        bag = tmp_path / "clip.mcap"
        write_bag(iter([(10**9, scene(size=(96, 128)))]), bag)
        arguments.append(f"bag:={bag}")
    with process("run_launch.py", f"{file}.launch.py", *arguments) as child:
        assert child.wait() == 1, child.log
        assert child.lines(reason), child.log
        assert not child.lines("process started"), child.log
    assert not (tmp_path / "out").exists()


def test_missing_rviz_is_reported_before_anything_starts() -> None:
    try:
        get_package_prefix("rviz2")
    except PackageNotFoundError:
        pass
    else:
        pytest.skip("rviz2 is installed")
    with process("run_launch.py", "camera.launch.py", "rviz:=on") as child:
        assert child.wait() == 1, child.log
        assert child.lines("rviz: rviz2 is not installed: apt install"), child.log
        assert not child.lines("process started"), child.log


@pytest.mark.parametrize(
    ("argument", "reason"),
    [
        ("config:=nosuch", "no preset and no file named 'nosuch'"),
        ("checkpoint:=/nosuch.pth", "/nosuch.pth"),
        ("device:=gpu", "device: expected auto, cpu, cuda, or cuda:n, got 'gpu'"),
    ],
)
def test_replay_ends_with_a_node_that_cannot_start(
    small: str, tmp_path: Path, argument: str, reason: str
) -> None:
    bag = tmp_path / "clip.mcap"
    write_bag(iter([(10**9, scene(size=(96, 128)))]), bag)
    arguments = [f"bag:={bag}", small, "device:=cpu", argument]
    with process("run_launch.py", "replay.launch.py", *arguments) as child:
        assert child.wait() == 1, child.log
        (error,) = child.lines("Caught exception in launch")
        assert reason in error
        assert not child.lines("nobody subscribed"), child.log


def test_replay_ends_with_a_node_that_dies(small: str, tmp_path: Path) -> None:
    bag = tmp_path / "clip.mcap"
    write_bag(((i * 10**9, scene(size=(96, 128))) for i in range(1, 400)), bag)
    with process(
        "run_launch.py", "replay.launch.py", f"bag:={bag}", small, *SMALL, "rate:=1"
    ) as child:
        child.wait_for_log("is ready")
        started = next(line for line in child.lines("process started with pid") if "_node" in line)
        os.kill(int(started.rpartition("[")[2].rstrip("]")), signal.SIGKILL)
        assert child.wait() == 1, child.log
        assert child.lines("the node ended with exit code -9"), child.log


def test_a_wrong_parameter_is_no_reason_to_start_again(small: str) -> None:
    arguments = ["camera.launch.py", small, "config:=nosuch", "respawn:=yes"]
    with process("run_launch.py", *arguments) as child:
        assert child.wait() == 1, child.log
        assert len(child.lines("process started")) == 1, child.log


@pytest.mark.parametrize("topic", ["", "/camera/image_raw"])
def test_the_evaluation_gets_the_image_topic(topic: str) -> None:
    command = load("replay").score_command("clip.mcap", topic, Path("out"))
    assert command[-2:] == (["--topic", topic] if topic else ["--out", "out"])


def test_nothing_is_scored_when_the_player_fails(small: str, tmp_path: Path) -> None:
    bag, out = labelled_bag(tmp_path), tmp_path / "out"
    arguments = [f"bag:={bag}", "evaluate:=true", f"out:={out}", small, *SMALL]
    with process("run_launch.py", "replay.launch.py", *arguments) as child:
        child.wait_for_log("stemseg_player-")
        started = next(line for line in child.lines("process started") if "_player" in line)
        os.kill(int(started.rpartition("[")[2].rstrip("]")), signal.SIGKILL)
        assert child.wait() == 1, child.log
        assert child.lines("failed with exit code -9"), child.log
    assert not (out / "report.json").exists()
