"""STC (Jiang et al., ECCV 2022 workshops): CondInst with an embedding head; tracks frame by frame.

Read ``tracker.py`` first. Names are imported lazily, so that the settings can be loaded without
importing PyTorch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stemseg_ros.models.stc.load import load_network
    from stemseg_ros.models.stc.settings import Settings
    from stemseg_ros.models.stc.tracker import StcTracker as Tracker

__all__ = ["Settings", "Tracker", "load_network"]

_HOMES = {
    "Settings": ("stemseg_ros.models.stc.settings", "Settings"),
    "Tracker": ("stemseg_ros.models.stc.tracker", "StcTracker"),
    "load_network": ("stemseg_ros.models.stc.load", "load_network"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    module, attribute = _HOMES[name]
    return getattr(import_module(module), attribute)
