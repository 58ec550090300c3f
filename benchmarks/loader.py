"""How many training clips one core draws: does the loader keep a GPU busy?

    python benchmarks/loader.py --data DRIVING_PACK --config lite --set training.crop=[512,768]

Drawing is measured in processor time of this process, so that other programs on the machine do not
count: clips a second and core. A worker of ``training.workers`` has a core of its own, and sends
its batch through shared memory; ``--workers`` also measures so many of them against the clock.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import cv2
import torch
import typer
import yaml
from rich.console import Console
from rich.markup import escape

from stemseg_ros.config import update_config
from stemseg_ros.datasets.sequence import Sources
from stemseg_ros.errors import StemsegError
from stemseg_ros.models.stemseg.settings import Settings, load_settings
from stemseg_ros.training.batches import batches, load_sources, make_batch


def drawn_per_core(sources: Sources, config: Settings, clips: int) -> float:
    """Clips per second of processor time of one thread."""
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    size = config.training.batch_size * config.training.accumulate
    steps = -(-clips // size)
    make_batch(sources, config, steps)  # what is done once is not measured
    began = time.process_time()
    for step in range(steps):
        make_batch(sources, config, step)
    return steps * size / (time.process_time() - began)


def drawn_by_workers(sources: Sources, config: Settings, workers: int, clips: int) -> float:
    """Clips per second of so many workers, from the first batch that arrives."""
    size = config.training.batch_size * config.training.accumulate
    steps = -(-clips // size) + 1
    changed = {"training.workers": workers, "training.steps": steps}
    loader = iter(batches(sources, update_config(config, changed), 0))
    next(loader)
    began = time.monotonic()
    for _ in loader:
        pass
    return (steps - 1) * size / (time.monotonic() - began)


def main(
    data: Annotated[Path, typer.Option(help="Folder of the training data.")],
    config: Annotated[str, typer.Option(help="Preset or YAML file.")] = "lite",
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="KEY=VALUE of a setting.")
    ] = None,
    clips: Annotated[int, typer.Option(min=1, help="Clips of a measurement.")] = 100,
    workers: Annotated[list[int] | None, typer.Option(help="Worker processes.")] = None,
) -> None:
    """Print clips per second."""
    console = Console(highlight=False)
    try:
        pairs = (item.partition("=") for item in set_ or [])
        settings = load_settings(config, {key: yaml.safe_load(value) for key, _, value in pairs})
        sources = load_sources(settings, data)
    except StemsegError as error:
        console.print(f"[red]error[/red] {escape(str(error))}")
        raise typer.Exit(2) from error
    height, width = settings.training.crop
    console.print(f"{settings.window.length} frames of {height}x{width}")
    rate = drawn_per_core(sources, settings, clips)
    console.print(f"one core: {rate:.1f} clips/s ({1e3 / rate:.1f} ms a clip)")
    for count in workers or []:
        rate = drawn_by_workers(sources, settings, count, clips)
        console.print(f"{count} workers: {rate:.1f} clips/s, {rate / count:.1f} each")


if __name__ == "__main__":
    typer.run(main)
