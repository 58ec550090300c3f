"""What engines, temporal taps and modes cost, side by side on one video.

    python -m benchmarks.speed --config lite --json out/speed.json

Every contestant is a setting. All are warmed up, then they take turns with the same frames, round
after round, so that what else the machine does meets each of them; what counts is the median of
the rounds, and its ratio to the first contestant. Labels are compared with those of the first one,
so that a fast contestant is also a right one. Nothing else should run: the load average of the
machine is printed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import typer
from rich.console import Console
from rich.table import Table

from stemseg_ros.cli.options import JsonOption, SetOption, config_from
from stemseg_ros.config import Config
from stemseg_ros.errors import StemsegError
from stemseg_ros.masks import label_image
from stemseg_ros.media.sources import open_source
from stemseg_ros.records import Frame, Image
from stemseg_ros.resources import resource_path
from stemseg_ros.stream import Model, open_model

CONTESTANTS: dict[str, dict[str, Any]] = {
    "torch, without taps": {"runtime.engine": "torch", "window.taps": False},
    "torch": {"runtime.engine": "torch"},
    "openvino, without taps": {"runtime.engine": "openvino", "window.taps": False},
    "openvino": {"runtime.engine": "openvino"},
    "onnxruntime": {"runtime.engine": "onnxruntime"},
    "openvino, zero look-ahead": {"runtime.engine": "openvino", "window.mode": "online"},
}
QUIET = 0.5
"""Load average per CPU, before the measurement, above which a machine is busy."""
START = "from stemseg_ros import open_model; open_model('{config}')"
Labels = list[npt.NDArray[np.uint16]]


@dataclass(slots=True)
class Measured:
    """One contestant."""

    name: str
    engine: str
    precision: str
    milliseconds: list[float] = field(default_factory=list)
    """A frame, one value a round."""
    stages: dict[str, float] = field(default_factory=dict)
    """Milliseconds a frame of the last round, by stage."""
    ratio: float = 1.0
    """How many times as fast as the first contestant, by the medians."""
    different_percent: float = 0.0
    """Pixels of all frames whose label differs from the first contestant's."""

    @property
    def median_ms(self) -> float:
        """Milliseconds a frame."""
        return median(self.milliseconds)


def read_frames(video: Path, count: int) -> list[tuple[int, Image]]:
    """The first frames of a recording, with their stamps. Raises MediaError."""
    with open_source(video) as source:
        return [pair for pair, _ in zip(source, range(count), strict=False)]


def push_frames(
    model: Model, frames: Sequence[tuple[int, Image]]
) -> tuple[float, dict[str, float], Labels]:
    """A new stream over the frames: milliseconds a frame, of which by stage, and label images."""
    stream, results, stages = model.stream(), [], dict[str, float]()
    begin = time.perf_counter()
    for stamp_ns, image in frames:
        results += stream.push(Frame(image, stamp_ns))
        for stage, spent in stream.timings.items():
            stages[stage] = stages.get(stage, 0.0) + spent / len(frames)
    results += stream.flush()
    milliseconds = 1e3 * (time.perf_counter() - begin) / len(frames)
    return milliseconds, stages, [label_image(result) for result in results]


def compare(
    contestants: dict[str, Config],
    frames: Sequence[tuple[int, Image]],
    rounds: int,
    checkpoint: str | None = None,
) -> list[Measured]:
    """Measure contestants in turns. Raises StemsegError."""
    models = [open_model(config, checkpoint) for config in contestants.values()]
    measured = [
        Measured(name, model.engine.description, model.engine.precision)
        for name, model in zip(contestants, models, strict=True)
    ]
    first: Labels = []
    for one, model in zip(measured, models, strict=True):  # also the warm-up
        labels = push_frames(model, frames)[2]
        first = first or labels
        one.different_percent = different_pixels(labels, first)
    for _ in range(rounds):
        for one, model in zip(measured, models, strict=True):
            milliseconds, one.stages, _labels = push_frames(model, frames)
            one.milliseconds.append(milliseconds)
    for one in measured:
        one.ratio = measured[0].median_ms / one.median_ms
    return measured


def different_pixels(labels: Labels, first: Labels) -> float:
    """Percent of all pixels whose label is another one."""
    pairs = zip(labels, first, strict=True)
    different = sum(int(np.count_nonzero(a != b)) for a, b in pairs)
    return 100 * different / sum(label.size for label in first)


def start_seconds(config: str) -> float:
    """Processor time of a new process until the model of a preset is loaded."""
    before = os.times()
    subprocess.run([sys.executable, "-c", START.format(config=config)], check=True)
    after = os.times()
    spent = after.children_user - before.children_user
    return spent + after.children_system - before.children_system


def check_load(console: Console) -> float:
    """Return the load average per CPU; warn if the machine is busy."""
    load = os.getloadavg()[0] / (os.cpu_count() or 1)
    if load > QUIET:
        console.print(f"the machine is busy: load {load:.1f} per CPU; the ratios are rough")
    return load


def show(measured: Sequence[Measured], console: Console) -> None:
    """Print a table."""
    table = Table("contestant", "engine", "ms a frame", "times as fast", "other labels", "stages")
    for one in measured:
        table.add_row(
            one.name,
            f"{one.engine}, {one.precision}",
            f"{one.median_ms:.0f}",
            f"{one.ratio:.2f}",
            f"{one.different_percent:.3f} %",
            ", ".join(f"{stage} {spent:.0f}" for stage, spent in one.stages.items()),
        )
    console.print(table)


def main(
    config: Annotated[str, typer.Option(help="Preset or YAML file.")] = "lite",
    checkpoint: Annotated[str | None, typer.Option(help="Weights; random: untrained.")] = None,
    video: Annotated[
        Path | None, typer.Option(help="A recording; the demo video if none.")
    ] = None,
    frames: Annotated[int, typer.Option(min=2, help="Frames of a round.")] = 12,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds.")] = 5,
    only: Annotated[list[str] | None, typer.Option(help="Contestants by name.")] = None,
    settings: SetOption = None,
    json_file: JsonOption = None,
) -> None:
    """Compare engines, taps and modes on one video."""
    console = Console(highlight=False)
    load = check_load(console)
    recording = video or resource_path("media/highway_1280x720_25fps.mp4")
    try:
        chosen = {
            name: config_from(config, settings, CONTESTANTS[name]) for name in only or CONTESTANTS
        }
        measured = compare(chosen, read_frames(recording, frames), rounds, checkpoint)
    except StemsegError as error:
        console.print(f"[red]error[/red] {error}")
        raise typer.Exit(2) from error
    show(measured, console)
    start = start_seconds(config)
    console.print(
        f"from the start of Python to a loaded {config}: {start:.1f} s of processor time"
    )
    if json_file is not None:
        content = {
            "config": config,
            "video": recording.name,
            "frames": frames,
            "rounds": rounds,
            "load_per_cpu": load,
            "start_seconds": start,
            "contestants": [{**asdict(one), "median_ms": one.median_ms} for one in measured],
        }
        json_file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
