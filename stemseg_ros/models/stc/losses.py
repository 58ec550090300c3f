"""Losses of CondInst: class, box, centerness, mask (Tian et al., ICCV 2019 and ECCV 2020)."""

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
from stemseg_ros.models.stc.mask_head import predict_masks
from stemseg_ros.models.stc.settings import CondInstVariant
from stemseg_ros.models.stc.targets import LocationTargets, Truth, compute_centerness

FOCAL_ALPHA, FOCAL_GAMMA = 0.25, 2.0
DICE_EPS = 1e-5
MIN_AREA = 1e-7
"""Smallest denominator of GIoU."""
MAX_MASKS_PER_IMAGE = 300
"""Most locations of an image with a mask loss (mmdet)."""
MAX_MASKS_PER_BATCH = 500
"""Most locations of a batch with a mask loss (adelaidet)."""


@dataclass(frozen=True, slots=True, eq=False)
class MaskSample:
    """The P locations of an image with a mask loss."""

    locations: Tensor
    """(P,) int64, index on the grid."""
    truth: Tensor
    """(P,) int64, index of the ground-truth object of each."""


def detection_losses(
    output: ImageOutput,
    targets: Sequence[LocationTargets],
    variant: CondInstVariant,
    ignored: Tensor | None = None,
) -> dict[str, Tensor]:
    """Compute the losses ``class``, ``box``, ``centerness`` of N images; the latter two are 0, but
    differentiable, without positive locations.

    ignored: bool (N, L), unlabelled background locations, which the class loss leaves out.
    """
    head = output.head
    labels = torch.stack([target.labels for target in targets])  # (N, L)
    distances = torch.stack([target.distances for target in targets])
    positive = labels < head.class_logits.shape[-1]
    count = mean_over_processes(positive.sum().to(head.distances.dtype)).clamp(min=1.0)
    truth = F.one_hot(labels, head.class_logits.shape[-1] + 1)[..., :-1].to(head.class_logits)
    counted = slice(None) if ignored is None else positive | ~ignored
    focal = sigmoid_focal_loss(
        head.class_logits[counted], truth[counted], FOCAL_ALPHA, FOCAL_GAMMA, reduction="sum"
    )
    predicted = head.distances[positive]
    target = distances[positive].to(predicted.dtype)
    centerness = compute_centerness(target)
    weight = mean_over_processes(centerness.sum()).clamp(min=1e-6)
    box = (1 - giou(predicted, target, variant)) * centerness
    cross_entropy = F.binary_cross_entropy_with_logits(
        head.centerness_logits[positive], centerness, reduction="sum"
    )
    return {
        "class": focal / count,
        "box": box.sum() / weight,
        "centerness": cross_entropy / count,
    }


def giou(predicted: Tensor, target: Tensor, variant: CondInstVariant) -> Tensor:
    """Compute the generalised IoU (P,) of boxes, given as distances (P, 4) >= 0 from a common
    point.

    adelaidet adds 1 to both areas of the IoU, as in its authors' code.
    """
    common = torch.minimum(predicted, target)
    hull = torch.maximum(predicted, target)
    intersection, enclosed = _area(common), _area(hull)
    union = _area(predicted) + _area(target) - intersection
    if variant == "adelaidet":
        return (intersection + 1) / (union + 1) - (enclosed - union) / enclosed
    union, enclosed = union.clamp(min=MIN_AREA), enclosed.clamp(min=MIN_AREA)
    return intersection / union - (enclosed - union) / enclosed


def mask_loss(
    output: ImageOutput,
    samples: Sequence[MaskSample],
    truths: Sequence[Truth],
    grid: Grid,
) -> Tensor:
    """Average the Dice loss over the masks of all sampled locations; 0, but differentiable, if
    there are none."""
    losses = []
    for number, (sample, truth) in enumerate(zip(samples, truths, strict=True)):
        if len(sample.locations):
            logits = predict_sampled_masks(output, number, sample, grid)
            losses.append(dice(logits.sigmoid(), subsample_masks(truth)[sample.truth]))
    if not losses:
        return 0.0 * (output.mask_features.sum() + output.head.parameters.sum())
    return torch.cat(losses).mean()


def predict_sampled_masks(
    output: ImageOutput, number: int, sample: MaskSample, grid: Grid
) -> Tensor:
    """Predict mask logits (P, h, w), stride 4, at the sampled locations of one image of a
    batch."""
    where = sample.locations
    return predict_masks(
        output.mask_features[number],
        output.head.parameters[number, where],
        grid.points[where],
        grid.strides[where],
    )


def subsample_masks(truth: Truth) -> Tensor:
    """Subsample the ground-truth masks to float (I, H / 4, W / 4), by the third pixel of each
    cell."""
    return truth.masks[:, 2::4, 2::4].float()


def dice(probabilities: Tensor, truth: Tensor) -> Tensor:
    """Compute Dice losses (P,) of masks (P, h, w), with squares in the denominator (V-Net,
    Eq. 1)."""
    p, g = probabilities.flatten(1), truth.flatten(1).to(probabilities.dtype)
    return 1 - 2 * (p * g).sum(1) / ((p * p).sum(1) + (g * g).sum(1) + DICE_EPS)


def sample_masks(targets: Sequence[LocationTargets], variant: CondInstVariant) -> list[MaskSample]:
    """Choose the locations with a mask loss: all positive ones, or a random choice up to the limit
    of the variant."""
    positive = [target.positive for target in targets]
    if variant == "mmdet":
        kept = [_choose(where, MAX_MASKS_PER_IMAGE) for where in positive]
    else:
        total = sum(map(len, positive))
        chosen = _choose(torch.arange(total, device=positive[0].device), MAX_MASKS_PER_BATCH)
        in_batch = torch.zeros(total, dtype=torch.bool, device=chosen.device)
        in_batch[chosen] = True
        parts = in_batch.split([len(where) for where in positive])
        kept = [where[part] for where, part in zip(positive, parts, strict=True)]
    return [
        MaskSample(where, target.truth[where]) for where, target in zip(kept, targets, strict=True)
    ]


def mean_over_processes(value: Tensor) -> Tensor:
    """Average a number over the training processes, without gradient."""
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
