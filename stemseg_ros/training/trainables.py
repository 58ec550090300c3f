"""Interface between the training loop and the models."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

import numpy as np
import torch
from torch import Tensor, nn

from stemseg_ros.config import Config
from stemseg_ros.datasets.sequence import Sources
from stemseg_ros.models.stemseg.settings import own_settings
from stemseg_ros.records import Image

if TYPE_CHECKING:
    from stemseg_ros.training.clips import Clip

TRAINABLES = {
    "stemseg": "stemseg_ros.training.stemseg_task",
    "saliency": "stemseg_ros.training.saliency_task",
    "stc": "stemseg_ros.training.stc_task",
    "hodor": "stemseg_ros.training.hodor_task",
}
"""Module of each model or task; it implements ``Trainable``."""


Same = TypeVar("Same", bound="AnyBatch")  # typing.Self needs Python 3.11


class AnyBatch(Protocol):
    """Training clips of any model."""

    @property
    def names(self) -> tuple[str, ...]:
        """Name of the sequence of each clip."""
        ...

    def split(self: Same, size: int) -> list[Same]:
        """Split into batches of ``size`` clips; the last may have fewer."""
        ...

    def to(self: Same, device: torch.device) -> Same:
        """Move the tensors to a device."""
        ...


class Trainable(Protocol):
    """Training of a model."""

    COMPILED: tuple[str, ...]
    """Methods of the network that ``training.compile`` compiles."""

    def build(self, config: Any) -> nn.Module:
        """Build a network with its initial weights. Raises CheckpointError, MissingExtraError."""
        ...

    def build_plain(self, config: Any) -> nn.Module:
        """Build a network with the parameter names of checkpoints, without loading weights."""
        ...

    def draw_shape(self, sources: Sources, config: Any, rng: np.random.Generator) -> Any:
        """Draw what all clips of a step have in common, such as their size."""
        ...

    def draw_clip(
        self, sources: Sources, config: Any, rng: np.random.Generator, shape: Any
    ) -> Clip:
        """Draw a clip of a shape drawn before, a function of the arguments alone. Raises
        DataError."""
        ...

    def batch(self, clips: list[Clip], config: Any) -> AnyBatch:
        """Make a batch of clips of one size with their targets."""
        ...

    def compute_losses(self, model: nn.Module, batch: Any, config: Any) -> dict[str, Tensor]:
        """Run the forward pass and compute the losses; ``total`` is minimised."""
        ...

    def parameter_groups(
        self, network: nn.Module, config: Any
    ) -> list[tuple[set[nn.Parameter], float]]:
        """List parameter groups with their learning rates, relative to that of all other
        parameters."""
        ...

    def draw_predictions(self, network: nn.Module, batch: Any, config: Any) -> Image:
        """Draw the predictions for the first clip of a batch, BGR."""
        ...


def trainable(config: Config) -> Trainable:
    """Import the module that trains a preset."""
    name = config.model
    if name == "stemseg" and own_settings(config).network.task == "saliency":
        name = "saliency"
    return cast(Trainable, import_module(TRAINABLES[name]))
