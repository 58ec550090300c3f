"""The demonstration: a video becomes a bag, goes through the ROS 2 node, and comes back as masks with ids.

Three processes talk over DDS: the node, a player that publishes the bag, and a recorder. This one watches.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from stemseg_ros.config import Config, WindowConfig, load_config
from stemseg_ros.errors import StemsegError
from stemseg_ros.media.bag import ImageBagReader, write_bag
from stemseg_ros.media.instance_bag import InstanceBagReader
from stemseg_ros.media.overlay import VideoWriter, contact_sheet, draw_instances
from stemseg_ros.media.sources import DEFAULT_FPS, open_source
from stemseg_ros.network import load_network
from stemseg_ros.processes import ChildProcess, ros_environment, termination_as_exit
from stemseg_ros.records import FrameResult
from stemseg_ros.resources import resource_path
from stemseg_ros.run import percentiles, prepare_output, write_json

VIDEO = "media/highway_1280x720_25fps.mp4"
IMAGE_TOPIC = "/camera/image_raw"
INPUT, INSTANCES, OVERLAY, OVERVIEW, SUMMARY = (
    "input.mcap", "instances.mcap", "overlay.mp4", "overview.png", "summary.json")
PUBLISHED, RECEIVED, DIAGNOSTICS = "published.jsonl", "received.jsonl", "diagnostics.json"
LOGS = ("node.log", "player.log", "recorder.log")

START_TIMEOUT_S = 180.0
"""Patience with the node while it loads and warms up."""
ANSWER_TIMEOUT_S = 120.0
"""Patience with one window."""
SETTLE_TIMEOUT_S = 5.0
"""Patience with the last messages after the player has ended."""
POLL_S = 0.1
SHEET_FRAMES, SHEET_COLUMNS = 9, 3


class DemoError(StemsegError):
    """A process of the demonstration failed, or frames were lost; the message ends with its last words."""


@dataclass(frozen=True, slots=True)
class DemoSummary:
    """What came out; ``summary.json`` holds exactly these fields."""

    frames_in: int
    messages_out: int
    frames_dropped: int
    tracks: int
    fps: float
    """Frames per second from the first frame published to the last result received."""
    latency_ms: dict[str, float]
    """median and p99 from publishing a frame to receiving its result, the wait for its window included."""
    stage_ms: dict[str, float]
    """Median milliseconds per window, by stage."""
    device: str


def run_demo(out: Path, *, video: Path | None = None, config: str = "lite", checkpoint: str | None = None,
             device: str = "cpu", console: Console | None = None) -> DemoSummary:
    """Run the demonstration and leave bags, overlay video, contact sheet, summary and logs in ``out``.

    ``video`` is whatever open_source takes; none is the bundled one. Progress goes to standard error, the
    table to ``console`` (standard output). Raises DemoError, or the error of the argument that is wrong.
    """
    _check_ros()
    settings = load_config(config)
    # Wrong weights are the likeliest mistake: found here, before anything is started.
    load_network(settings, checkpoint, device)
    prepare_output(out)
    for name in (INPUT, INSTANCES, OVERLAY, OVERVIEW, SUMMARY, PUBLISHED, RECEIVED, DIAGNOSTICS, *LOGS):
        (out / name).unlink(missing_ok=True)
    with Bars() as bars, termination_as_exit():
        frames = _write_input(video or resource_path(VIDEO), out, bars)
        arguments = _node_arguments(settings, config, checkpoint, device)
        _play_through_node(settings.window, arguments, frames, out, bars)
        summary = _summarise(frames, out)
        _draw(frames, out, bars)
    write_json(out / SUMMARY, asdict(summary))
    _print(summary, out, console or Console())
    return summary


def _check_ros() -> None:
    for module, what in (("rclpy", "ROS 2 (rclpy)"), ("stemseg", "the message package stemseg")):
        if find_spec(module) is None:
            raise DemoError(f"{what} is not installed for {sys.executable}; 'make setup' installs it")


class Bars:
    """One progress bar per step, each under its name."""

    def __init__(self) -> None:
        self._progress = Progress(TextColumn("{task.description:<18}"), BarColumn(), MofNCompleteColumn(),
                                  TimeElapsedColumn(), console=Console(stderr=True))
        self._tasks: dict[str, TaskID] = {}

    def show(self, step: str, done: int, total: int | None) -> None:
        """Move the bar of a step; total is unknown while the step only waits."""
        if step not in self._tasks:
            self._tasks[step] = self._progress.add_task(step)
        self._progress.update(self._tasks[step], completed=done, total=total)

    def __enter__(self) -> Bars:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()


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


def _write_input(video: Path, out: Path, bars: Bars) -> int:
    with open_source(video) as source:
        return write_bag(source, out / INPUT, topic=IMAGE_TOPIC,
                         progress=lambda done: bars.show("video to bag", done, source.frames))


def _node_arguments(settings: Config, config: str, checkpoint: str | None, device: str) -> list[str]:
    parameters = {"config": config, "device": device, "autostart": "true", "node.qos_image": "reliable",
                  "node.queue_size": str(max(_in_flight(settings.window), settings.node.queue_size)),
                  # The player says when the stream ends; a busy machine is no reason to cut a window short.
                  "window.flush_after": "0.0"}
    if checkpoint is not None:
        parameters["checkpoint"] = checkpoint
    arguments = ["--ros-args", "-r", f"image:={IMAGE_TOPIC}"]
    for name, value in parameters.items():
        arguments += ["-p", f"{name}:={value}"]
    return arguments


def _in_flight(window: WindowConfig) -> int:
    """Frames without an answer that keep the node busy: a window, and meanwhile the new ones of the next."""
    delayed = 2 * window.stride if window.mode == "offline" else 0
    return window.length + window.stride + delayed


def _play_through_node(window: WindowConfig, node_arguments: list[str], frames: int, out: Path,
                       bars: Bars) -> None:
    """Start node, recorder and player, and wait until every frame is answered and recorded."""
    environment = ros_environment()
    published, received = GrowingLines(out / PUBLISHED), GrowingLines(out / RECEIVED)
    with ExitStack() as stack:
        def start(name: str, arguments: list[str]) -> ChildProcess:
            return stack.enter_context(
                ChildProcess(name, f"stemseg_ros.ros.{name}", arguments, out / f"{name}.log", environment))

        def answers() -> int:
            return max(0, len(received.read()) - 1)  # the first line says that the node was found

        node = start("node", node_arguments)
        recorder = start("recorder", ["--out", str(out / INSTANCES), "--log", str(out / RECEIVED),
                                      "--diagnostics", str(out / DIAGNOSTICS)])
        bars.show("node starts", 0, None)
        if not _wait(lambda: bool(received.read()), START_TIMEOUT_S, node, recorder):
            raise _failure(node, f"was not ready after {START_TIMEOUT_S:g} s")
        bars.show("node starts", 1, 1)
        player = start("player", ["--bag", str(out / INPUT), "--topic", IMAGE_TOPIC, "--in-flight",
                                  str(_in_flight(window)), "--timeout", str(ANSWER_TIMEOUT_S),
                                  "--log", str(out / PUBLISHED)])

        def player_ended() -> bool:
            bars.show("frames played", len(published.read()), frames)
            bars.show("results received", answers(), frames)
            return player.exit_code is not None

        _wait(player_ended, None, node, recorder)
        if player.exit_code:
            raise _failure(player, f"ended with exit code {player.exit_code}")
        _wait(lambda: player_ended() and answers() >= frames, SETTLE_TIMEOUT_S, node, recorder)
        _wait(lambda: _number(out, "messages_out") >= frames, SETTLE_TIMEOUT_S, node, recorder)
        for child in (recorder, node):
            if child.stop():
                raise _failure(child, f"did not end cleanly (exit code {child.exit_code})")


def _wait(holds: Callable[[], bool], timeout_s: float | None, *needed: ChildProcess) -> bool:
    """Poll until it holds; False after the timeout. Raises DemoError if a needed process ends."""
    start = time.monotonic()
    while not holds():
        for child in needed:
            if child.exit_code is not None:
                raise _failure(child, f"ended with exit code {child.exit_code}")
        if timeout_s is not None and time.monotonic() - start > timeout_s:
            return False
        time.sleep(POLL_S)
    return True


def _failure(child: ChildProcess, what: str) -> DemoError:
    return DemoError(f"the {child.name} {what}; last lines of {child.log}:\n{child.tail()}")


def _diagnostics(out: Path) -> dict[str, str]:
    path = out / DIAGNOSTICS
    values: dict[str, str] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return values


def _number(out: Path, key: str) -> int:
    return int(_diagnostics(out).get(key, 0))


def _summarise(frames: int, out: Path) -> DemoSummary:
    published = {entry["stamp_ns"]: entry["published_ns"] for entry in GrowingLines(out / PUBLISHED).read()}
    received = {entry["stamp_ns"]: entry["received_ns"] for entry in GrowingLines(out / RECEIVED).read()[1:]}
    with InstanceBagReader(out / INSTANCES) as reader:
        tracks = {(result.epoch, item.track_id) for result in reader for item in result.instances}
        messages = reader.frames
    values = _diagnostics(out)
    if messages != frames or received.keys() != published.keys():
        raise DemoError(f"{frames} frames went in, {messages} results came out; the node dropped "
                        f"{_number(out, 'frames_dropped')}; see {out / 'node.log'}")
    seconds = (max(received.values()) - min(published.values())) / 1e9
    stages = {key.removeprefix("stage_ms."): float(value) for key, value in values.items()
              if key.startswith("stage_ms.")}
    return DemoSummary(
        frames_in=frames, messages_out=messages, frames_dropped=_number(out, "frames_dropped"),
        tracks=len(tracks), fps=round(frames / seconds, 3),
        latency_ms=percentiles([(received[stamp] - published[stamp]) / 1e6 for stamp in published]),
        stage_ms=stages, device=values.get("device", "unknown"))


def _draw(frames: int, out: Path, bars: Bars) -> None:
    """Overlay video of all frames and a contact sheet of some."""
    chosen = set(np.linspace(0, frames - 1, SHEET_FRAMES).round().astype(int).tolist())
    tiles: dict[int, npt.NDArray[np.uint8]] = {}
    with ImageBagReader(out / INPUT) as images, InstanceBagReader(out / INSTANCES) as results, \
            VideoWriter(out / OVERLAY, images.fps or DEFAULT_FPS) as video:
        for index, (image, result) in enumerate(_matched(images, results)):
            drawn = draw_instances(image, result)
            video.write(drawn)
            if index in chosen:
                tiles[index] = drawn
            bars.show("overlay", index + 1, frames)
    captions = [f"frame {index}" for index in tiles]
    sheet = contact_sheet(list(tiles.values()), SHEET_COLUMNS, captions)
    (out / OVERVIEW).write_bytes(cv2.imencode(".png", sheet)[1].tobytes())


def _matched(images: ImageBagReader, results: InstanceBagReader,
             ) -> Iterator[tuple[npt.NDArray[np.uint8], FrameResult]]:
    """Each image with its result. Raises DemoError where their stamps differ."""
    for (stamp, image), result in zip(images, results, strict=True):
        if stamp != result.stamp_ns:
            raise DemoError(f"the result of the frame at {stamp} ns carries the stamp {result.stamp_ns}")
        yield image, result


def _print(summary: DemoSummary, out: Path, console: Console) -> None:
    table = Table(show_header=False, title=f"stemseg demo on {summary.device}")
    table.add_row("frames in / messages out", f"{summary.frames_in} / {summary.messages_out}")
    table.add_row("frames dropped", str(summary.frames_dropped))
    table.add_row("tracks", str(summary.tracks))
    table.add_row("frames per second", f"{summary.fps:.2f}")
    table.add_row("latency ms, median / p99",
                  f"{summary.latency_ms['median']:.0f} / {summary.latency_ms['p99']:.0f}")
    for stage, milliseconds in summary.stage_ms.items():
        table.add_row(f"{stage}, ms per window", f"{milliseconds:.1f}")
    console.print(table)
    console.print(f"{out}: {OVERLAY}, {OVERVIEW}, {SUMMARY}, {INSTANCES}, {INPUT}", soft_wrap=True)
