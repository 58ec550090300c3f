"""What the training loop needs to know of a model."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

import torch
from torch import Tensor, nn

from stemseg_ros.config import Config, ConfigError
from stemseg_ros.models.stemseg.settings import own_settings
from stemseg_ros.records import Image

if TYPE_CHECKING:
    from stemseg_ros.training.clips import Clip

TRAINABLES = {
    "stemseg": "stemseg_ros.training.stemseg_task",
    "saliency": "stemseg_ros.training.saliency_task",
    "stc": "stemseg_ros.training.stc_task",
}
"""Module of each model, or task of a model, that the loop trains; it offers what ``Trainable``
lists."""


Same = TypeVar("Same", bound="AnyBatch")  # typing.Self needs Python 3.11


class AnyBatch(Protocol):
    """Training clips of any model."""

    @property
    def names(self) -> tuple[str, ...]:
        """Sequence of each clip."""
        ...

    def split(self: Same, size: int) -> list[Same]:
        """Batches of ``size`` clips each; the last may have fewer."""
        ...

    def to(self: Same, device: torch.device) -> Same:
        """The batch with its tensors on a device."""
        ...


class Trainable(Protocol):
    """How a model is trained."""

    COMPILED: tuple[str, ...]
    """Methods of the network that ``training.compile`` compiles."""

    def build(self, config: Any) -> nn.Module:
        """A network with the weights that training starts from. Raises CheckpointError,
        MissingExtraError."""
        ...

    def plain_network(self, config: Any) -> nn.Module:
        """A network in the layout of checkpoints, its weights yet to come."""
        ...

    def batch(self, clips: list[Clip], config: Any) -> AnyBatch:
        """Clips of one size with their targets."""
        ...

    def compute_losses(self, model: nn.Module, batch: Any, config: Any) -> dict[str, Tensor]:
        """Forward pass and losses; ``total`` is what is minimised."""
        ...

    def own_rates(self, network: nn.Module, config: Any) -> list[tuple[set[nn.Parameter], float]]:
        """Groups of weights with a learning rate of their own, relative to that of the rest."""
        ...

    def prediction_sheet(self, network: nn.Module, batch: Any, config: Any) -> Image:
        """What the network finds in the first clip of a batch, BGR."""
        ...


def trainable(config: Config) -> Trainable:
    """The module for a preset, imported when it is asked for. Raises ConfigError where the loop
    does not train its model."""
    name = config.model
    if name == "stemseg" and own_settings(config).network.task == "saliency":
        name = "saliency"
    if name not in TRAINABLES:
        raise ConfigError(
            f"the model {name} is not trained by this loop; it trains {', '.join(TRAINABLES)}"
        )
    return cast(Trainable, import_module(TRAINABLES[name]))
