"""An engine for two networks."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from stemseg_ros.execution.engine import Engine, Tensors


class EnginePair:
    """Two engines as one: functions of the first under their names, those of the second with a
    prefix."""

    def __init__(self, first: Engine, second: Engine, prefix: str) -> None:
        """prefix: of the second engine's functions. Both engines must be on one device."""
        self.first, self.second = first, second
        self._prefix = prefix

    @property
    def device(self) -> torch.device:
        """See ``Engine``."""
        return self.first.device

    @property
    def description(self) -> str:
        """See ``Engine``."""
        return _join(self.first.description, self.second.description)

    @property
    def precision(self) -> str:
        """See ``Engine``."""
        return _join(self.first.precision, self.second.precision)

    def run(self, function: str, batch: Sequence[Tensors]) -> list[Tensors]:
        """See ``Engine``."""
        if function.startswith(self._prefix):
            return self.second.run(function.removeprefix(self._prefix), batch)
        return self.first.run(function, batch)


def _join(first: str, second: str) -> str:
    return first if first == second else f"{first} and {second}"
