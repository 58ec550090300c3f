"""Video instance segmentation, as a library and a ROS 2 node."""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """``open_model`` (see ``stream.py``), imported when it is asked for: it brings PyTorch."""
    if name == "open_model":
        from stemseg_ros.stream import open_model

        return open_model
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
