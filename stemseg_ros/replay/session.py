"""A bag through the real node: node, player and recorder run as processes of their own, and
nothing is lost.

The player never has more frames in flight than the node can hold, and has the last ones flushed;
the recorder writes every result to a bag.
"""

from __future__ import annotations

import json
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from stemseg_ros.config import Config
from stemseg_ros.errors import StemsegError
from stemseg_ros.replay.node_counts import UNUSABLE, unusable
from stemseg_ros.replay.processes import ChildProcess, ros_environment

PROGRAMS = "stemseg_ros.ros"
"""Runs the ROS program that its first argument names."""
IMAGE_TOPIC = "/camera/image_raw"
INSTANCES, PUBLISHED, RECEIVED, DIAGNOSTICS = (
    "instances.mcap",
    "published.jsonl",
    "received.jsonl",
    "diagnostics.json",
)
FILES = (INSTANCES, PUBLISHED, RECEIVED, DIAGNOSTICS, "node.log", "player.log", "recorder.log")
"""What a replay leaves in its folder."""
START_TIMEOUT_S = 180.0
"""Patience with the node while it loads and warms up."""
RESULT_TIMEOUT_S = 120.0
"""Patience with one window."""
SETTLE_TIMEOUT_S = 5.0
"""Patience with the last messages after the player has ended."""
POLL_S = 0.1

Show = Callable[[str, int, int | None], None]
"""Takes a step, how much of it is done, and its total."""
STARTS, PLAYED, FINISHED = "node starts", "frames played", "results received"
"""The steps that are shown."""


class ReplayError(StemsegError):
    """A process of a replay failed, or frames were lost; the message ends with its last words."""


@dataclass(frozen=True, slots=True)
class Times:
    """Clock of a replay."""

    seconds: float
    """From the first frame published to the last result received."""
    latency_ms: list[float]
    """From publishing each frame to receiving its result, the wait for its window included."""


def check_ros() -> None:
    """Raises ReplayError that says what of ROS is missing."""
    for module, what in (("rclpy", "ROS 2 (rclpy)"), ("stemseg", "the message package stemseg")):
        if find_spec(module) is None:
            raise ReplayError(
                f"{what} is not installed for {sys.executable}; 'make setup' installs it"
            )


def node_arguments(
    settings: Config, config: str, checkpoint: str | None, device: str
) -> list[str]:
    """Command line of the node. config: the name or file that ``settings`` come from."""
    parameters = {
        "config": config,
        "device": device,
        "autostart": "true",
        "qos.image": "reliable",
        "node.queue_size": str(max(settings.latency.in_flight, settings.node.queue_size)),
        # The player says when the stream ends; a busy machine is no reason to cut a
        # window short.
        "stream.flush_after": "0.0",
    }
    if checkpoint is not None:
        parameters["checkpoint"] = checkpoint
    arguments = ["--ros-args", "-r", f"image:={IMAGE_TOPIC}"]
    for name, value in parameters.items():
        arguments += ["-p", f"{name}:={value}"]
    return arguments


def play_through_node(
    bag: Path,
    frames: int,
    in_flight: int,
    arguments: list[str],
    out: Path,
    show: Show,
    rate: float = 1.0,
) -> None:
    """Start node, recorder and player, and wait until the result of every frame of the bag, except
    those with unusable stamps, is recorded.

    in_flight: frames without a result that keep the node busy (``Latency``). arguments: of the
    node. out: folder for FILES, which must not be there yet. rate: times the
    recorded rate, at most. Raises ReplayError.
    """
    with ExitStack() as stack:
        replay = _Replay(stack, out, frames, show)
        node = replay.start("node", arguments)
        recorder = replay.start("recorder", _recorder_arguments(out))
        replay.wait_for_node(node, recorder)
        player = replay.start("player", _player_arguments(bag, out, in_flight, rate))
        replay.wait_for_results(player, node, recorder)
        for child in (recorder, node):
            if child.stop():
                raise _failure(child, f"did not end cleanly (exit code {child.exit_code})")


def _recorder_arguments(out: Path) -> list[str]:
    return _words(
        {
            "--out": out / INSTANCES,
            "--log": out / RECEIVED,
            "--diagnostics": out / DIAGNOSTICS,
        }
    )


def _player_arguments(bag: Path, out: Path, in_flight: int, rate: float) -> list[str]:
    return _words(
        {
            "--bag": bag,
            "--topic": IMAGE_TOPIC,
            "--rate": f"{rate:g}",
            "--in-flight": in_flight,
            "--timeout": RESULT_TIMEOUT_S,
            "--log": out / PUBLISHED,
        }
    )


def _words(options: Mapping[str, object]) -> list[str]:
    return [str(word) for option in options.items() for word in option]


class _Replay:
    """The processes of a replay, and how far they are by what they write."""

    def __init__(self, stack: ExitStack, out: Path, frames: int, show: Show) -> None:
        """stack: ends the processes."""
        self._stack = stack
        self._out = out
        self._frames = frames
        self._show = show
        self._environment = ros_environment()
        self._published = GrowingLines(out / PUBLISHED)
        self._received = GrowingLines(out / RECEIVED)

    def start(self, name: str, arguments: list[str]) -> ChildProcess:
        """A program of stemseg_ros.ros, with a log of its name."""
        log = self._out / f"{name}.log"
        child = ChildProcess(name, PROGRAMS, [name, *arguments], log, self._environment)
        return self._stack.enter_context(child)

    def wait_for_node(self, node: ChildProcess, recorder: ChildProcess) -> None:
        """Until the recorder has found the ready node. Raises ReplayError."""
        self._show(STARTS, 0, None)
        if not _wait(lambda: bool(self._received.read()), START_TIMEOUT_S, node, recorder):
            raise _failure(node, f"was not ready after {START_TIMEOUT_S:g} s")
        self._show(STARTS, 1, 1)

    def wait_for_results(
        self, player: ChildProcess, node: ChildProcess, recorder: ChildProcess
    ) -> None:
        """Until the player has ended, and for a while until everything is recorded. Raises
        ReplayError."""
        _wait(lambda: self._ended(player), None, node, recorder)
        if player.exit_code:
            raise _failure(player, f"ended with exit code {player.exit_code}")
        for complete in (
            lambda: self._ended(player) and self._result_count() >= self._expected(),
            lambda: int(diagnostics(self._out).get("messages_out", 0)) >= self._expected(),
        ):
            _wait(complete, SETTLE_TIMEOUT_S, node, recorder)

    def _expected(self) -> int:
        return self._frames - sum(unusable(diagnostics(self._out)).values())

    def _ended(self, player: ChildProcess) -> bool:
        self._show(PLAYED, len(self._published.read()), self._frames)
        self._show(FINISHED, self._result_count(), self._frames)
        return player.exit_code is not None

    def _result_count(self) -> int:
        return max(0, len(self._received.read()) - 1)  # the first line says: the node was found


def _wait(holds: Callable[[], bool], timeout_s: float | None, *needed: ChildProcess) -> bool:
    """Poll until it holds; False after the timeout. Raises ReplayError if a needed process
    ends."""
    start = time.monotonic()
    while not holds():
        for child in needed:
            if child.exit_code is not None:
                raise _failure(child, f"ended with exit code {child.exit_code}")
        if timeout_s is not None and time.monotonic() - start > timeout_s:
            return False
        time.sleep(POLL_S)
    return True


def _failure(child: ChildProcess, what: str) -> ReplayError:
    return ReplayError(f"the {child.name} {what}; last lines of {child.log}:\n{child.tail()}")


class GrowingLines:
    """The JSON lines that another process is writing."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._entries: list[dict[str, Any]] = []

    def read(self) -> list[dict[str, Any]]:
        """All objects written so far."""
        if self._path.exists():
            with self._path.open("rb") as file:
                file.seek(self._offset)
                for line in file:
                    if not line.endswith(b"\n"):
                        break
                    self._offset += len(line)
                    self._entries.append(json.loads(line))
        return self._entries


def diagnostics(out: Path) -> dict[str, str]:
    """The node's last diagnostics, empty without any."""
    path = out / DIAGNOSTICS
    values: dict[str, str] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return values


def times(out: Path) -> Times:
    """Clock readings of a finished replay. Raises ReplayError unless every frame has its result,
    except those with unusable stamps."""
    published, received = GrowingLines(out / PUBLISHED).read(), GrowingLines(out / RECEIVED).read()
    results = received[1:]
    values = diagnostics(out)
    # Pairs in order, not by stamp alone: a looped stream has each stamp more than once.
    waiting, pairs = deque(published), list[tuple[int, int]]()
    for entry in results:
        while waiting and waiting[0]["stamp_ns"] != entry["stamp_ns"]:
            waiting.popleft()
        if waiting:
            pairs.append((waiting.popleft()["published_ns"], entry["received_ns"]))
    missing = len(published) - len(pairs)
    bad = unusable(values)
    if not pairs or len(pairs) < len(results) or missing > sum(bad.values()):
        reasons = "".join(f"; {number} {UNUSABLE[key]}" for key, number in bad.items())
        raise ReplayError(
            f"{len(published)} frames went in, {len(results)} results came out; the node "
            f"dropped {values.get('frames_dropped', '0')}{reasons}; see {out / 'node.log'}"
        )
    first = min(entry["published_ns"] for entry in published)
    return Times(
        (max(end for _, end in pairs) - first) / 1e9,
        [(end - start) / 1e6 for start, end in pairs],
    )
