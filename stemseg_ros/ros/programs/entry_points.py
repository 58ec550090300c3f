"""Console scripts of the ROS programs: a module that is missing is one line, not a stack trace."""

from __future__ import annotations

import importlib
import sys

from stemseg_ros.replay.session import MODULES


def node() -> int:
    """stemseg_node."""
    return run("node")


def player() -> int:
    """stemseg_player."""
    return run("player")


def recorder() -> int:
    """stemseg_recorder."""
    return run("recorder")


def run(name: str) -> int:
    """``main`` of the module; 2 where something that it imports is not installed."""
    try:
        program = importlib.import_module(MODULES[name])
    except ModuleNotFoundError as error:
        print(
            f"stemseg_{name}: {error.name} is not installed for {sys.executable}; source the "
            "virtual environment and the workspace in which stemseg was built",
            file=sys.stderr,
        )
        return 2
    return int(program.main())
