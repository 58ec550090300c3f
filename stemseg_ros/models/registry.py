"""What the package of a model offers, found by the name of the model."""

from __future__ import annotations

from importlib import import_module
from typing import Any, Protocol, cast

from torch import nn

from stemseg_ros.models.names import MODELS
from stemseg_ros.tracker import Tracker as TrackerType


class ModelPackage(Protocol):
    """What the package of a model offers."""

    def load_network(self, config: Any, checkpoint: Any = None, device: Any = "cpu") -> nn.Module:
        """The network with its weights, in eval mode; see ``open_engine`` for what it must have.

        Raises CheckpointError.
        """
        ...

    def Tracker(self, config: Any, device: Any) -> TrackerType:
        """A new tracker; takes the model's own settings."""
        ...


def model_package(name: str) -> ModelPackage:
    """The package of a model, imported when it is asked for."""
    return cast(ModelPackage, import_module(MODELS[name]))
