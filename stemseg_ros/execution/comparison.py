"""Comparing what engines compute: the inputs that a stream gives a network, and differences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:  # engines themselves need the files that are compared here
    from stemseg_ros.execution.engine import Engine

Tensors = tuple[Tensor, ...]


class RecordingEngine:
    """Engine that keeps the inputs of every function."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.device, self.precision = engine.device, engine.precision
        self.description = engine.description
        self.recorded: dict[str, list[Tensors]] = {}
        """Of all items, without the batch dimension, by function."""

    @property
    def inputs(self) -> dict[str, Tensors]:
        """The first inputs of every function, of one item."""
        return {function: items[0] for function, items in self.recorded.items()}

    def run(self, function: str, batch: Sequence[Tensors]) -> list[Tensors]:
        """See ``Engine``."""
        self.recorded.setdefault(function, []).extend(batch)
        return self._engine.run(function, batch)


def relative_difference(found: Tensor, expected: Tensor) -> float:
    """Compute the largest difference of two tensors of equal shape, not empty and on any devices,
    relative to the largest finite value of ``expected``; infinite where one is NaN, or infinite
    and the other is not."""
    one, other = found.cpu().double(), expected.cpu().double()
    difference = (one - other).abs().masked_fill(one == other, 0.0)  # not NaN for equal infinities
    scale = other.masked_fill(~other.isfinite(), 0.0).abs().max().clamp(min=1e-6)
    return float((difference / scale).nan_to_num(nan=math.inf, posinf=math.inf).max())
