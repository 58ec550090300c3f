"""ROS parameters, generated from the config tree: same dotted names, types, and ranges.

| setting                   | ROS parameter                                                    |
|---------------------------|------------------------------------------------------------------|
| bool, int, float, str     | bool, integer, double, string                                    |
| a choice of some values   | integer or string; the choices stand in additional_constraints   |
| tuple                     | integer, double, or string array                                 |
| none, an empty tuple      | declared, but not set                                            |
| training.*, stills.*,     | no parameter                                                     |
| name, model               |                                                                  |

Defaults are those of the preset that the parameter ``config`` names. All are read-only but those
that the tree marks as live. What ``ros2 param dump`` writes starts an equal node.
"""

from __future__ import annotations

import difflib
import re
import sys
import types
import typing
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union

from annotated_types import Ge, Gt, Le, Lt
from pydantic.fields import FieldInfo
from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.exceptions import ParameterException
from rclpy.node import Node
from rclpy.parameter import Parameter

from stemseg_ros.config import (
    RENAMED,
    Config,
    ConfigError,
    load_config,
    update_config,
    walk_settings,
)
from stemseg_ros.errors import StemsegError

_SCALARS = {
    bool: Parameter.Type.BOOL,
    int: Parameter.Type.INTEGER,
    float: Parameter.Type.DOUBLE,
    str: Parameter.Type.STRING,
}
_ARRAYS = {
    int: Parameter.Type.INTEGER_ARRAY,
    float: Parameter.Type.DOUBLE_ARRAY,
    str: Parameter.Type.STRING_ARRAY,
}
_REAL = {
    Parameter.Type.INTEGER: Parameter.Type.DOUBLE,
    Parameter.Type.INTEGER_ARRAY: Parameter.Type.DOUBLE_ARRAY,
}
_DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?")
_INT_LIMIT = 2**63 - 1
AT_START = "(Read-only: given at the start of the node.)"
"""Ends the description of what a running node does not accept."""


class ParameterError(StemsegError):
    """A parameter is unknown or its value invalid; the message names it and the reason."""


@dataclass(frozen=True, slots=True)
class NodeParameters:
    """Settings that the parameters of a node hold."""

    config: Config
    checkpoint: str | None
    """Path, "random", or None for the weights bundled with the preset."""
    device: str
    """auto, cpu, cuda, or cuda:n."""
    autostart: bool


def declare_parameters(node: Node) -> NodeParameters:
    """Declare all parameters of the node and read them.

    Raises ParameterError for a value that does not fit, and for one that no parameter takes.
    """
    try:
        base = load_config(_declare(node, "config", "lite", "Preset name or path of a YAML file."))
        device = _declare(node, "device", "auto", "auto, cpu, cuda, or cuda:n.")
        autostart = _declare(node, "autostart", True, "Configure and activate at start.")
        changed = _declare_settings(node, base)
        config = update_config(base, changed)
        checkpoint = _declare(
            node,
            "checkpoint",
            "",
            "File of the weights; empty: those of the preset; random: untrained, for trials.",
            read_only=not config.node.remote_checkpoints,
        )
        _refuse_unknown(node)
    except ParameterException as error:
        raise ParameterError(_reason(error)) from error
    except ConfigError as error:
        raise ParameterError(str(error)) from error
    if not _DEVICE.fullmatch(device):
        raise ParameterError(f"device: expected auto, cpu, cuda, or cuda:n, got '{device}'")
    return NodeParameters(config, checkpoint or None, device, autostart)


def real_numbers(config: Config, parameters: Iterable[Parameter]) -> list[Parameter]:
    """Read the parameters; a whole number becomes a real one where the setting is real, since ROS
    distinguishes 1 from 1.0 and people do not."""
    types = {name: parameter_type(field.annotation) for name, field in node_settings(config)}
    return [
        Parameter(p.name, types[p.name], _as_floats(p.value))
        if p.type_ in _REAL and types.get(p.name) == _REAL[p.type_]
        else p
        for p in parameters
    ]


def changed_config(config: Config, parameters: Iterable[Parameter]) -> Config:
    """Return the config with changed parameters; those that belong to no setting are ignored.

    Raises ConfigError with the reason why a value is invalid.
    """
    known = dict(node_settings(config))
    return update_config(config, {p.name: p.value for p in parameters if p.name in known})


def check_checkpoint(path: str, folders: Iterable[str]) -> None:
    """Check that a parameter client may name this file: one inside the allowed folders, links
    resolved, or none, for the weights of the preset. Raises ParameterError."""
    allowed = [Path(folder).resolve() for folder in folders]
    file = Path(path).resolve()
    if path and not (file.is_file() and any(file.is_relative_to(folder) for folder in allowed)):
        raise ParameterError(
            f"checkpoint: '{path}' is refused: it must be a file in "
            f"{' or '.join(map(str, allowed))} (node.remote_checkpoints)"
        )


def node_settings(config: Config) -> list[tuple[str, FieldInfo]]:
    """List the settings that are parameters of a node with these settings; ROS has no type for
    mappings."""
    return [
        (name, field)
        for name, field in walk_settings(type(config))
        if name not in ("name", "model")
        and not name.startswith(("training.", "stills."))
        and typing.get_origin(field.annotation) is not dict
    ]


def parameter_type(annotation: Any) -> Parameter.Type:
    """Map a setting's type to a ROS type. Raises TypeError for one that ROS cannot hold."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        return _SCALARS[type(arguments[0])]
    if origin in (Union, types.UnionType):
        (inner,) = (argument for argument in arguments if argument is not type(None))
        return parameter_type(inner)
    if origin is tuple and typing.get_origin(arguments[0]) is Annotated:
        arguments = typing.get_args(arguments[0])
    found = _ARRAYS.get(arguments[0]) if origin is tuple else _SCALARS.get(annotation)
    if found is None:
        raise TypeError(f"a setting of type {annotation} has no ROS parameter type")
    return found


def descriptor(field: FieldInfo) -> ParameterDescriptor:
    """Describe a setting: text, range, choices, read-only flag."""
    extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
    live = extra.get("live", False)
    note = "" if live else f" {AT_START}"
    result = ParameterDescriptor(
        description=" ".join((field.description or "").split()) + note,
        additional_constraints=_constraints(field),
        read_only=not live,
    )
    low, high = _bounds(field)
    if low is None and high is None:
        return result
    if field.annotation is int:
        result.integer_range = [
            IntegerRange(
                from_value=-_INT_LIMIT if low is None else int(low),
                to_value=_INT_LIMIT if high is None else int(high),
            )
        ]
    elif field.annotation is float:
        limit = sys.float_info.max
        result.floating_point_range = [
            FloatingPointRange(
                from_value=-limit if low is None else float(low),
                to_value=limit if high is None else float(high),
            )
        ]
    return result


def _declare(
    node: Node, name: str, default: Any, description: str, *, read_only: bool = True
) -> Any:
    text = f"{description} {AT_START}" if read_only else description
    fixed = ParameterDescriptor(description=text, read_only=read_only)
    return node.declare_parameter(name, default, fixed).value


def _declare_settings(node: Node, base: Config) -> dict[str, Any]:
    """Declare a parameter for each setting; returns those whose value differs from the preset."""
    changed = {}
    # rclpy has no public access to values that were given at start.
    given = node._parameter_overrides
    for former in [name for name in given if name in RENAMED]:
        name = RENAMED[former]
        node.get_logger().warning(
            f"the parameter '{former}' is now '{name}'; the next version will refuse the old name"
        )
        given.setdefault(name, Parameter(name, value=given.pop(former).value))
    given.update({p.name: p for p in real_numbers(base, given.values())})
    for name, field in node_settings(base):
        default = _value(base, name)
        declared = list(default) if isinstance(default, tuple) else default
        shown = descriptor(field)
        unset = declared in (None, [])
        if unset:
            # With a static type, rclpy would refuse to return this and all that is requested with
            # it, so that nothing could be dumped. An empty array has no type in ROS.
            kind = parameter_type(field.annotation).name.lower().replace("_", " ")
            shown.dynamic_typing = True
            shown.additional_constraints = f"{kind}, or not set"
        value = node.declare_parameter(
            name,
            None if unset else declared,
            shown,
            ignore_override=unset and _says_unset(node, name),
        ).value
        value = list(value) if hasattr(value, "typecode") else value
        if value != declared and value is not None:
            changed[name] = value
    return changed


def _as_floats(value: Any) -> Any:
    return [float(item) for item in value] if hasattr(value, "__len__") else float(value)


def _says_unset(node: Node, name: str) -> bool:
    """Whether the value given at start is what a parameter dump writes for an unset one: null,
    which ROS reads as a word."""
    given = node._parameter_overrides.get(name)
    return given is not None and given.value in ("null", "~")


def _reason(error: ParameterException) -> str:
    """Extract the useful part of rclpy's message."""
    message = str(error.args[0])
    return message.partition("Reason: ")[2] or message


def _refuse_unknown(node: Node) -> None:
    given = [name for name in node._parameter_overrides if not name.startswith("qos_overrides.")]
    known = list(node.get_parameters_by_prefix(""))
    for name in given:
        if not node.has_parameter(name):
            close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f"; did you mean '{close[0]}'?" if close else ""
            raise ParameterError(f"unknown parameter '{name}'{hint}")


def _value(config: Config, dotted: str) -> Any:
    value: Any = config
    for part in dotted.split("."):
        value = getattr(value, part)
    return value


def _bounds(field: FieldInfo) -> tuple[float | None, float | None]:
    """Return the lowest and highest value. ROS has no open bounds; pydantic refuses the bound
    itself."""
    low: Any = None
    high: Any = None
    for mark in field.metadata:
        if isinstance(mark, (Ge, Gt)):
            low = mark.ge if isinstance(mark, Ge) else mark.gt
        elif isinstance(mark, (Le, Lt)):
            high = mark.le if isinstance(mark, Le) else mark.lt
    return low, high


def _constraints(field: FieldInfo) -> str:
    if typing.get_origin(field.annotation) is Literal:
        return "one of " + ", ".join(str(choice) for choice in typing.get_args(field.annotation))
    return ""
