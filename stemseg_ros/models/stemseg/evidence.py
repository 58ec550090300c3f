"""Foreground and class evidence of a frame, averaged over the windows that contain it."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from stemseg_ros.models.stemseg.window import real_slots
from stemseg_ros.records import NetworkOutput


class EvidenceAverage:
    """Running means per frame, on the device: semantic logits or, without a semantic head, the
    heat map.

    Online modes read the mean over the windows so far; the offline mode waits until no window is
    to come.
    """

    def __init__(self) -> None:
        self._sums: dict[int, Tensor] = {}
        self._counts: dict[int, int] = {}

    def add(self, indices: tuple[int, ...], output: NetworkOutput) -> None:
        """Take in one window; padding slots do not count."""
        maps = output.heatmap if output.semantic_logits is None else output.semantic_logits
        for slot in real_slots(indices):
            index = indices[slot]
            seen = self._sums.get(index)
            self._sums[index] = maps[:, slot] if seen is None else seen + maps[:, slot]
            self._counts[index] = self._counts.get(index, 0) + 1

    def apply(
        self, indices: tuple[int, ...], output: NetworkOutput
    ) -> tuple[NetworkOutput, Tensor]:
        """The output with averaged semantic logits, and the foreground evidence (T, h, w) of its
        frames."""
        means = torch.stack([self._sums[index] / self._counts[index] for index in indices], dim=1)
        if output.semantic_logits is None:
            return output, means[0]
        return replace(output, semantic_logits=means), means[-1]

    def forget(self, before: int) -> None:
        """Drop frames with smaller indices."""
        for index in [index for index in self._sums if index < before]:
            del self._sums[index], self._counts[index]
