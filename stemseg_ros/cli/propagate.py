"""The command ``stemseg propagate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stemseg_ros.cli.options import (
    CheckpointOption,
    DeviceOption,
    SetOption,
    SourceArgument,
    StrictOption,
    TopicOption,
    config_from,
)
from stemseg_ros.errors import MediaError, PromptError

if TYPE_CHECKING:
    from stemseg_ros.labelling.mask_propagation import PropagationSummary


MasksOption = Annotated[
    Path,
    typer.Option(
        help="What to follow: a PNG for the first frame, or a folder of PNGs named like the "
        "frames in which objects appear (of a video: 00000, 00001, ...); the value of a pixel "
        "is the number of its object, 0 background."
    ),
]
OutOption = Annotated[
    Path, typer.Option(help="Folder for masks/NAME.png, overlay.mp4 and summary.json.")
]
ConfigOption = Annotated[
    str, typer.Option(help="Preset of a model that takes prompts, or YAML file.")
]
FpsOption = Annotated[
    float | None,
    typer.Option(
        help="Frame rate of the overlay.", show_default="that of the video; 10 for images"
    ),
]


def propagate(
    source: SourceArgument,
    masks: MasksOption,
    out: OutOption = Path("out/propagate"),
    config: ConfigOption = "hodor_lite",
    checkpoint: CheckpointOption = None,
    device: DeviceOption = "auto",
    topic: TopicOption = None,
    fps: FpsOption = None,
    settings: SetOption = None,
    strict: StrictOption = False,
) -> None:
    """Follow the objects of given masks through a recording: label images, overlay video,
    summary."""
    from stemseg_ros.cli.console import frames_progress, report_damage
    from stemseg_ros.execution.device import describe_device, resolve_device
    from stemseg_ros.formats.prompt_pngs import read_prompt_masks
    from stemseg_ros.labelling.mask_propagation import (
        SUMMARY,
        frame_names,
        propagate_source,
    )
    from stemseg_ros.media.outputs import appear_together
    from stemseg_ros.media.sources import open_source
    from stemseg_ros.stream import open_model

    tree = config_from(config, settings)
    place = resolve_device(device)
    _keep_inputs(out, source, masks)
    with open_source(source, topic, fps) as frames:
        read_prompt_masks(masks, frame_names(frames))  # mistakes show before the model is loaded
        with appear_together(out, last=SUMMARY) as partial:
            stream = open_model(tree, checkpoint, place).stream()
            with frames_progress(frames.name, frames.frames) as progress:
                summary = propagate_source(
                    frames,
                    masks,
                    stream,
                    partial,
                    checkpoint=checkpoint or "bundled",
                    device=describe_device(place),
                    progress=progress,
                )
    _print(summary, out)
    report_damage(frames.damage)
    others = summary.skipped[len(frames.damage.skipped) :]
    if strict and (frames.damage or others):
        raise typer.Exit(3)


def _keep_inputs(out: Path, source: Path, masks: Path) -> None:
    """Raises unless the folder that is replaced was written by this command and holds no input."""
    from stemseg_ros.labelling.mask_propagation import MASKS, SUMMARY

    folder = (out / MASKS).resolve()
    for given in (source, masks):
        if folder in (given.resolve(), *given.resolve().parents):
            raise PromptError(f"{given} lies in {folder}, which is written; choose another --out")
    if folder.exists() and not (out / SUMMARY).is_file():
        raise MediaError(f"{folder} is there and of no earlier run; choose another --out")


def _print(summary: PropagationSummary, out: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(
        "object",
        "from frame",
        "found in",
        "last frame",
        "score",
        title=f"{summary.source}, {summary.config} on {summary.device}",
    )
    for item in summary.objects:
        values = (item.id, item.given, item.frames, item.last, f"{item.score:.2f}")
        table.add_row(*map(str, values))
    console = Console()
    console.print(table)
    console.print(
        f"{summary.frames} frames, {summary.fps:.2f} frames/s; "
        f"{out}: masks, overlay.mp4, summary.json",
        soft_wrap=True,
    )
    for note in summary.notes:
        typer.echo(f"stemseg: {note}", err=True)
