"""One tree of validated, immutable settings: YAML in, YAML out.

A preset is a YAML file in ``config/models`` that names its model and what differs from the
defaults or, with ``base: lite``, from another preset or file; ``config/schedules`` has further
ones, for training. Every setting has a dotted name (``clustering.min_heat``) that is the same in
YAML, in ``overrides``, on the command line (``--set``) and as a ROS parameter; ranges and
descriptions are those of the fields.
"""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from stemseg_ros.errors import StemsegError
from stemseg_ros.execution.settings import RuntimeConfig
from stemseg_ros.models.names import MODELS
from stemseg_ros.resources import resource_path
from stemseg_ros.ros.settings import HealthConfig, NodeConfig, QosConfig
from stemseg_ros.settings import ClipShape, InputConfig, OutputConfig, Section, StreamConfig
from stemseg_ros.tracker import Latency
from stemseg_ros.training.settings import TrainingConfig

RENAMED = {
    "node.max_gap": "stream.max_gap",
    "window.flush_after": "stream.flush_after",
    "health.warn_silence": "health.warn_no_images",
    "health.error_silence": "health.error_no_images",
}
"""Former names of settings, accepted with a warning until the next version."""
DEFAULT_MODEL = "stemseg"
PRESENTATION = ("name", "qos", "node", "health", "training")
"""Sections without effect on what a model finds in given frames."""


class ConfigError(StemsegError, ValueError):
    """A setting is unknown, out of range, or its file cannot be read; the message names it and the
    remedy."""


class Config(Section):
    """Common settings of all models.

    Each model composes its own sections with these (``models/*/settings.py``).
    """

    name: str = "custom"
    """Name of the preset."""
    model: str = DEFAULT_MODEL
    """Name of the model (``models/registry.py``)."""
    input: InputConfig = InputConfig()
    output: OutputConfig = OutputConfig()
    stream: StreamConfig = StreamConfig()
    runtime: RuntimeConfig = RuntimeConfig()
    qos: QosConfig = QosConfig()
    node: NodeConfig = NodeConfig()
    health: HealthConfig = HealthConfig()
    training: TrainingConfig = TrainingConfig()

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names; class ids count from 1."""
        raise NotImplementedError(f"the settings of the model {self.model} define no classes")

    @property
    def latency(self) -> Latency:
        """Latency of a tracker with these settings."""
        raise NotImplementedError(f"the settings of the model {self.model} define no latency")

    @property
    def clip(self) -> ClipShape:
        """What a training clip is."""
        raise NotImplementedError(f"the settings of the model {self.model} describe no clips")

    @property
    def detector(self) -> Config | None:
        """Settings of the model whose tracks this one follows; None if it takes none."""
        return None

    @property
    def detector_checkpoint(self) -> str:
        """Weights of the detector, as for ``open_model``."""
        return ""

    @property
    def alone(self) -> Config:
        """The same settings without a detector."""
        return self

    @property
    def mode(self) -> str:
        """How frames are grouped: "online" for models that return each frame's result at once."""
        return "online"

    def in_mode(self, mode: str) -> Config:
        """The same settings in another mode. Raises ConfigError if the model has no modes."""
        if mode != self.mode:
            raise ConfigError(f"the model {self.model} has no mode '{mode}', only '{self.mode}'")
        return self

    @property
    def traits(self) -> dict[str, str]:
        """Properties of the model in reports and diagnostics, besides its preset."""
        return {"model": self.model}


AnyConfig = TypeVar("AnyConfig", bound=Config)


def settings_class(model: str) -> type[Config]:
    """The settings of a model, by its name. Raises ConfigError."""
    if model not in MODELS:
        raise ConfigError(f"model: unknown model '{model}'; there are {', '.join(MODELS)}")
    found: type[Config] = import_module(f"{MODELS[model]}.settings").Settings
    return found


def load_config(source: str | Path, overrides: Mapping[str, Any] | None = None) -> Config:
    """Read a preset by name ("lite") or a YAML file by path, then apply overrides by dotted name.

    Raises ConfigError, which names the offender, for a missing file, an unknown name (with the
    nearest one), or a value out of range.
    """
    path = _find(source)
    tree = _merge({}, _read_tree(path))
    tree.setdefault("name", path.stem)
    return _validate(_merge(tree, overrides or {}), str(source))


def update_config(config: AnyConfig, overrides: Mapping[str, Any]) -> AnyConfig:
    """A copy of the tree with some settings replaced, by dotted name. Raises ConfigError."""
    changed = _validate(_merge(config.model_dump(), overrides), config.name)
    assert isinstance(changed, type(config))
    return changed


def dump_config(config: Config) -> str:
    """The whole tree as YAML that load_config reads back to an equal tree."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def result_settings(config: Config) -> str:
    """Dump the settings that affect what a model finds, as YAML, for fingerprints of stored
    results.

    Settings of the node, of reports and of training are left out.
    """
    tree = config.model_dump(mode="json", exclude=set(PRESENTATION))
    if config.detector:
        tree["detector"] = yaml.safe_load(result_settings(config.detector))
    return yaml.safe_dump(tree, sort_keys=True, allow_unicode=True)


def walk_settings(section: type[Section], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
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
        section, _, leaf = current_name(dotted).rpartition(".")
        target = merged.setdefault(section, {}) if section else merged
        if not isinstance(target, dict):
            raise ConfigError(_unknown(dotted, str(merged.get("model", DEFAULT_MODEL))))
        target[leaf] = value
    return merged


def current_name(dotted: str) -> str:
    """The name of a setting today; warns where it had another one before."""
    if dotted not in RENAMED:
        return dotted
    renamed = RENAMED[dotted]
    warnings.warn(
        f"the setting '{dotted}' is now '{renamed}'; the next version will refuse the old name",
        FutureWarning,
        stacklevel=2,
    )
    return renamed


def _leaves(overrides: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Settings by dotted name; a whole section given as a mapping is merged, not replaced."""
    for name, value in overrides.items():
        if isinstance(value, Mapping) and "." not in name and value:
            yield from ((f"{name}.{leaf}", inner) for leaf, inner in value.items())
        else:
            yield name, value


def _validate(tree: dict[str, Any], origin: str) -> Config:
    model = str(tree.get("model", DEFAULT_MODEL))
    try:
        return settings_class(model).model_validate(tree)
    except ValidationError as error:
        lines = [
            _explain(
                ".".join(str(part) for part in e["loc"]), e["type"], e["msg"], e["input"], model
            )
            for e in error.errors()
        ]
        raise ConfigError(f"{origin}: " + "; ".join(lines)) from None


def _explain(dotted: str, kind: str, message: str, value: Any, model: str) -> str:
    if (
        kind == "extra_forbidden"
    ):  # of a whole section the first setting serves to find what was meant
        first = f"{dotted}.{next(iter(value))}" if isinstance(value, dict) and value else dotted
        return _unknown(first, model)
    if kind in ("tuple_type", "list_type"):
        message = "Input should be a list, as in [a, b]"
    return f"{dotted}: {message.removeprefix('Value error, ')}" + (
        f" (got {value!r})" if not isinstance(value, dict) else ""
    )


def _unknown(dotted: str, model: str) -> str:
    known = [name for name, _ in walk_settings(settings_class(model))]
    return f"unknown setting '{dotted}'" + _nearest(dotted, known)


def _nearest(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else ""
