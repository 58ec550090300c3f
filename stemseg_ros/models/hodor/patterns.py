"""Propagation patterns of training: three frames of which only the first is described from true
masks; masks travel forth and back, and every prediction is compared with the truth (Sec. 3.4).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from stemseg_ros.models.hodor.losses import merge_background
from stemseg_ros.models.hodor.network import Hodor
from stemseg_ros.models.hodor.regions import STRIDE, regions_from_given, regions_from_predicted
from stemseg_ros.models.hodor.settings import BACKGROUNDS

FRAMES = 3
"""Frames of a sample: the reference and two others."""
GRID_STRIDE = 4
"""Pixels of the input per cell of the logits."""

PatternStep = tuple[tuple[int, ...], int]
"""Source frames and target frame of one prediction."""
SELF: tuple[PatternStep, ...] = (((0,), 0),)
CYCLE: tuple[PatternStep, ...] = (((0,), 1), ((1,), 0))
CHAIN: tuple[PatternStep, ...] = (((0,), 1), ((1,), 2), ((2,), 1), ((1,), 0))
FORK: tuple[PatternStep, ...] = (((0,), 1), ((0, 1), 2), ((2,), 1), ((1, 2), 0))
"""``CHAIN`` and ``FORK`` alternate; their first step is that of ``CYCLE`` and not counted
twice."""


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """What the network finds in one frame of each sample."""

    target: int
    """Frame."""
    logits: Tensor
    """(B, 1 + I, H, W) at input size, background first."""
    known: Tensor
    """bool (B, I): objects that the sources still held; others are no part of the truth."""


@dataclass(slots=True, eq=False)
class Walk:
    """The frames of a batch while masks travel over them."""

    network: Hodor
    features: Sequence[tuple[Tensor, Tensor]]
    """(B, C, ...) at strides 4 and 8 of each frame."""
    present: Tensor
    """bool (B, frames, I): which objects the truth of a frame holds."""
    hint_dropout: float = 0.0
    """Share of the predictions that are made without ``previous_masks``."""
    descriptors: dict[int, Tensor] = field(default_factory=dict)
    """(B, 9 + I, C) by frame."""
    regions: dict[int, Tensor] = field(default_factory=dict)
    """(B, 9 + I, h, w) by frame, what the descriptors were made from."""

    def describe(self, frame: int, regions: Tensor) -> None:
        """Make a frame a source."""
        coarse = self.features[frame][1]
        (self.descriptors[frame],) = self.network.describe(coarse, regions, self._content())
        self.regions[frame] = regions

    def decode(self, sources: tuple[int, ...], target: int) -> Tensor:
        """(B, 10 + I, H/4, W/4) logits of a frame."""
        fine, coarse = self.features[target]
        history = torch.stack([self.descriptors[frame] for frame in sources], 1)
        present = torch.ones(history.shape[:3], dtype=torch.bool, device=history.device)
        previous = None
        if self.network.config.network.previous_masks:
            previous = self._hint(sources[-1], target)
        (logits,) = self.network.decode(fine, coarse, history, present, self._content(), previous)
        return logits

    def _hint(self, source: int, target: int) -> Tensor:
        """Regions of the source; zeros, which say nothing, where they would give the truth away
        and in some samples."""
        regions = self.regions[source]
        if source == target:
            return torch.zeros_like(regions)
        kept = torch.rand(len(regions), 1, 1, 1, device=regions.device) >= self.hint_dropout
        return regions * kept

    def _content(self) -> Tensor:
        coarse = self.features[0][1]
        return torch.tensor([coarse.shape[-2:]] * len(coarse), device=coarse.device)


def propagate(walk: Walk, masks: Tensor, iteration: int) -> list[Prediction]:
    """Walk the three patterns.

    masks: (B, I, H, W) true masks of frame 0; iteration: even ones take ``CHAIN``, odd ones
    ``FORK``. Six predictions, two of frame 1, one of frame 2, three of frame 0.
    """
    size = (masks.shape[-2], masks.shape[-1])
    walk.describe(0, regions_from_given(masks, size))
    everything = walk.present.new_ones(walk.present[:, 0].shape)
    logits = walk.decode(*SELF[0])
    predictions = [_prediction(0, logits, everything)]
    first = walk.decode(*CYCLE[0])
    describe_predicted(walk, 1, first)
    start = walk.descriptors[1], walk.regions[1]
    for pattern in (CYCLE, CHAIN if iteration % 2 == 0 else FORK):
        walk.descriptors[1], walk.regions[1] = start
        known = walk.present[:, 0]
        if pattern is CYCLE:
            predictions.append(_prediction(1, first, known))
        for sources, target in pattern[1:]:
            known = known & walk.present[:, list(sources)].any(1)
            logits = walk.decode(sources, target)
            predictions.append(_prediction(target, logits, known))
            if target != 0:
                describe_predicted(walk, target, logits)
    return predictions


def propagate_forward(walk: Walk, masks: Tensor) -> list[Prediction]:
    """Predict each frame once, from all before it, as in a video; not in the paper.

    masks: (B, I, H, W) true masks of frame 0, in which every object is seen.
    """
    size = (masks.shape[-2], masks.shape[-1])
    walk.describe(0, regions_from_given(masks, size))
    known = walk.present.new_ones(walk.present[:, 0].shape)
    predictions = []
    for target in range(1, len(walk.features)):
        logits = walk.decode(tuple(range(target)), target)
        predictions.append(_prediction(target, logits, known))
        if target + 1 < len(walk.features):
            describe_predicted(walk, target, logits)
    return predictions


def describe_predicted(walk: Walk, frame: int, logits: Tensor) -> None:
    """Make a frame a source by what was found in it; no gradient flows through the masks."""
    soft = logits.detach().float().softmax(1)[:, BACKGROUNDS + 1 :]
    masks = F.avg_pool2d(soft, STRIDE // GRID_STRIDE)
    size = (masks.shape[-2], masks.shape[-1])
    walk.describe(frame, regions_from_predicted(masks, size))


def truth_of(predictions: Sequence[Prediction], labels: Tensor) -> Tensor:
    """(B, P, H, W): the labels (B, frames, H, W) of each prediction's frame, without objects that
    the sources had lost."""
    truths = []
    for prediction in predictions:
        truth = labels[:, prediction.target].clone()
        for number in range(prediction.known.shape[1]):
            lost = ~prediction.known[:, number]
            truth[lost] = truth[lost].masked_fill(truth[lost] == number + 1, 0)
        truths.append(truth)
    return torch.stack(truths, 1)


def _prediction(target: int, logits: Tensor, known: Tensor) -> Prediction:
    merged = merge_background(logits)
    full = F.interpolate(merged, scale_factor=GRID_STRIDE, mode="bilinear", align_corners=False)
    return Prediction(target, full, known)
