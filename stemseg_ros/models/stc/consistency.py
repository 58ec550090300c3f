"""Instance-wise temporal consistency: filters of one frame on mask features of the other (STC).

The default form is CrossVIS's crossover (Yang et al., ICCV 2021); see docs/parity.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from stemseg_ros.models.stc.losses import dice
from stemseg_ros.models.stc.mask_head import mask_logits
from stemseg_ros.models.stc.settings import ConsistencyForm


@dataclass(frozen=True, slots=True, eq=False)
class MaskRows:
    """Positive locations of one frame and what their masks are made of."""

    ids: Tensor
    """(P,) int64 > 0, identity in the video."""
    parameters: Tensor
    """(P, 169) filters."""
    points: Tensor
    """(P, 2) x, y in pixels."""
    strides: Tensor
    """(P,)."""
    features: Tensor
    """(8, h, w) mask features of the frame."""
    truth: Tensor
    """(P, 2 h, 2 w) true mask of each location's object, stride 4."""


def consistency_loss(
    pairs: Sequence[tuple[MaskRows, MaskRows]],
    partners: Sequence[tuple[Tensor, Tensor]],
    form: ConsistencyForm,
) -> Tensor:
    """Mean of both directions, each a mean over all locations of all pairs that have a partner.

    partners: for each location of either frame a location of the other frame with its identity,
    or -1 (``draw_partners``).
    """
    directions: tuple[list[Tensor], list[Tensor]] = ([], [])
    for (key, reference), (forth, back) in zip(pairs, partners, strict=True):
        directions[0].append(crossed_losses(key, reference, forth, form))
        directions[1].append(crossed_losses(reference, key, back, form))
    means = [_mean(torch.cat(losses)) for losses in directions if losses]
    return torch.stack(means).mean() if means else torch.zeros(())


def crossed_losses(
    own: MaskRows, other: MaskRows, partners: Tensor, form: ConsistencyForm
) -> Tensor:
    """Losses (K,) of the K locations that have a partner in the other frame."""
    rows = (partners >= 0).nonzero().squeeze(1)
    columns = partners[rows]
    logits = crossed_logits(own, other, rows, columns)
    if form == "crossover_dice":
        return dice(logits.sigmoid(), other.truth[columns])
    with torch.no_grad():  # only the crossed mask moves towards the other frame's own one
        teacher = mask_logits(
            other.features,
            other.parameters[columns],
            other.points[columns],
            other.strides[columns],
        )
    return COMPARISONS[form](logits, teacher).flatten(1).mean(1)


def crossed_logits(own: MaskRows, other: MaskRows, rows: Tensor, columns: Tensor) -> Tensor:
    """Masks (K, 2 h, 2 w) in the other frame by filters of one's own: the partner gives position
    and stride."""
    return mask_logits(
        other.features, own.parameters[rows], other.points[columns], other.strides[columns]
    )


def draw_partners(ids: Tensor, others: Tensor) -> Tensor:
    """For each id (P,) a random position of the same id among ``others``, uniform; -1 without
    one."""
    if not len(ids) or not len(others):
        return torch.full_like(ids, -1)
    same = ids[:, None] == others
    keys = torch.rand(same.shape, device=ids.device).masked_fill(~same, -1.0)
    return torch.where(same.any(1), keys.argmax(1), -1)


def _squares(logits: Tensor, teacher: Tensor) -> Tensor:
    return (logits.sigmoid() - teacher.sigmoid()).square()


def _divergences(logits: Tensor, teacher: Tensor) -> Tensor:
    """Kullback-Leibler divergence of two coins, by pixel; logs of probabilities near 0 stay
    finite."""
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
