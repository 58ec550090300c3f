"""HODOR (Athar et al., CVPR 2022): tracks objects that are given by their masks in one frame.

Read ``tracker.py`` first. Names are imported lazily, so that the settings can be loaded without
importing PyTorch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stemseg_ros.models.hodor.load import load_network
    from stemseg_ros.models.hodor.settings import Settings
    from stemseg_ros.models.hodor.tracker import HodorTracker as Tracker

__all__ = ["Settings", "Tracker", "load_network"]

_LAZY = {
    "Settings": ("stemseg_ros.models.hodor.settings", "Settings"),
    "Tracker": ("stemseg_ros.models.hodor.tracker", "HodorTracker"),
    "load_network": ("stemseg_ros.models.hodor.load", "load_network"),
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    module, attribute = _LAZY[name]
    return getattr(import_module(module), attribute)
