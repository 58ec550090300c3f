"""The demonstration: a video becomes a bag, goes through the ROS 2 node, and comes back as masks
with ids.

Three processes talk over DDS: the node, a player that publishes the bag, and a recorder. This one
watches.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table

from stemseg_ros.cli.console import report_damage
from stemseg_ros.config import load_config
from stemseg_ros.labelling.job import percentiles, write_json
from stemseg_ros.media.bags import write_bag
from stemseg_ros.media.image_bag import ImageBagReader
from stemseg_ros.media.outputs import output_folder
from stemseg_ros.media.overlay import VideoWriter, contact_sheet, draw_instances
from stemseg_ros.media.result_bag import InstanceBagReader
from stemseg_ros.media.sources import DEFAULT_FPS, open_source
from stemseg_ros.models.registry import model_package
from stemseg_ros.records import FrameResult
from stemseg_ros.replay import session
from stemseg_ros.replay.processes import termination_as_exit
from stemseg_ros.replay.session import ReplayError
from stemseg_ros.resources import resource_path

VIDEO = "media/highway_1280x720_25fps.mp4"
INPUT, OVERLAY, OVERVIEW, SUMMARY = "input.mcap", "overlay.mp4", "overview.png", "summary.json"
SHEET_FRAMES, SHEET_COLUMNS = 9, 3


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
    """median and p99 from publishing a frame to receiving its result, the wait for its window
    included."""
    stage_ms: dict[str, float]
    """Median milliseconds per window, by stage."""
    device: str


def run_demo(
    out: Path,
    *,
    video: Path | None = None,
    config: str = "lite",
    checkpoint: str | None = None,
    device: str = "cpu",
    console: Console | None = None,
) -> DemoSummary:
    """Run the demonstration and leave bags, overlay video, contact sheet, summary and logs in
    ``out``.

    ``video`` is whatever open_source takes; none is the bundled one. Progress goes to standard
    error, the table to ``console`` (standard output). Raises ReplayError, or the error of the
    argument that is wrong.
    """
    session.check_ros()
    settings = load_config(config)
    # Wrong weights are the likeliest mistake: found here, before anything is started.
    model_package(settings.model).load_network(settings, checkpoint)
    with output_folder(out), Bars() as bars, termination_as_exit():
        for name in (INPUT, OVERLAY, OVERVIEW, SUMMARY, *session.FILES):
            (out / name).unlink(missing_ok=True)
        frames = _write_input(video or resource_path(VIDEO), out, bars)
        arguments = session.node_arguments(settings, config, checkpoint, device)
        in_flight = settings.latency.in_flight
        session.play_through_node(out / INPUT, frames, in_flight, arguments, out, bars.show)
        summary = _summarise(frames, out)
        _draw(frames, out, bars)
    write_json(out / SUMMARY, asdict(summary))
    _print(summary, out, console or Console())
    return summary


class Bars:
    """One progress bar per step, each under its name."""

    def __init__(self) -> None:
        self._progress = Progress(
            TextColumn("{task.description:<18}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=Console(stderr=True),
        )
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


def _write_input(video: Path, out: Path, bars: Bars) -> int:
    with open_source(video) as source:
        frames = Advancing(source, round(1e9 / (source.fps or DEFAULT_FPS)))
        count = write_bag(
            frames,
            out / INPUT,
            topic=session.IMAGE_TOPIC,
            progress=lambda done: bars.show("video to bag", done, source.frames),
        )
        report_damage(source.damage)
        if frames.restamped:
            typer.echo(
                f"stemseg: {frames.restamped} frames with stamps that go back are shown at the "
                "rate of the others",
                err=True,
            )
        return count


class Advancing:
    """Frames whose stamps always advance: one that does not gets that of its predecessor plus a
    step, so that a clock that was set back costs no frame."""

    def __init__(self, source: Iterable[tuple[int, npt.NDArray[np.uint8]]], step_ns: int) -> None:
        self._source = source
        self._step_ns = step_ns
        self.restamped = 0

    def __iter__(self) -> Iterator[tuple[int, npt.NDArray[np.uint8]]]:
        last: int | None = None
        for stamp, image in self._source:
            if last is not None and stamp <= last:
                self.restamped += 1
                stamp = last + self._step_ns
            last = stamp
            yield stamp, image


def _summarise(frames: int, out: Path) -> DemoSummary:
    with InstanceBagReader(out / session.INSTANCES) as reader:
        tracks = {(result.epoch, item.track_id) for result in reader for item in result.instances}
        messages = reader.frames
    times, values = session.times(out), session.diagnostics(out)
    stages = {
        key.removeprefix("stage_ms."): float(value)
        for key, value in values.items()
        if key.startswith("stage_ms.")
    }
    return DemoSummary(
        frames_in=frames,
        messages_out=messages,
        frames_dropped=int(values.get("frames_dropped", 0)),
        tracks=len(tracks),
        fps=round(frames / times.seconds, 3),
        latency_ms=percentiles(times.latency_ms),
        stage_ms=stages,
        device=values.get("device", "unknown"),
    )


def _draw(frames: int, out: Path, bars: Bars) -> None:
    """Overlay video of all frames and a contact sheet of some."""
    chosen = set(np.linspace(0, frames - 1, SHEET_FRAMES).round().astype(int).tolist())
    tiles: dict[int, npt.NDArray[np.uint8]] = {}
    with (
        ImageBagReader(out / INPUT) as images,
        InstanceBagReader(out / session.INSTANCES) as results,
        VideoWriter(out / OVERLAY, images.fps or DEFAULT_FPS) as video,
    ):
        for index, (image, result) in enumerate(_matched(images, results)):
            drawn = draw_instances(image, result)
            video.write(drawn)
            if index in chosen:
                tiles[index] = drawn
            bars.show("overlay", index + 1, frames)
    captions = [f"frame {index}" for index in tiles]
    sheet = contact_sheet(list(tiles.values()), SHEET_COLUMNS, captions)
    (out / OVERVIEW).write_bytes(cv2.imencode(".png", sheet)[1].tobytes())


def _matched(
    images: ImageBagReader,
    results: InstanceBagReader,
) -> Iterator[tuple[npt.NDArray[np.uint8], FrameResult]]:
    """Each image with its result. Raises ReplayError where their stamps differ."""
    for (stamp, image), result in zip(images, results, strict=True):
        if stamp != result.stamp_ns:
            raise ReplayError(
                f"the result of the frame at {stamp} ns carries the stamp {result.stamp_ns}"
            )
        yield image, result


def _print(summary: DemoSummary, out: Path, console: Console) -> None:
    table = Table(show_header=False, title=f"stemseg demo on {summary.device}")
    table.add_row("frames in / messages out", f"{summary.frames_in} / {summary.messages_out}")
    table.add_row("frames dropped", str(summary.frames_dropped))
    table.add_row("tracks", str(summary.tracks))
    table.add_row("frames per second", f"{summary.fps:.2f}")
    table.add_row(
        "latency ms, median / p99",
        f"{summary.latency_ms['median']:.0f} / {summary.latency_ms['p99']:.0f}",
    )
    for stage, milliseconds in summary.stage_ms.items():
        table.add_row(f"{stage}, ms per window", f"{milliseconds:.1f}")
    console.print(table)
    console.print(
        f"{out}: {OVERLAY}, {OVERVIEW}, {SUMMARY}, {session.INSTANCES}, {INPUT}", soft_wrap=True
    )
