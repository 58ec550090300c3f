"""Comparing what engines compute: the inputs that a stream gives a network, and differences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:  # engines themselves need the files that are compared here
    from stemseg_ros.execution.engine import Engine

Tensors = tuple[Tensor, ...]


class RecordingEngine:
    """Engine that keeps the first inputs of every function."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.device, self.precision = engine.device, engine.precision
        self.description = engine.description
        self.inputs: dict[str, Tensors] = {}
        """Of one item, without the batch dimension, by function."""

    def run(self, function: str, batch: Sequence[Tensors]) -> list[Tensors]:
        """See ``Engine``."""
        self.inputs.setdefault(function, batch[0])
        return self._engine.run(function, batch)


def relative_difference(found: Tensor, expected: Tensor) -> float:
    """Compute the largest difference of two tensors of equal shape, not empty and on any devices,
    relative to the largest value of ``expected``."""
    difference = (found.cpu() - expected.cpu()).abs().max()
    return float(difference / expected.cpu().abs().max().clamp(min=1e-6))
