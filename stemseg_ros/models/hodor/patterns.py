"""Propagation patterns of training (Sec. 3.4): of three frames only the first is described from
its ground truth; masks are propagated forth and back, and every prediction has a loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from stemseg_ros.models.hodor.losses import merge_background
from stemseg_ros.models.hodor.network import Hodor
from stemseg_ros.models.hodor.regions import (
    GRID_STRIDE,
    STRIDE,
    average_by_4,
    regions_from_given,
    regions_from_predicted,
)
from stemseg_ros.models.hodor.settings import BACKGROUNDS

FRAMES = 3
"""Frames of a sample: the reference and two others."""

PatternStep = tuple[tuple[int, ...], int]
"""Source frames and target frame of one prediction."""
SELF: tuple[PatternStep, ...] = (((0,), 0),)
CYCLE: tuple[PatternStep, ...] = (((0,), 1), ((1,), 0))
CHAIN: tuple[PatternStep, ...] = (((0,), 1), ((1,), 2), ((2,), 1), ((1,), 0))
FORK: tuple[PatternStep, ...] = (((0,), 1), ((0, 1), 2), ((2,), 1), ((1, 2), 0))
"""``CHAIN`` and ``FORK`` alternate; they share their first step with ``CYCLE``, and its loss is
counted once."""


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """Prediction for one frame of each sample."""

    target: int
    """Predicted frame."""
    logits: Tensor
    """(B, 1 + I, H, W) at input size, background first."""
    known: Tensor
    """bool (B, I): objects that the source frames contain; the others are removed from the ground
    truth."""


@dataclass(slots=True, eq=False)
class ClipPropagation:
    """State of the frames of a batch during mask propagation."""

    network: Hodor
    features: Sequence[tuple[Tensor, Tensor]]
    """(B, C, h, w) at strides 4 and 8 of each frame."""
    present: Tensor
    """bool (B, frames, I): which objects the ground truth of a frame contains."""
    hint_dropout: float = 0.0
    """Share of the predictions for which ``previous_masks`` is withheld."""
    descriptors: dict[int, Tensor] = field(default_factory=dict)
    """(B, 9 + I, C) by frame."""
    regions: dict[int, Tensor] = field(default_factory=dict)
    """(B, 9 + I, h, w) by frame, from which the descriptors were computed."""
    masks: dict[int, Tensor] = field(default_factory=dict)
    """(B, I, 2h, 2w) by frame, objects at stride 4."""

    def describe(self, frame: int, regions: Tensor, masks: Tensor) -> None:
        """Compute the descriptors of a frame, which makes it a source."""
        self.masks[frame] = masks
        coarse = self.features[frame][1]
        (self.descriptors[frame],) = self.network.describe(coarse, regions, self._content())
        self.regions[frame] = regions

    def decode(self, sources: tuple[int, ...], target: int) -> Tensor:
        """Predict the logits (B, 10 + I, H/4, W/4) of a frame."""
        fine, coarse = self.features[target]
        history = torch.stack([self.descriptors[frame] for frame in sources], 1)
        present = torch.ones(history.shape[:3], dtype=torch.bool, device=history.device)
        hints: tuple[Tensor, ...] = ()
        if self.network.config.network.previous_masks:
            hints = self._hints(sources[-1], target)
        (logits,) = self.network.decode(fine, coarse, history, present, self._content(), *hints)
        return logits

    def _hints(self, source: int, target: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return the regions, masks and stride-4 features of the source, but zero masks, which
        carry no information, where they would reveal the ground truth, and in a share of the
        samples."""
        regions, masks = self.regions[source], self.masks[source]
        kept = regions.new_full((len(regions), 1, 1, 1), source != target)
        if self.hint_dropout:
            kept = kept * (torch.rand_like(kept) >= self.hint_dropout)
        return regions * kept, masks * kept, self.features[source][0]

    def _content(self) -> Tensor:
        coarse = self.features[0][1]
        return torch.tensor([coarse.shape[-2:]] * len(coarse), device=coarse.device)


def propagate(clip: ClipPropagation, masks: Tensor, iteration: int) -> list[Prediction]:
    """Run the patterns; returns their predictions.

    masks: (B, I, H, W) ground truth of frame 0; iteration: even ones run ``CHAIN``, odd ones
    ``FORK``. Returns six predictions: three of frame 0, two of frame 1, one of frame 2.
    """
    size = (masks.shape[-2], masks.shape[-1])
    clip.describe(0, regions_from_given(masks, size), average_by_4(masks))
    all_objects = clip.present.new_ones(clip.present[:, 0].shape)
    logits = clip.decode(*SELF[0])
    predictions = [_prediction(0, logits, all_objects)]
    first = clip.decode(*CYCLE[0])
    describe_predicted(clip, 1, first)
    start = clip.descriptors[1], clip.regions[1], clip.masks[1]
    for pattern in (CYCLE, CHAIN if iteration % 2 == 0 else FORK):
        clip.descriptors[1], clip.regions[1], clip.masks[1] = start
        known = clip.present[:, 0]
        if pattern is CYCLE:
            predictions.append(_prediction(1, first, known))
        for sources, target in pattern[1:]:
            known = known & clip.present[:, list(sources)].any(1)
            logits = clip.decode(sources, target)
            predictions.append(_prediction(target, logits, known))
            if target != 0:
                describe_predicted(clip, target, logits)
    return predictions


def propagate_forward(clip: ClipPropagation, masks: Tensor) -> list[Prediction]:
    """Predict each frame once, from all earlier ones, as in inference; not in the paper.

    masks: (B, I, H, W) ground truth of frame 0, in which every object is visible.
    """
    size = (masks.shape[-2], masks.shape[-1])
    clip.describe(0, regions_from_given(masks, size), average_by_4(masks))
    known = clip.present.new_ones(clip.present[:, 0].shape)
    predictions = []
    for target in range(1, len(clip.features)):
        logits = clip.decode(tuple(range(target)), target)
        predictions.append(_prediction(target, logits, known))
        if target + 1 < len(clip.features):
            describe_predicted(clip, target, logits)
    return predictions


def describe_predicted(clip: ClipPropagation, frame: int, logits: Tensor) -> None:
    """Make a frame a source by its predicted masks, through which no gradient flows."""
    soft = logits.detach().float().softmax(1)[:, BACKGROUNDS + 1 :]
    masks = F.avg_pool2d(soft, STRIDE // GRID_STRIDE)
    size = (masks.shape[-2], masks.shape[-1])
    clip.describe(frame, regions_from_predicted(masks, size), soft)


def select_truth(predictions: Sequence[Prediction], labels: Tensor) -> Tensor:
    """Select the ground truth of each prediction from labels (B, frames, H, W), without objects
    that the sources do not contain; returns (B, P, H, W)."""
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
