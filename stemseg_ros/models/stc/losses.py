"""Losses of CondInst: classes, boxes, centerness, masks (Tian et al., ICCV 2019 and ECCV 2020)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss

from stemseg_ros.models.stc.condinst import ImageOutput
from stemseg_ros.models.stc.heads import Grid
from stemseg_ros.models.stc.mask_head import mask_logits
from stemseg_ros.models.stc.settings import CondInstVariant
from stemseg_ros.models.stc.targets import LocationTargets, Truth, centerness_targets

FOCAL_ALPHA, FOCAL_GAMMA = 0.25, 2.0
DICE_EPS = 1e-5
TINY = 1e-7
"""Smallest area that divides in GIoU."""
MASKS_OF_IMAGE = 300
"""Most locations of an image whose masks are trained (mmdet)."""
MASKS_OF_BATCH = 500
"""The same of a batch (adelaidet)."""


@dataclass(frozen=True, slots=True, eq=False)
class MaskSample:
    """The P locations of an image whose masks are trained."""

    locations: Tensor
    """(P,) int64, index on the grid."""
    truth: Tensor
    """(P,) int64, index of the truth of each."""


def detection_losses(
    output: ImageOutput,
    targets: Sequence[LocationTargets],
    variant: CondInstVariant,
    ignored: Tensor | None = None,
) -> dict[str, Tensor]:
    """Losses ``class``, ``box``, ``centerness`` of N images; 0 with a graph where nothing is
    positive.

    ignored: bool (N, L), background locations about which nothing is known; they have no part in
    the loss of the classes.
    """
    head = output.head
    labels = torch.stack([target.labels for target in targets])  # (N, L)
    wanted = torch.stack([target.distances for target in targets])
    positive = labels < head.class_logits.shape[-1]
    count = mean_over_processes(positive.sum().to(head.distances.dtype)).clamp(min=1.0)
    truth = F.one_hot(labels, head.class_logits.shape[-1] + 1)[..., :-1].to(head.class_logits)
    counted = slice(None) if ignored is None else positive | ~ignored
    focal = sigmoid_focal_loss(
        head.class_logits[counted], truth[counted], FOCAL_ALPHA, FOCAL_GAMMA, reduction="sum"
    )
    predicted, wanted = head.distances[positive], wanted[positive].to(head.distances.dtype)
    centers = centerness_targets(wanted)
    weight = mean_over_processes(centers.sum()).clamp(min=1e-6)
    overlap = (1 - giou(predicted, wanted, variant)) * centers
    middle = F.binary_cross_entropy_with_logits(
        head.centerness_logits[positive], centers, reduction="sum"
    )
    return {"class": focal / count, "box": overlap.sum() / weight, "centerness": middle / count}


def giou(predicted: Tensor, wanted: Tensor, variant: CondInstVariant) -> Tensor:
    """Generalised IoU (P,) of boxes as (P, 4) distances >= 0 from one common point each.

    adelaidet adds 1 to both areas of the IoU, as its authors do.
    """
    common = torch.minimum(predicted, wanted)
    hull = torch.maximum(predicted, wanted)
    intersection, enclosed = _area(common), _area(hull)
    union = _area(predicted) + _area(wanted) - intersection
    if variant == "adelaidet":
        return (intersection + 1) / (union + 1) - (enclosed - union) / enclosed
    union, enclosed = union.clamp(min=TINY), enclosed.clamp(min=TINY)
    return intersection / union - (enclosed - union) / enclosed


def mask_loss(
    output: ImageOutput,
    samples: Sequence[MaskSample],
    truths: Sequence[Truth],
    grid: Grid,
) -> Tensor:
    """Mean Dice loss of the masks of all sampled locations; 0 with a graph if there are none."""
    losses = []
    for number, (sample, truth) in enumerate(zip(samples, truths, strict=True)):
        if len(sample.locations):
            logits = sampled_logits(output, number, sample, grid)
            losses.append(dice(logits.sigmoid(), mask_targets(truth)[sample.truth]))
    if not losses:
        return 0.0 * (output.mask_features.sum() + output.head.parameters.sum())
    return torch.cat(losses).mean()


def sampled_logits(output: ImageOutput, number: int, sample: MaskSample, grid: Grid) -> Tensor:
    """Mask logits (P, h, w), stride 4, of the sampled locations of one image of a batch."""
    where = sample.locations
    return mask_logits(
        output.mask_features[number],
        output.head.parameters[number, where],
        grid.points[where],
        grid.strides[where],
    )


def mask_targets(truth: Truth) -> Tensor:
    """(I, H / 4, W / 4) float masks: one pixel of each cell, its third in both axes."""
    return truth.masks[:, 2::4, 2::4].float()


def dice(probabilities: Tensor, truth: Tensor) -> Tensor:
    """(P, h, w), (P, h, w) -> (P,) Dice losses, squares in the denominator (V-Net, Eq. 1)."""
    p, g = probabilities.flatten(1), truth.flatten(1).to(probabilities.dtype)
    return 1 - 2 * (p * g).sum(1) / ((p * p).sum(1) + (g * g).sum(1) + DICE_EPS)


def sample_masks(targets: Sequence[LocationTargets], variant: CondInstVariant) -> list[MaskSample]:
    """Locations whose masks are trained: all positive ones, or as many random ones as a variant
    allows."""
    positive = [target.positive for target in targets]
    if variant == "mmdet":
        kept = [_choose(where, MASKS_OF_IMAGE) for where in positive]
    else:
        total = sum(map(len, positive))
        chosen = _choose(torch.arange(total, device=positive[0].device), MASKS_OF_BATCH)
        in_batch = torch.zeros(total, dtype=torch.bool, device=chosen.device)
        in_batch[chosen] = True
        parts = in_batch.split([len(where) for where in positive])
        kept = [where[part] for where, part in zip(positive, parts, strict=True)]
    return [
        MaskSample(where, target.truth[where]) for where, target in zip(kept, targets, strict=True)
    ]


def mean_over_processes(value: Tensor) -> Tensor:
    """A number's mean over the processes that train together; without gradient."""
    value = value.detach().clone()
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(value)
        value /= dist.get_world_size()
    return value


def _area(distances: Tensor) -> Tensor:
    return (distances[:, 0] + distances[:, 2]) * (distances[:, 1] + distances[:, 3])


def _choose(where: Tensor, most: int) -> Tensor:
    if len(where) <= most:
        return where
    order = torch.randperm(len(where), device=where.device)[:most]
    return where[order.sort().values]
