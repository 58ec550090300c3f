"""Training of HODOR: predictions and losses of a batch (Sec. 3.4)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from stemseg_ros.models.hodor.losses import propagation_losses
from stemseg_ros.models.hodor.network import Hodor
from stemseg_ros.models.hodor.patterns import (
    ClipPropagation,
    propagate,
    propagate_forward,
    select_truth,
)
from stemseg_ros.models.hodor.settings import Settings


@dataclass(frozen=True, slots=True, eq=False)
class StillsBatch:
    """Samples of a few frames, all with the same number of objects."""

    frames: Tensor
    """float32 (B, T, 3, H, W), normalised, RGB."""
    labels: Tensor
    """uint8 (B, T, H, W): 0 background, 1..I objects, IGNORED."""
    objects: int


def compute_losses(
    network: Hodor, batch: StillsBatch, config: Settings, iteration: int
) -> dict[str, Tensor]:
    """Compute the losses of all predictions of a batch; ``total`` is minimised.

    iteration: selects the third pattern of the paper, which alternates (``propagate``).
    """
    samples = batch.frames.shape[:2]
    fine, coarse = network.encode(batch.frames.flatten(0, 1))
    maps = (x.unflatten(0, samples).unbind(1) for x in (fine, coarse))
    masks = object_masks(batch.labels, batch.objects)
    clip = ClipPropagation(
        network,
        list(zip(*maps, strict=True)),
        masks.flatten(3).any(-1),
        config.stills.hint_dropout,
    )
    first = masks[:, 0].float()
    if config.stills.patterns == "forward":
        predictions = propagate_forward(clip, first)
    else:
        predictions = propagate(clip, first, iteration)
    logits = torch.stack([prediction.logits.float() for prediction in predictions], 2)
    truth = select_truth(predictions, batch.labels)
    return propagation_losses(logits, truth, by_object=config.stills.dice == "by_object")


def object_masks(labels: Tensor, objects: int) -> Tensor:
    """Split labels (B, T, H, W) into the masks of the objects: bool (B, T, I, H, W)."""
    numbers = torch.arange(1, objects + 1, device=labels.device)
    return labels[:, :, None] == numbers[:, None, None]
