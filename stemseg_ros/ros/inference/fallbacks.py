"""Lower-memory configurations for a device that runs out of memory."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from stemseg_ros.config import Config, update_config

MEMORY_TEXTS = ("out of memory", "can't allocate memory", "not enough memory", "ALLOC_FAILED")
"""Texts of the RuntimeErrors that PyTorch raises on out-of-memory outside its GPU allocator: on
the CPU, in CUDA itself when the GPU is already full, in cuBLAS and cuDNN."""
SCALES = (0.7, 0.5)
"""Factors of the input's sides that are tried in turn: a half and a quarter of the pixels."""


def is_memory_error(error: Exception) -> bool:
    """Whether an exception means that the device ran out of memory."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in MEMORY_TEXTS)


class Fallbacks:
    """Lower-memory configurations, in the order in which they are tried.

    ``config`` and ``device`` map the requested ones to those in use.
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
        """Advance to the next step; False if none helps on this device."""
        for scale, change in self._steps:
            if change != device:
                self._scale, self._device = scale, change
                return True
        return False

    def config(self, config: Config) -> Config:
        """Return the config with the input size in use."""
        if self._scale is None:
            return config
        low, high = config.input.min_dim, config.input.max_dim
        sizes = {
            "input.min_dim": _scaled(low, self._scale),
            "input.max_dim": _scaled(high, self._scale),
        }
        return update_config(config, sizes)

    def device(self, device: str) -> str:
        """Return the device in use."""
        return self._device or device


def _scaled(side: int, scale: float) -> int:
    return max(32, round(scale * side))
