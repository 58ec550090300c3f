"""Bi-directional contrastive loss of embeddings between two frames of a video (STC).

The form for one anchor is that of QDTrack (Pang et al., CVPR 2021); both directions are STC's; how
rows are sampled and averaged is our reconstruction (docs/parity.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class EmbeddedRows:
    """Locations of one frame: positive ones and some of the background."""

    embeddings: Tensor
    """(R, E)."""
    ids: Tensor
    """(R,) int64, identity in the video, 0 for background."""


def contrastive_loss(pairs: Sequence[tuple[EmbeddedRows, EmbeddedRows]]) -> Tensor:
    """Mean of both directions; rows of different pairs never meet."""
    forth = _mean([anchor_loss(key, reference) for key, reference in pairs], pairs)
    back = _mean([anchor_loss(reference, key) for key, reference in pairs], pairs)
    return (forth + back) / 2


def anchor_loss(anchors: EmbeddedRows, others: EmbeddedRows) -> Tensor | None:
    """Mean over the anchors that have a partner in the other frame; None if there is none.

    For an anchor v: log(1 + sum over partners p and all other rows n of exp(v·n - v·p)). Products
    reach hundreds, so the sums are taken as logsumexp.
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


def cosine_loss(pairs: Sequence[tuple[EmbeddedRows, EmbeddedRows]]) -> Tensor:
    """Mean of (cosine - [same identity])² over all pairs of an anchor and a row of the other
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
    """(A, R) -> (A,) over the chosen entries of each row; -inf, without gradient, for none."""
    some = chosen.any(1)
    lowest = torch.finfo(values.dtype).min
    # A row without an entry would give nan gradients: it gets a harmless one and is masked after.
    result = values.masked_fill(~chosen, lowest).logsumexp(1)
    return torch.where(some, result, result.new_tensor(lowest / 4).expand_as(result))


def _mean(
    losses: Sequence[Tensor | None], pairs: Sequence[tuple[EmbeddedRows, EmbeddedRows]]
) -> Tensor:
    found = [loss for loss in losses if loss is not None]
    if found:
        return torch.stack(found).mean()
    nothing: Tensor = sum(
        (rows.embeddings.sum() for pair in pairs for rows in pair), start=torch.zeros(())
    )
    return 0.0 * nothing
