"""Losses of predictions at input size: cross-entropy and Dice (supplement of the paper)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from stemseg_ros.models.hodor.settings import BACKGROUNDS

IGNORED = 255
"""Label of pixels that count neither as background nor as an object."""
SMOOTHING = 1e-6


def merge_background(logits: Tensor) -> Tensor:
    """Reduce the 10 background channels of logits (B, 10 + I, h, w) to their maximum; returns
    (B, 1 + I, h, w)."""
    split = BACKGROUNDS + 1
    return torch.cat((logits[:, :split].amax(1, keepdim=True), logits[:, split:]), 1)


def propagation_losses(
    logits: Tensor, truth: Tensor, *, by_object: bool = False
) -> dict[str, Tensor]:
    """Compute the losses of P predictions.

    logits: (B, 1 + I, P, H, W), background first; truth: integers (B, P, H, W), 0 background, 1..I
    objects, IGNORED; by_object: see ``stills.dice``. Returns "total", "cross_entropy" and "dice".
    """
    cross_entropy = F.cross_entropy(logits, truth.long(), ignore_index=IGNORED)
    dice = dice_loss(logits, truth, by_object=by_object)
    return {"total": cross_entropy + dice, "cross_entropy": cross_entropy, "dice": dice}


def dice_loss(logits: Tensor, truth: Tensor, *, by_object: bool = False) -> Tensor:
    """Compute 1 - Dice over all objects, predictions and pixels of each sample, or of each object
    of each sample; returns the mean over these. One without objects, or without any overlap,
    counts as 0, as in the released code."""
    counted = (truth != IGNORED)[:, None]
    probability = logits.softmax(1)[:, 1:] * counted
    objects = torch.arange(1, logits.shape[1], device=truth.device).view(1, -1, 1, 1, 1)
    target = (truth[:, None] == objects).to(probability.dtype)
    start = 2 if by_object else 1
    overlap = 2 * (probability * target).flatten(start).mean(-1)
    sizes = (probability + target).flatten(start).mean(-1)
    loss = 1 - (overlap + SMOOTHING) / (sizes + SMOOTHING)
    return torch.where(overlap > SMOOTHING, loss, torch.zeros_like(loss)).mean()
