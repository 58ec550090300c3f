"""When a state is worth a warning or an error, and what to try when memory does not suffice."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from diagnostic_msgs.msg import DiagnosticStatus

from stemseg_ros.config import Config, update_config
from stemseg_ros.ros.health.statistics import Period
from stemseg_ros.ros.settings import HealthConfig

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR
MEMORY_TEXTS = ("out of memory", "can't allocate memory", "not enough memory", "ALLOC_FAILED")
"""What a RuntimeError says that PyTorch raises for want of memory elsewhere than in its allocator
of the GPU: on the CPU, in CUDA itself where the GPU is full already, in cuBLAS and cuDNN."""
SCALES = (0.7, 0.5)
"""Sides of the input, relative to the config, that are tried when the memory does not suffice: a
half and a quarter of the pixels."""
Level = tuple[bytes, str]
"""Level of a DiagnosticStatus, and its message."""


def is_memory_error(error: Exception) -> bool:
    """Whether the memory of the device did not suffice."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in MEMORY_TEXTS)


def judge_stream(period: Period, silent_s: float | None, limits: HealthConfig) -> Level:
    """The worst of what the thresholds say about a camera.

    silent_s: since its last image; none while it is not active.
    """
    if silent_s is None:
        return OK, "not active"
    findings = [
        _judge(
            period.lost_share,
            limits.warn_lost,
            limits.error_lost,
            f"frames are lost: {period.lost_share:.0%} in the last second",
        ),
        _judge(
            silent_s,
            limits.warn_silence or float("inf"),
            limits.error_silence or float("inf"),
            f"no images for {silent_s:.0f} s",
        ),
        _judge(
            period.delay_ms or 0.0,
            limits.warn_delay_ms or float("inf"),
            limits.error_delay_ms or float("inf"),
            f"answers come {period.delay_ms or 0:.0f} ms after the image they waited for",
        ),
    ]
    worst = max(findings, key=lambda finding: finding[0])
    return worst if worst[0] != OK else (OK, "no frames are lost")


def _judge(value: float, warn: float, error: float, text: str) -> Level:
    return (ERROR if value > error else WARN if value > warn else OK), text


class Fallbacks:
    """What gets along with less memory, in the order in which it is tried.

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
