"""Options that several commands share, and the settings they add up to."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stemseg_ros.errors import StemsegError

if TYPE_CHECKING:
    from stemseg_ros.config import Config


class UsageError(StemsegError):
    """An option has a value that cannot be read."""


ConfigOption = Annotated[
    str,
    typer.Option("--config", help="Preset (config/models: lite, stc_lite, ...) or YAML file."),
]
PresetArgument = Annotated[str, typer.Argument(metavar="CONFIG", help="Preset or YAML file.")]
CheckpointOption = Annotated[
    str | None,
    typer.Option(
        "--checkpoint",
        help="Weights file; random: untrained.",
        show_default="bundled with the preset",
    ),
]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override a setting by its dotted name; may be repeated.",
    ),
]
SourceArgument = Annotated[
    Path,
    typer.Argument(
        metavar="INPUT", help="A video, a folder of images (or 'folder/*.jpg'), or a ROS 2 bag."
    ),
]
TopicOption = Annotated[
    str | None, typer.Option("--topic", help="Image topic of a bag.", show_default="the only one")
]
JsonOption = Annotated[
    Path | None, typer.Option("--json", help="Also write the numbers to this file.")
]
StrictOption = Annotated[
    bool, typer.Option("--strict", help="Exit code 3 if any frame could not be read.")
]


def config_from(
    name: str, settings: list[str] | None, options: dict[str, Any] | None = None
) -> Config:
    """Load a preset or file, with --set and the command's own options on top."""
    from stemseg_ros.config import load_config

    return load_config(name, {**_overrides(settings or []), **(options or {})})


def _overrides(settings: list[str]) -> dict[str, Any]:
    import yaml

    overrides: dict[str, Any] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not key:
            raise UsageError(f"--set {setting}: expected KEY=VALUE, for example window.overlap=2")
        try:
            overrides[key.strip()] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise UsageError(
                f"--set {setting}: '{text}' cannot be read as a YAML value"
            ) from error
    return overrides


def frame_size(text: str) -> tuple[int, int]:
    """Parse (width, height) from "1242x375"."""
    match = re.fullmatch(r"([0-9]+)x([0-9]+)", text)
    if match is None or not all(16 <= int(side) <= 16384 for side in match.groups()):
        raise UsageError(
            f"--size {text}: expected WIDTHxHEIGHT, 16 to 16384 pixels, as in 1242x375"
        )
    return int(match[1]), int(match[2])
