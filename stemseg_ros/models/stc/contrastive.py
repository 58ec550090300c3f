"""Bi-directional contrastive loss of embeddings between two frames of a video (STC).

The loss of one anchor is that of QDTrack (Pang et al., CVPR 2021), its use in both directions is
STC's; sampling and averaging of locations are our reconstruction (docs/parity.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class LocationEmbeddings:
    """Embeddings of R locations of one frame: positive ones and some of the background."""

    embeddings: Tensor
    """(R, E)."""
    ids: Tensor
    """(R,) int64, id of the object in the video, 0 for background."""


def contrastive_loss(pairs: Sequence[tuple[LocationEmbeddings, LocationEmbeddings]]) -> Tensor:
    """Average the losses of both directions; locations of different pairs are not compared."""
    forward = _mean([anchor_loss(key, reference) for key, reference in pairs], pairs)
    backward = _mean([anchor_loss(reference, key) for key, reference in pairs], pairs)
    return (forward + backward) / 2


def anchor_loss(anchors: LocationEmbeddings, others: LocationEmbeddings) -> Tensor | None:
    """Average the loss over the anchors with a positive in the other frame; None if there are
    none.

    For an anchor v: log(1 + sum over positives p and negatives n of exp(v·n - v·p)). Dot products
    reach hundreds, so the sums are computed by logsumexp.
    """
    ids = anchors.ids[:, None]
    same = (ids > 0) & (ids == others.ids)
    chosen = same.any(1)
    if not chosen.any():
        return None
    same = same[chosen]
    products = anchors.embeddings[chosen] @ others.embeddings.T
    negative = _logsumexp(products, ~same)
    positive = _logsumexp(-products, same)
    return F.softplus(negative + positive).mean()


def cosine_loss(pairs: Sequence[tuple[LocationEmbeddings, LocationEmbeddings]]) -> Tensor:
    """Average (cosine - [same object])² over all pairs of an anchor and a location of the other
    frame."""
    terms = []
    for key, reference in pairs:
        anchors = key.ids > 0
        cosines = F.normalize(key.embeddings[anchors], dim=1) @ F.normalize(
            reference.embeddings, dim=1
        ).transpose(0, 1)
        same = key.ids[anchors, None] == reference.ids
        if cosines.numel():
            terms.append((cosines - same.to(cosines.dtype)).square().mean())
    return _mean(terms, pairs)


def _logsumexp(values: Tensor, chosen: Tensor) -> Tensor:
    """Reduce the chosen entries of each row, (A, R) to (A,); a very low constant if there are
    none."""
    some = chosen.any(1)
    lowest = torch.finfo(values.dtype).min
    # A row without entries would give NaN gradients: it is filled first and masked afterwards.
    result = values.masked_fill(~chosen, lowest).logsumexp(1)
    return torch.where(some, result, result.new_tensor(lowest / 4).expand_as(result))


def _mean(
    losses: Sequence[Tensor | None], pairs: Sequence[tuple[LocationEmbeddings, LocationEmbeddings]]
) -> Tensor:
    found = [loss for loss in losses if loss is not None]
    if found:
        return torch.stack(found).mean()
    zero: Tensor = sum(
        (rows.embeddings.sum() for pair in pairs for rows in pair), start=torch.zeros(())
    )
    return 0.0 * zero  # differentiable
