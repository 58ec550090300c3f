"""Foreground and class evidence of a frame, averaged over the windows that contain it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from stemseg_ros.models.stemseg.tensors import NetworkOutput, Window
from stemseg_ros.models.stemseg.window import real_slots


class Evident(NamedTuple):
    """A window that is ready to be clustered."""

    window: Window
    output: NetworkOutput
    """With averaged semantic logits."""
    evidence: Tensor
    """(T, h, w) averaged foreground evidence of its frames."""


class EvidenceAverage:
    """Running means per frame, on the device: semantic logits or, without a semantic head, the
    heat map.

    Copies of a frame that pad a window come out no more: every frame is clustered once, with the
    embeddings of its last slot. Online modes read the mean over the windows so far; the offline
    mode waits until no window is to come.
    """

    def __init__(self) -> None:
        self._sums: dict[int, Tensor] = {}
        self._counts: dict[int, int] = {}
        self._waiting: deque[tuple[Window, NetworkOutput]] = deque()

    @property
    def oldest(self) -> int | None:
        """Index of the oldest frame of the windows that wait; None if none does."""
        return self._waiting[0][0].indices[0] if self._waiting else None

    def add(self, window: Window, output: NetworkOutput, *, copies: bool = False) -> None:
        """Take in one window.

        copies: the semantic logits of copies count as those of the frame itself, as in the
        released code. The heat map of copies never does.
        """
        logits = output.semantic_logits
        maps = output.heatmap if logits is None else logits
        every = copies and logits is not None
        for slot in range(len(window.indices)) if every else real_slots(window.indices):
            index = window.indices[slot]
            seen = self._sums.get(index)
            self._sums[index] = maps[:, slot] if seen is None else seen + maps[:, slot]
            self._counts[index] = self._counts.get(index, 0) + 1
        self._waiting.append((window, output))

    def ready(self, everything: bool) -> Iterator[Evident]:
        """The windows to cluster now, in order.

        everything: all of them; else those that no later window shares a frame with: the next one
        starts after the newest, so frames up to the newest one's start are complete.
        """
        complete = self._waiting[-1][0].indices[0] if self._waiting else -1
        while self._waiting and (everything or self._waiting[0][0].indices[-1] <= complete):
            yield self._averaged(*self._waiting.popleft())

    def forget(self, before: int) -> None:
        """Drop frames with smaller indices."""
        for index in [index for index in self._sums if index < before]:
            del self._sums[index], self._counts[index]

    def _averaged(self, window: Window, output: NetworkOutput) -> Evident:
        window, output = _without_copies(window, output)
        means = torch.stack([self._sums[i] / self._counts[i] for i in window.indices], dim=1)
        if output.semantic_logits is None:
            return Evident(window, output, means[0])
        return Evident(window, replace(output, semantic_logits=means), means[-1])


def _without_copies(window: Window, output: NetworkOutput) -> tuple[Window, NetworkOutput]:
    """The window and the maps of its real slots."""
    slots = real_slots(window.indices)
    if len(slots) == len(window.indices):
        return window, output
    kept = Window(
        tuple(window.indices[slot] for slot in slots),
        tuple(window.features[slot] for slot in slots),
    )
    logits = output.semantic_logits
    return kept, NetworkOutput(
        output.embeddings[:, slots],
        output.bandwidths[:, slots],
        output.heatmap[:, slots],
        None if logits is None else logits[:, slots],
    )
