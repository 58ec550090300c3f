"""What is tried when the memory of the device does not suffice."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from stemseg_ros.config import Config, update_config

MEMORY_TEXTS = ("out of memory", "can't allocate memory", "not enough memory", "ALLOC_FAILED")
"""What a RuntimeError says that PyTorch raises for want of memory elsewhere than in its allocator
of the GPU: on the CPU, in CUDA itself where the GPU is full already, in cuBLAS and cuDNN."""
SCALES = (0.7, 0.5)
"""Sides of the input, relative to the config, that are tried when the memory does not suffice: a
half and a quarter of the pixels."""


def is_memory_error(error: Exception) -> bool:
    """Whether the memory of the device did not suffice."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in MEMORY_TEXTS)


class Fallbacks:
    """Lower-memory configurations, in the order in which they are tried.

    ``config`` and ``device`` turn those that were asked for into those in use.
    """

    def __init__(self, policy: str) -> None:
        """policy: see the setting health.out_of_memory."""
        self._steps: Iterator[tuple[float | None, str | None]] = iter(
            [
                *((scale, None) for scale in SCALES if policy.startswith("smaller")),
                *((None, "cpu") for _ in range(policy.endswith("cpu"))),
            ]
        )
        self._scale: float | None = None
        self._device: str | None = None

    @property
    def active(self) -> bool:
        """Whether a fallback is in use."""
        return self._scale is not None or self._device is not None

    def lower(self, device: str) -> bool:
        """Go on to the next step, if there is one that helps on this device."""
        for scale, change in self._steps:
            if change != device:
                self._scale, self._device = scale, change
                return True
        return False

    def config(self, config: Config) -> Config:
        """With the input that is in use."""
        if self._scale is None:
            return config
        low, high = config.input.min_dim, config.input.max_dim
        sizes = {
            "input.min_dim": _scaled(low, self._scale),
            "input.max_dim": _scaled(high, self._scale),
        }
        return update_config(config, sizes)

    def device(self, device: str) -> str:
        """The one that is in use."""
        return self._device or device


def _scaled(side: int, scale: float) -> int:
    return max(32, round(scale * side))
