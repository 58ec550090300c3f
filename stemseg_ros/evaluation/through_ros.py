"""Sequences through the real node: a bag is played over DDS, what the node answers is recorded and scored.

Three processes besides this one: the node, the player, which never has more frames in flight than the node
can hold, and the recorder. Every frame is answered, or the evaluation stops.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path

from stemseg_ros.config import WindowConfig, dump_config
from stemseg_ros.evaluation.inputs import Images, read_bag, stamps
from stemseg_ros.evaluation.runs import Setup, StoredRun, store
from stemseg_ros.evaluation.sequence_masks import EvaluationError
from stemseg_ros.media.bag import IMAGE_TYPES, INSTANCE_ARRAY, write_bag
from stemseg_ros.processes import ChildProcess, ros_environment, termination_as_exit

SOURCE = "through ROS"
"""What is added to the mode in the report."""
IMAGE_TOPIC = "/camera/image_raw"
NODE_START_S = 180.0
"""Patience with the node while it loads and warms up."""
ANSWER_S = 120.0
"""Patience with one window."""
POLL_S = 0.1


def run_sequence(setup: Setup, name: str, images: Images, out: Path,
                 progress: Callable[[int], None] = lambda frames: None) -> StoredRun:
    """As runs.run_sequence, through the node. Raises EvaluationError with the last words of what failed."""
    for module in ("rclpy", "stemseg"):
        if find_spec(module) is None:
            raise EvaluationError(f"{module} is not installed here; 'make setup' brings it, or source ROS 2")
    folder = out / f"{name}.ros"
    folder.mkdir(parents=True, exist_ok=True)
    bag, answers = folder / "images.mcap", folder / "instances.mcap"
    for path in (bag, answers):
        path.unlink(missing_ok=True)
    with images.open() as source:
        frames = write_bag(source, bag, topic=IMAGE_TOPIC)
    with termination_as_exit():
        _play(setup, bag, frames, folder, progress)
    if stamps(bag, IMAGE_TYPES, None) != stamps(answers, (INSTANCE_ARRAY,), None):
        raise EvaluationError(f"sequence {name}: the node's answers do not carry the stamps of the images; "
                              f"see {folder}")
    result = read_bag(answers, None)
    bag.unlink()
    classes = dict(enumerate(setup.config.network.classes, start=1))
    seconds, latencies = _times(folder)
    run = StoredRun(setup.fingerprint(name, images), frames, result.size, classes, dict(result.scores),
                    seconds, None, latencies)
    return store(out, run, name, result.rows)


def _play(setup: Setup, bag: Path, frames: int, folder: Path, progress: Callable[[int], None]) -> None:
    """Start node, recorder and player, and wait until every frame is answered and recorded."""
    environment = ros_environment()
    received = folder / "received.jsonl"
    with ExitStack() as stack:
        def start(program: str, *arguments: object) -> ChildProcess:
            return stack.enter_context(ChildProcess(
                program, f"stemseg_ros.ros.{program}", [str(a) for a in arguments], folder / f"{program}.log",
                environment))

        received.unlink(missing_ok=True)
        node = start("node", *_node_arguments(setup, folder))
        recorder = start("recorder", "--out", folder / "instances.mcap", "--count", frames, "--log", received)
        _wait(lambda: _lines(received) > 0, NODE_START_S, node, recorder)
        player = start("player", "--bag", bag, "--topic", IMAGE_TOPIC, "--rate", 1000, "--in-flight",
                       in_flight(setup.config.window), "--timeout", ANSWER_S, "--log", folder / "sent.jsonl")

        def played() -> bool:
            progress(max(0, _lines(received) - 1))  # the first line says that the node was found
            return player.exit_code is not None

        _wait(played, None, node)
        if player.exit_code:
            raise _failure(player)
        _wait(lambda: recorder.exit_code is not None, ANSWER_S, node)
        if recorder.exit_code:
            raise _failure(recorder)


def _node_arguments(setup: Setup, folder: Path) -> list[str]:
    config = folder / "config.yaml"
    config.write_text(dump_config(setup.config), encoding="utf-8")
    room = max(in_flight(setup.config.window), setup.config.node.queue_size)
    parameters = {"config": config, "device": setup.device, "autostart": "true", "node.qos_image": "reliable",
                  "node.queue_size": room, "window.flush_after": "0.0"}
    if setup.checkpoint is not None:
        parameters["checkpoint"] = setup.checkpoint
    arguments = ["--ros-args", "-r", f"image:={IMAGE_TOPIC}"]
    for name, value in parameters.items():
        arguments += ["-p", f"{name}:={value}"]
    return arguments


def in_flight(window: WindowConfig) -> int:
    """Frames without an answer that keep the node busy: a window, and meanwhile the new ones of the next."""
    delayed = 2 * window.stride if window.mode == "offline" else 0
    return window.length + window.stride + delayed


def _wait(holds: Callable[[], bool], patience_s: float | None, *needed: ChildProcess) -> None:
    start = time.monotonic()
    while not holds():
        for child in needed:
            if child.exit_code is not None:
                raise _failure(child)
        if patience_s is not None and time.monotonic() - start > patience_s:
            raise _failure(needed[0])
        time.sleep(POLL_S)


def _failure(child: ChildProcess) -> EvaluationError:
    state = "does not answer" if child.exit_code is None else f"ended with exit code {child.exit_code}"
    return EvaluationError(f"the {child.name} {state}; last lines of {child.log}: {child.tail()}")


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def _times(folder: Path) -> tuple[float, list[float]]:
    """Seconds from the first frame published to the last result received, and each frame's latency in ms."""
    sent = {entry["stamp_ns"]: entry["published_ns"] for entry in _entries(folder / "sent.jsonl")}
    received = {entry["stamp_ns"]: entry["received_ns"] for entry in _entries(folder / "received.jsonl")[1:]}
    seconds = (max(received.values()) - min(sent.values())) / 1e9
    return round(seconds, 4), [round((received[stamp] - at) / 1e6, 2) for stamp, at in sent.items()]


def _entries(path: Path) -> list[dict[str, int]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
