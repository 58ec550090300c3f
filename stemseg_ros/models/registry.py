"""Finds the package of a model by its name."""

from __future__ import annotations

from importlib import import_module
from typing import Any, Protocol, cast

from torch import nn

from stemseg_ros.models.names import MODELS
from stemseg_ros.tracker import Tracker as TrackerType


class ModelPackage(Protocol):
    """Contents of the package of a model."""

    def load_network(self, config: Any, checkpoint: Any = None, device: Any = "cpu") -> nn.Module:
        """Load the network with its weights, in eval mode; ``open_engine`` lists its requirements.

        Raises CheckpointError.
        """
        ...

    def Tracker(self, config: Any, device: Any) -> TrackerType:
        """Create a tracker; takes the model's own settings."""
        ...


def model_package(name: str) -> ModelPackage:
    """Import the package of a model."""
    return cast(ModelPackage, import_module(MODELS[name]))
