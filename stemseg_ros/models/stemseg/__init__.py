"""STEm-Seg (Athar, Mahadevan et al., ECCV 2020).

Read ``tracker.py`` first. Names are imported lazily, so that the settings can be loaded without
importing PyTorch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stemseg_ros.models.layers.weight_files import CheckpointError
    from stemseg_ros.models.layers.weights import save_weights
    from stemseg_ros.models.stemseg.load import load_network
    from stemseg_ros.models.stemseg.network import Maps, StemSeg
    from stemseg_ros.models.stemseg.settings import Settings
    from stemseg_ros.models.stemseg.tensors import NetworkOutput
    from stemseg_ros.models.stemseg.tracker import StemSegTracker as Tracker

__all__ = [
    "CheckpointError",
    "Maps",
    "NetworkOutput",
    "Settings",
    "StemSeg",
    "Tracker",
    "load_network",
    "save_weights",
]

_LAZY = {
    "CheckpointError": ("stemseg_ros.models.layers.weight_files", "CheckpointError"),
    "Maps": ("stemseg_ros.models.stemseg.network", "Maps"),
    "NetworkOutput": ("stemseg_ros.models.stemseg.tensors", "NetworkOutput"),
    "Settings": ("stemseg_ros.models.stemseg.settings", "Settings"),
    "StemSeg": ("stemseg_ros.models.stemseg.network", "StemSeg"),
    "Tracker": ("stemseg_ros.models.stemseg.tracker", "StemSegTracker"),
    "load_network": ("stemseg_ros.models.stemseg.load", "load_network"),
    "save_weights": ("stemseg_ros.models.layers.weights", "save_weights"),
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    module, attribute = _LAZY[name]
    return getattr(import_module(module), attribute)
