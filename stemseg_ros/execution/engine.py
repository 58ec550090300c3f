"""What computes a network's functions: one engine per runtime, behind one method."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from stemseg_ros.execution.settings import RuntimeConfig
from stemseg_ros.execution.torch_engine import TorchEngine

Tensors = tuple[Tensor, ...]


class Engine(Protocol):
    """Computes the functions of one network on one device. Not thread-safe."""

    @property
    def device(self) -> torch.device:
        """Where inputs are expected and outputs lie."""
        ...

    def run(self, function: str, batch: Sequence[Tensors]) -> list[Tensors]:
        """Compute a function for several items of equal shapes in one pass.

        batch: the inputs of each item, without the batch dimension. Returns the outputs of each.
        """
        ...


def open_engine(
    network: nn.Module, config: RuntimeConfig, device: str | torch.device, *, timed: bool = False
) -> Engine:
    """The engine that the settings ask for, with the network's weights on ``device``.

    network: has an attribute ``functions``, the names of those of its methods that take and return
    tensors, batch first; it belongs to the engine from now on. timed: every call waits for the
    device, so that its time is exact (benchmarks and evaluation only).
    """
    return TorchEngine(network, config, device, timed=timed)
