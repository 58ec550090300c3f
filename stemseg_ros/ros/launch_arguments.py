"""Arguments that the launch files share, and the checks that refuse a wrong one by its name before
anything starts.

Needs PyYAML alone: ``ros2 launch`` runs in the Python of ROS, which may have nothing of ours.
"""

from __future__ import annotations

import difflib
import math
import os
import re
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path

import yaml

from stemseg_ros.errors import StemsegError
from stemseg_ros.replay.processes import FAST_DDS_PROFILES
from stemseg_ros.resources import resource_path

NODE_ARGUMENTS = {
    "namespace": ("", "namespace of the node"),
    "config": ("", "preset, or path of a YAML file"),
    "checkpoint": ("", "file of the weights"),
    "device": ("", "auto, cpu, cuda, or cuda:1"),
    "autostart": ("", "true: configure and activate at start; false: leave that to a manager"),
    "use_sim_time": ("", "true: use the time of /clock"),
    "params_file": (
        str(resource_path("config/stemseg.param.yaml")),
        "parameters; what is given by the other arguments wins",
    ),
    "log_level": ("info", "debug, info, warn, error"),
    "rviz": ("false", "true: show the overlay in RViz"),
}
"""Name: (default, description) of the arguments that every launch file passes on to the node."""
CAMERA_NAME = re.compile(r"[A-Za-z](_?[A-Za-z0-9])*")
"""As ``node.cameras`` takes it: it becomes part of the names of topics."""
_WORDS = {
    **dict.fromkeys(("true", "yes", "on", "1"), True),
    **dict.fromkeys(("false", "no", "off", "0"), False),
}


class LaunchArgumentError(StemsegError):
    """A launch argument is unknown or its value cannot be; the message names it."""


def transport_profile() -> dict[str, str]:
    """Variables for the environment of a program, so that whole images fit into shared memory;
    nothing where the user has a profile.

    Launch itself, which passes no images, would take up as much memory with them.
    """
    if any(name in os.environ for name in FAST_DDS_PROFILES):
        return {}
    return {FAST_DDS_PROFILES[0]: str(resource_path("config/fastdds_shm.xml"))}


def refuse_unknown(launch_file: Path, declared: Iterable[str], words: Sequence[str]) -> None:
    """Refuse arguments that a launch file does not declare, which launch itself ignores.

    words: the whole command line. It may also name another file, which includes this one: then the
    arguments are those of the other. Raises LaunchArgumentError.
    """
    if not _names(words, launch_file):
        return
    known = sorted(declared)
    for name in (word.partition(":=")[0] for word in words if ":=" in word):
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean '{close[0]}'?" if close else f"there are {', '.join(known)}"
            raise LaunchArgumentError(f"unknown argument '{name}'; {hint}")


def _names(words: Sequence[str], launch_file: Path) -> bool:
    """Whether a command line names a launch file, by package and name or by its path."""
    return ("stemseg", launch_file.name) in pairwise(words) or any(
        word.endswith(launch_file.name) and Path(word).resolve() == launch_file.resolve()
        for word in words
    )


def read_bool(name: str, text: str) -> bool:
    """Parse true or false, in one of the usual words. Raises LaunchArgumentError."""
    if text.lower() not in _WORDS:
        raise LaunchArgumentError(f"{name}: expected true or false, got '{text}'")
    return _WORDS[text.lower()]


def read_number(name: str, text: str) -> float:
    """Parse a finite number of at least 0. Raises LaunchArgumentError."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise LaunchArgumentError(f"{name}: expected a number from 0, got '{text}'")
    return value


def read_positive(name: str, text: str) -> float:
    """Parse a finite number above 0. Raises LaunchArgumentError."""
    value = read_number(name, text)
    if value == 0:
        raise LaunchArgumentError(f"{name}: expected a number above 0, got '{text}'")
    return value


def read_count(name: str, text: str) -> int:
    """Parse a whole number of at least 0. Raises LaunchArgumentError."""
    if not (text.isascii() and text.isdigit()):
        raise LaunchArgumentError(f"{name}: expected a whole number from 0, got '{text}'")
    return int(text)


def read_file(name: str, text: str) -> str:
    """Check that a file exists; returns its path. Raises LaunchArgumentError."""
    if not Path(text).is_file():
        raise LaunchArgumentError(f"{name}: no file '{text}'")
    return text


def read_cameras(name: str, text: str) -> dict[str, str]:
    """Read the image topic of each camera from a YAML file. Raises LaunchArgumentError."""
    file = Path(read_file(name, text))
    try:
        cameras = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise LaunchArgumentError(f"{name}: '{file}' cannot be read: {error}") from error
    if not isinstance(cameras, dict) or not cameras:
        raise LaunchArgumentError(
            f"{name}: '{file}' holds no lines such as 'front: /front/image_raw'"
        )
    for camera, topic in cameras.items():
        if not isinstance(camera, str) or not isinstance(topic, str) or not topic:
            raise LaunchArgumentError(
                f"{name}: '{file}': expected a name and a topic, got {camera}: {topic}"
            )
        if not CAMERA_NAME.fullmatch(camera):
            raise LaunchArgumentError(
                f"{name}: '{file}': '{camera}' cannot stand in the name of a topic: a letter "
                "first, then letters, digits, and single underscores between them"
            )
    return cameras
