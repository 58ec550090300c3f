"""Instance-wise temporal consistency (STC): the mask filters of one frame are applied to the mask
features of the other.

The default form is the crossover loss of CrossVIS (Yang et al., ICCV 2021); see docs/parity.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from stemseg_ros.models.stc.losses import dice
from stemseg_ros.models.stc.mask_head import predict_masks
from stemseg_ros.models.stc.settings import ConsistencyForm


@dataclass(frozen=True, slots=True, eq=False)
class LocationMasks:
    """Positive locations of one frame with the inputs of their masks."""

    ids: Tensor
    """(P,) int64 > 0, id of the object in the video."""
    parameters: Tensor
    """(P, 169) filters."""
    points: Tensor
    """(P, 2) x, y in pixels."""
    strides: Tensor
    """(P,)."""
    features: Tensor
    """(8, h, w) mask features of the frame."""
    truth: Tensor
    """(P, 2 h, 2 w) ground-truth mask of each location's object, stride 4."""


def consistency_loss(
    pairs: Sequence[tuple[LocationMasks, LocationMasks]],
    partners: Sequence[tuple[Tensor, Tensor]],
    form: ConsistencyForm,
) -> Tensor:
    """Average the losses of both directions, each a mean over all locations with a partner.

    partners: for each location of either frame, a location of the same object in the other frame,
    or -1 (``draw_partners``).
    """
    directions: tuple[list[Tensor], list[Tensor]] = ([], [])
    for (key, reference), (forward, backward) in zip(pairs, partners, strict=True):
        directions[0].append(compute_crossed_losses(key, reference, forward, form))
        directions[1].append(compute_crossed_losses(reference, key, backward, form))
    means = [_mean(torch.cat(losses)) for losses in directions if losses]
    return torch.stack(means).mean() if means else torch.zeros(())


def compute_crossed_losses(
    own: LocationMasks, other: LocationMasks, partners: Tensor, form: ConsistencyForm
) -> Tensor:
    """Compute the losses (K,) of the K locations that have a partner in the other frame."""
    rows = (partners >= 0).nonzero().squeeze(1)
    columns = partners[rows]
    logits = predict_crossed_masks(own, other, rows, columns)
    if form == "crossover_dice":
        return dice(logits.sigmoid(), other.truth[columns])
    with torch.no_grad():  # gradients flow into the crossed mask only
        teacher = predict_masks(
            other.features,
            other.parameters[columns],
            other.points[columns],
            other.strides[columns],
        )
    return COMPARISONS[form](logits, teacher).flatten(1).mean(1)


def predict_crossed_masks(
    own: LocationMasks, other: LocationMasks, rows: Tensor, columns: Tensor
) -> Tensor:
    """Predict masks (K, 2 h, 2 w) in the other frame with the filters of this one; position and
    stride are the partner's."""
    return predict_masks(
        other.features, own.parameters[rows], other.points[columns], other.strides[columns]
    )


def draw_partners(ids: Tensor, others: Tensor) -> Tensor:
    """Draw for each id (P,) a uniformly random index of the same id in ``others``; -1 if there is
    none."""
    if not len(ids) or not len(others):
        return torch.full_like(ids, -1)
    same = ids[:, None] == others
    keys = torch.rand(same.shape, device=ids.device).masked_fill(~same, -1.0)
    return torch.where(same.any(1), keys.argmax(1), -1)


def _squares(logits: Tensor, teacher: Tensor) -> Tensor:
    return (logits.sigmoid() - teacher.sigmoid()).square()


def _divergences(logits: Tensor, teacher: Tensor) -> Tensor:
    """Compute the Kullback-Leibler divergence of two Bernoulli distributions by pixel, in logits,
    so that it stays finite near 0 and 1."""
    q = teacher.sigmoid()
    return q * (F.logsigmoid(teacher) - F.logsigmoid(logits)) + (1 - q) * (
        F.logsigmoid(-teacher) - F.logsigmoid(-logits)
    )


COMPARISONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "l2": _squares,
    "kl": _divergences,
}


def _mean(losses: Tensor) -> Tensor:
    return losses.mean() if len(losses) else losses.sum()
