"""One tree of validated, immutable settings: YAML in, YAML out.

A preset is a YAML file in ``config/models`` that names what differs from the defaults below, or,
with ``base: lite``, from another preset or file; ``config/schedules`` has further ones, for
training. Every setting has a dotted name (``clustering.min_heat``) that is the same in YAML, in
``overrides``, on the command line (``--set``) and as a ROS parameter; ranges and descriptions are
those of the fields.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from stemseg_ros.errors import StemsegError
from stemseg_ros.resources import resource_path
from stemseg_ros.settings import (
    ClusteringConfig,
    HealthConfig,
    InputConfig,
    Mixing,
    NetworkConfig,
    NodeConfig,
    OutputConfig,
    QosConfig,
    RuntimeConfig,
    Section,
    StitchingConfig,
    WindowConfig,
)
from stemseg_ros.training.settings import DatasetConfig, TrainingConfig

__all__ = [
    "ClusteringConfig",
    "Config",
    "ConfigError",
    "DatasetConfig",
    "HealthConfig",
    "InputConfig",
    "Mixing",
    "NetworkConfig",
    "NodeConfig",
    "OutputConfig",
    "QosConfig",
    "RuntimeConfig",
    "Section",
    "StitchingConfig",
    "TrainingConfig",
    "WindowConfig",
    "dump_config",
    "load_config",
    "preset_names",
    "schedule_names",
    "update_config",
    "walk_settings",
]


class ConfigError(StemsegError, ValueError):
    """A setting is unknown, out of range, or its file cannot be read; the message names it and the
    remedy."""


class Config(Section):
    """The whole tree."""

    name: str = "custom"
    """Name of the preset."""
    input: InputConfig = InputConfig()
    network: NetworkConfig = NetworkConfig()
    window: WindowConfig = WindowConfig()
    clustering: ClusteringConfig = ClusteringConfig()
    stitching: StitchingConfig = StitchingConfig()
    output: OutputConfig = OutputConfig()
    runtime: RuntimeConfig = RuntimeConfig()
    qos: QosConfig = QosConfig()
    node: NodeConfig = NodeConfig()
    health: HealthConfig = HealthConfig()
    training: TrainingConfig = TrainingConfig()


def load_config(source: str | Path, overrides: Mapping[str, Any] | None = None) -> Config:
    """Read a preset by name ("lite") or a YAML file by path, then apply overrides by dotted name.

    Raises ConfigError, which names the offender, for a missing file, an unknown name (with the
    nearest one), or a value out of range.
    """
    path = _find(source)
    tree = _read_tree(path)
    tree.setdefault("name", path.stem)
    return _validate(_merge(tree, overrides or {}), str(source))


def update_config(config: Config, overrides: Mapping[str, Any]) -> Config:
    """A copy of the tree with some settings replaced, by dotted name. Raises ConfigError."""
    return _validate(_merge(config.model_dump(), overrides), config.name)


def dump_config(config: Config) -> str:
    """The whole tree as YAML that load_config reads back to an equal tree."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def walk_settings(
    section: type[Section] = Config, prefix: str = ""
) -> Iterator[tuple[str, FieldInfo]]:
    """Every leaf of the tree as (dotted name, pydantic field), in order of declaration."""
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from walk_settings(field.annotation, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field


def preset_names() -> list[str]:
    """Names of the bundled presets."""
    return _names("models")


def schedule_names() -> list[str]:
    """Names of the bundled presets that only differ in how they are trained."""
    return _names("schedules")


def _names(folder: str) -> list[str]:
    return sorted(path.stem for path in resource_path(f"config/{folder}").glob("*.yaml"))


def _preset_file(name: object) -> Path | None:
    for folder in ("models", "schedules"):
        if str(name) in _names(folder):
            return resource_path(f"config/{folder}/{name}.yaml")
    return None


def _find(source: str | Path) -> Path:
    preset = _preset_file(source)
    if preset is not None:
        return preset
    path = Path(source)
    if path.is_file():
        return path
    hint = _nearest(str(source), preset_names() + schedule_names())
    raise ConfigError(
        f"no preset and no file named '{source}'{hint}; presets: {', '.join(preset_names())}"
    )


def _read_tree(path: Path, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Settings of a file on top of those of its base; ``above``: files that build on it."""
    tree = _read_yaml(path)
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: expected a mapping of settings, found {type(tree).__name__}")
    base = tree.pop("base", None)
    if base is None:
        return tree
    chain = (*above, path.resolve())
    found = _preset_file(base) or _find(path.parent / str(base))
    if found.resolve() in chain:
        raise ConfigError(f"{path}: its base '{base}' builds on this file")
    return _merge(_read_tree(found, chain), tree)


def _read_yaml(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: not readable as YAML: {error}") from error


def _merge(tree: dict[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    merged = {
        key: dict(value) if isinstance(value, dict) else value for key, value in tree.items()
    }
    for dotted, value in _leaves(overrides):
        section, _, leaf = dotted.rpartition(".")
        target = merged.setdefault(section, {}) if section else merged
        if not isinstance(target, dict):
            raise ConfigError(_unknown(dotted))
        target[leaf] = value
    return merged


def _leaves(overrides: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Overrides by dotted name; a whole section given as a mapping is merged, not replaced."""
    for name, value in overrides.items():
        if isinstance(value, Mapping) and name in Config.model_fields:
            yield from ((f"{name}.{leaf}", inner) for leaf, inner in value.items())
        else:
            yield name, value


def _validate(tree: dict[str, Any], origin: str) -> Config:
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        lines = [
            _explain(".".join(str(part) for part in e["loc"]), e["type"], e["msg"], e["input"])
            for e in error.errors()
        ]
        raise ConfigError(f"{origin}: " + "; ".join(lines)) from None


def _explain(dotted: str, kind: str, message: str, value: Any) -> str:
    if (
        kind == "extra_forbidden"
    ):  # of a whole section the first setting serves to find what was meant
        return _unknown(
            f"{dotted}.{next(iter(value))}" if isinstance(value, dict) and value else dotted
        )
    if kind in ("tuple_type", "list_type"):
        message = "Input should be a list, as in [a, b]"
    return f"{dotted}: {message.removeprefix('Value error, ')}" + (
        f" (got {value!r})" if not isinstance(value, dict) else ""
    )


def _unknown(dotted: str) -> str:
    return f"unknown setting '{dotted}'" + _nearest(dotted, [name for name, _ in walk_settings()])


def _nearest(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else ""
