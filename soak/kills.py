"""Processes that are killed: cameras, and nodes while a bag plays."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from statistics import median

import numpy as np
import yaml

from soak.reports import Report, leaks
from soak.rig import SECOND, NodeProcess, Result, Rig, Robot
from stemseg_ros.media.bags import write_bag
from stemseg_ros.media.result_bag import InstanceBagReader

STEP_BACK_S = 1000.0
RESULTS = 3
"""Results of a node before it is killed."""


def kill_cameras(
    rig: Rig, node: NodeProcess, rounds: int, results: int = 6, back_every: int = 10
) -> Report:
    """Start a camera, wait for results of its images, kill it; repeat.

    The stamps of every back_every-th one lie before those of the one before. The node must not
    take the time until the next camera for a jump (stream.max_gap).
    """
    report = Report(f"camera killed and started again {rounds} times")
    np.save(rig.out / "still.npy", rig.images[0])
    waits, samples, back = [], [], 0
    with node.robot(camera=False) as listener:
        for index in range(rounds + 1):
            back += index % back_every == back_every - 1
            waits.append(_one_camera(rig, listener, index, back * STEP_BACK_S, results))
            samples.append(node.usage)
    epochs: dict[int, list[Result]] = {}
    for result in listener.results:
        epochs.setdefault(result.epoch, []).append(result)
    report.numbers |= {
        "results": len(listener.results),
        "median s from the start of a camera to a result": median(waits),
        "longest": max(waits),
        "times that stamps went back": back,
        "epochs": len(epochs),
        "objects in the still": len(listener.results[-1].track_ids),
    }
    leaks(report, samples, "restart")
    first = min(epochs)
    report.checks |= {
        "the node lives": node.alive,
        "an epoch for each time that stamps went back, and no other": sorted(epochs)
        == list(range(first, first + back + 1)),
        "stamps advance within each epoch": all(
            before.stamp_ns < after.stamp_ns
            for part in epochs.values()
            for before, after in pairwise(part)
        ),
        "the objects of a still keep their ids within an epoch": all(
            len({result.track_ids for result in part}) == 1 and part[0].track_ids
            for part in epochs.values()
        ),
    }
    return report


def _one_camera(rig: Rig, listener: Robot, index: int, behind: float, results: int) -> float:
    """Measure the seconds from the start of a camera to the first result of one of its images."""
    words = [str(rig.out / "still.npy"), "--topic", listener.topic]
    words += ["--rate", "20", "--behind", str(behind)]
    words += ["--best-effort"] if index % 2 else []  # every other one
    begin, first_stamp = time.monotonic(), time.time_ns() - int(behind * SECOND)
    last_stamp = first_stamp + int(STEP_BACK_S / 2 * SECOND)

    def received() -> int:
        return sum(first_stamp <= a.stamp_ns < last_stamp for a in listener.results)

    with rig.process("camera", "soak.camera", words) as camera:
        listener.need(received, f"a result of camera {index}")
        seconds = time.monotonic() - begin
        listener.need(lambda: received() >= results, f"{results} results of camera {index}")
        os.kill(camera.pid, signal.SIGKILL)
    return seconds


def kill_nodes(rig: Rig, rounds: int, within: float) -> Report:
    """Play a bag, kill the node, start it again while the bag goes on; and again."""
    report = Report(f"node killed {rounds} times while a bag plays, started again by this script")
    waits = []
    with _playing_bag(rig, report, rounds):
        for index in range(rounds + 1):
            begin = time.monotonic()
            with rig.node(f"node-{index}") as node, node.robot(camera=False) as listener:
                listener.need(lambda: listener.results, f"a result of node {index}", within)
                waits.append(time.monotonic() - begin)
                listener.need(lambda: len(listener.results) > RESULTS, "further results")
                if index < rounds:
                    node.kill()
    return _judge(report, waits, within)


def kill_launched(rig: Rig, rounds: int, within: float) -> Report:
    """The same, but ``ros2 launch stemseg camera.launch.py`` starts the node again."""
    report = Report(f"node killed {rounds} times while a bag plays, started again by launch")
    words = ["launch", "stemseg", "camera.launch.py", "image_topic:=/image"]
    words += ["respawn:=true", f"params_file:={_parameter_file(rig)}"]
    waits = []
    with (
        _playing_bag(rig, report, rounds),
        rig.process("launch", "soak.ros2", words) as launch,
        closing(Robot("", None, compressed=False, camera=False)) as listener,
    ):
        begin = time.monotonic()
        for index in range(rounds + 1):
            listener.need(lambda: listener.results, f"a result of node {index}", within)
            waits.append(time.monotonic() - begin)
            listener.need(lambda: len(listener.results) > RESULTS, "further results")
            if index < rounds:
                begin = time.monotonic()
                os.kill(_started(launch.log)[-1], signal.SIGKILL)
                listener.spin_for(0.5)  # what is on the way
                listener.results.clear()
        report.checks["launch has started a node for each"] = (
            len(_started(launch.log)) == rounds + 1
        )
    return _judge(report, waits, within)


def launch_is_here() -> bool:
    """Whether ROS 2 has its launch, and stemseg is installed for it."""
    if find_spec("ros2launch") is None:
        return False
    prefixes = os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep)
    return any(
        (Path(prefix) / "share/stemseg/launch/camera.launch.py").is_file() for prefix in prefixes
    )


@contextmanager
def _playing_bag(rig: Rig, report: Report, rounds: int) -> Iterator[None]:
    """A bag plays in a loop, and the results are recorded; player and recorder must not fail."""
    bag, recorded = rig.out / "played.mcap", rig.out / "recorded.mcap"
    bag.unlink(missing_ok=True)
    recorded.unlink(missing_ok=True)
    write_bag(((SECOND + i * SECOND // 10, x) for i, x in enumerate(rig.images)), bag)
    play = ["--bag", str(bag), "--topic", "/image", "--in-flight", "0", "--loop", "--wait", "600"]
    with (
        rig.process("player", "stemseg_ros.ros", ["player", *play]) as player,
        rig.process(
            "recorder", "stemseg_ros.ros", ["recorder", "--out", str(recorded)]
        ) as recorder,
    ):
        yield
        report.checks["player and recorder live"] = player.exit_code is recorder.exit_code is None
        recorder.stop()
    with InstanceBagReader(recorded) as reader:
        written = sum(1 for _ in reader)
    report.numbers["results recorded"] = written
    report.checks["the record holds results of all nodes"] = written > RESULTS * (rounds + 1)


def _parameter_file(rig: Rig) -> Path:
    """The rig's parameters as a file for ROS."""
    tree = {name: yaml.safe_load(text) for name, text in (x.split(":=") for x in rig.parameters)}
    file = rig.out / "launch.param.yaml"
    file.write_text(yaml.safe_dump({"/**": {"ros__parameters": tree}}))
    return file


def _started(log: Path) -> list[int]:
    """Process ids in the log of launch."""
    return [int(pid) for pid in re.findall(r"process started with pid \[(\d+)\]", log.read_text())]


def _judge(report: Report, waits: Sequence[float], within: float) -> Report:
    report.numbers |= {
        "s from the first start to a result": waits[0],
        "median s from a start or kill to the next result": median(waits[1:] or waits),
        "longest": max(waits[1:] or waits),
    }
    report.checks[f"results again within {within:g} s"] = max(waits) <= within
    return report
