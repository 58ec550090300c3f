"""The command ``stemseg data pseudo-label``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stemseg_ros.cli.options import (
    DeviceOption,
    SourceArgument,
    StrictOption,
    TopicOption,
    UsageError,
)

if TYPE_CHECKING:
    from stemseg_ros.config import Config
    from stemseg_ros.labelling.pseudo_labels import View
    from stemseg_ros.media.sources import FrameSource
    from stemseg_ros.stream import Stream

MODELS = ["lite", "stc_lite"]
SCALES = [1.0, 1.4]
OutOption = Annotated[
    Path, typer.Option(help="New folder for images and label images, such as DATA/clips/NAME.")
]
ModelsOption = Annotated[
    list[str],
    typer.Option("--model", metavar="CONFIG[:WEIGHTS]", help="Preset or YAML file; repeatable."),
]
ScalesOption = Annotated[
    list[float],
    typer.Option("--scale", min=0.1, max=10, help="Input size by that of the preset; repeatable."),
]
AgreeOption = Annotated[
    int,
    typer.Option(min=1, help="Views that must show an object; a model has two for each scale."),
]
IgnoreOption = Annotated[
    list[str] | None,
    typer.Option("--ignore", metavar="CLASS", help="Ignore objects of this class; repeatable."),
]


def pseudo_label(
    source: SourceArgument,
    out: OutOption,
    models: ModelsOption = MODELS,
    scales: ScalesOption = SCALES,
    agree: AgreeOption = 4,
    ignore: IgnoreOption = None,
    device: DeviceOption = "auto",
    topic: TopicOption = None,
    strict: StrictOption = False,
) -> None:
    """Label a recording for self-training by what several models, at several sizes and mirrored,
    see alike; the rest of what they see is ignored."""
    from stemseg_ros.cli.console import report_damage
    from stemseg_ros.labelling.pseudo_labels import FIRST_LABELS, label_frames, write_clip
    from stemseg_ros.media.outputs import appear_together
    from stemseg_ros.media.sources import open_source

    _check(out, models, scales, agree, ignore or [])
    configs = _read_configs(models)
    with appear_together(out, last=FIRST_LABELS) as partial, open_source(source, topic) as frames:
        views = _take_views(frames, _open_streams(configs, scales, device))
        labelled = label_frames(views, agree, ignore or [])
        written = write_clip(partial, (image for _, image in frames), labelled)
        damage = frames.damage
    typer.echo(
        f"{out}: {written.frames} frames, {written.kept} masks; {written.left_out} are ignored"
    )
    report_damage(damage)
    if strict and damage:
        raise typer.Exit(3)


def _open_streams(
    configs: Mapping[str, Config], scales: Sequence[float], device: str
) -> dict[tuple[str, float], Stream]:
    """Open every model at every scale, so that mistakes show before the work begins."""
    from stemseg_ros.labelling.pseudo_labels import scale_input
    from stemseg_ros.stream import open_model

    streams = {}
    for (text, config), scale in product(configs.items(), scales):
        weights = text.partition(":")[2] or None
        streams[text, scale] = open_model(scale_input(config, scale), weights, device).stream()
    return streams


def _take_views(frames: FrameSource, streams: Mapping[tuple[str, float], Stream]) -> list[View]:
    from stemseg_ros.cli.console import frames_progress
    from stemseg_ros.labelling.pseudo_labels import take_view

    views = []
    for ((text, scale), stream), mirrored in product(streams.items(), (False, True)):
        title = f"{text}, scale {scale:g}{', mirrored' if mirrored else ''}"
        images = (image for _, image in frames)
        with frames_progress(title, frames.frames) as progress:
            views.append(take_view(text, stream, images, mirrored=mirrored, progress=progress))
    return views


def _check(
    out: Path,
    models: Sequence[str],
    scales: Sequence[float],
    agree: int,
    ignore: Sequence[str],
) -> None:
    """Raises UsageError for options that do not fit."""
    from stemseg_ros.labelling.pseudo_labels import CLASS_IDS

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"--out {out}: is there already; choose a new folder")
    for option, given in (("--model", models), ("--scale", scales)):
        if len(set(given)) < len(given):
            raise UsageError(f"{option}: the same one twice would count as two views")
    views = 2 * len(models) * len(scales)
    if agree > views:
        raise UsageError(f"--agree {agree}: there are {views} views; add models or scales")
    for name in ignore:
        if name not in CLASS_IDS:
            raise UsageError(f"--ignore {name}: the classes are {', '.join(CLASS_IDS)}")


def _read_configs(models: Sequence[str]) -> dict[str, Config]:
    """Read the settings of each model, by its text. Raises ConfigError, and UsageError for models
    that cannot label."""
    from stemseg_ros.config import load_config
    from stemseg_ros.labelling.pseudo_labels import CLASS_IDS

    configs = {text: load_config(text.partition(":")[0]) for text in models}
    for text, config in configs.items():
        if config.model == "hodor":
            raise UsageError(f"--model {text}: follows objects; name models that detect them")
        unknown = [name for name in config.classes if name not in CLASS_IDS]
        if unknown:
            raise UsageError(
                f"--model {text}: the class '{unknown[0]}' is none of the driving pack: "
                f"{', '.join(CLASS_IDS)}"
            )
    return configs
