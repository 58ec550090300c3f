"""What following objects costs: processor time of a frame against the number of objects and the
length of the history.

    python -m benchmarks.objects --objects 1 --objects 5 --objects 20 --history 1 --history 7

Processor time, so that what else the machine does counts little: for wall time divide by the
threads that are busy. Objects are equal boxes in a grid over the first frame; what matters is
their number, not what they show. Frames are timed once the history is full.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from statistics import median
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.speed import read_frames
from stemseg_ros.cli.options import JsonOption, SetOption, config_from
from stemseg_ros.config import update_config
from stemseg_ros.errors import StemsegError
from stemseg_ros.execution.engine import Engine, Tensors
from stemseg_ros.masks import encode
from stemseg_ros.records import Frame, Image, Prompt
from stemseg_ros.resources import resource_path
from stemseg_ros.stream import Model, open_model

TOTAL = "frame"


class Timed:
    """An engine that adds up its processor time."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.device, self.precision = engine.device, engine.precision
        self.description = engine.description
        self.milliseconds: dict[str, float] = {}

    def run(self, function: str, batch: Sequence[Tensors]) -> list[Tensors]:
        """See ``Engine``."""
        begin = time.process_time()
        outputs = self._engine.run(function, batch)
        spent = 1e3 * (time.process_time() - begin)
        self.milliseconds[function] = self.milliseconds.get(function, 0.0) + spent
        return outputs


def grid_prompts(number: int, size: tuple[int, int]) -> tuple[Prompt, ...]:
    """So many boxes, half as wide and high as the cells of a square grid over an (H, W) image."""
    side = int(np.ceil(number**0.5))
    height, width = size[0] // side, size[1] // side
    prompts = []
    for index in range(number):
        row, column = divmod(index, side)
        top, left = row * height + height // 4, column * width + width // 4
        mask = np.zeros(size, bool)
        mask[top : top + height // 2, left : left + width // 2] = True
        prompts.append(Prompt(index + 1, 1, encode(mask)))
    return tuple(prompts)


def measure(
    model: Model, frames: Sequence[tuple[int, Image]], objects: int, timed: int
) -> dict[str, float]:
    """Median milliseconds of processor time of the last ``timed`` frames, by function and in all.

    Raises PromptError.
    """
    engine = Timed(model.engine)
    stream = Model(model.config, engine).stream()
    height, width = frames[0][1].shape[:2]
    spent: list[dict[str, float]] = []
    for number, (stamp_ns, image) in enumerate(frames):
        prompts = () if number else grid_prompts(objects, (height, width))
        engine.milliseconds = {}
        begin = time.process_time()
        stream.push(Frame(image, stamp_ns, prompts))
        spent.append({**engine.milliseconds, TOTAL: 1e3 * (time.process_time() - begin)})
    last = spent[-timed:]
    return {name: median(one[name] for one in last) for name in last[0]}


def main(
    config: Annotated[str, typer.Option(help="Preset of a model that takes prompts.")] = (
        "hodor_lite"
    ),
    checkpoint: Annotated[str | None, typer.Option(help="Weights; random: untrained.")] = None,
    objects: Annotated[list[int] | None, typer.Option(min=1, max=255)] = None,
    history: Annotated[
        list[int] | None, typer.Option(min=1, help="Frames of propagation.window.")
    ] = None,
    video: Annotated[
        Path | None, typer.Option(help="A recording; the demo video if none.")
    ] = None,
    timed: Annotated[int, typer.Option(min=1, help="Frames that are timed.")] = 5,
    settings: SetOption = None,
    json_file: JsonOption = None,
) -> None:
    """Measure the cost of a frame against the number of objects and the history."""
    console, rows = Console(highlight=False), []
    recording = video or resource_path("media/highway_1280x720_25fps.mp4")
    table = Table("objects", "history", "ms a frame", "of which")
    try:
        tree = config_from(config, settings)
        model = open_model(tree, checkpoint)
        for number, window in product(objects or [1, 5, 20], history or [1, 3, 7]):
            windowed = update_config(tree, {"propagation.window": window})
            # The first frame gives the objects and stays in the memory for good.
            frames = read_frames(recording, 1 + window + timed)
            spent = measure(Model(windowed, model.engine), frames, number, timed)
            rows.append({"objects": number, "history": window, **spent})
            parts = (f"{name} {ms:.0f}" for name, ms in spent.items() if name != TOTAL)
            table.add_row(str(number), str(window), f"{spent[TOTAL]:.0f}", ", ".join(parts))
    except StemsegError as error:
        typer.echo(f"objects: {error}", err=True)
        sys.exit(1)
    console.print(table)
    if json_file:
        json_file.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    typer.run(main)
