"""Console scripts of the ROS programs, which end without a stack trace where a module is missing
or a signal comes early.

``python -m stemseg_ros.ros NAME`` runs them, too.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys

MODULES = {
    "node": "stemseg_ros.ros.node",
    "player": "stemseg_ros.ros.programs.player",
    "recorder": "stemseg_ros.ros.programs.recorder",
}
STOPPED = 130
"""Exit code of a program that was stopped before its end, as shells have it for SIGINT."""


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
    """Run ``main`` of a module; returns 2 if something that it imports is not installed."""
    # The imports take seconds, and there is nothing to tidy up. Each main has its own handlers.
    code = 0 if name == "node" else STOPPED
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: os._exit(code))
    try:
        if name == "node":
            _log_loading()
        program = importlib.import_module(MODULES[name])
    except ModuleNotFoundError as error:
        print(
            f"stemseg_{name}: {error.name} is not installed for {sys.executable}; source the "
            "virtual environment and the workspace in which stemseg was built",
            file=sys.stderr,
        )
        return 2
    return int(program.main())


def _log_loading() -> None:
    from rclpy.logging import get_logger

    get_logger("stemseg").info("loading …")
