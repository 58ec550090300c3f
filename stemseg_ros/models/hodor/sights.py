"""Where objects were last seen, and how far from there they may be found; not in the paper.

The decoder compares pixels with descriptors wherever they lie, so objects that look alike, such as
cars in a street, take each other's pixels. What lies out of an object's reach is not compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

MARGIN = 1
"""Cells at stride 8 by which the reach grows in each frame beside ``propagation.reach``."""
OUT_OF_REACH = -30.0
"""Logit of an object there; finite, for interpolation."""


@dataclass(frozen=True, slots=True, eq=False)
class Sight:
    """An object in the last frame in which it covered at least one cell."""

    mask: Tensor
    """bool (h, w) at stride 8."""
    index: int
    """Position of the frame in the stream."""


def updated_sights(
    sights: Mapping[int, Sight], masks: Mapping[int, Tensor], index: int
) -> dict[int, Sight]:
    """Take in a frame: masks (h, w) in [0, 1] at stride 8 by id; others are forgotten."""
    if not masks:
        return {}
    inside = torch.stack(list(masks.values())) > 0.5
    updated = {}
    for (track_id, seen), mask in zip(
        zip(masks, inside.flatten(1).any(1).tolist(), strict=True), inside, strict=True
    ):
        if seen:
            updated[track_id] = Sight(mask, index)
        elif track_id in sights:
            updated[track_id] = sights[track_id]
    return updated


def limit_to_reach(
    logits: Tensor, ids: Sequence[int], sights: Mapping[int, Sight], index: int, reach: float
) -> Tensor:
    """Objects' logits (I, 2h, 2w), each cut where its object cannot have moved to.

    ids: of the channels; index: position of the frame in the stream; reach: per frame, in shares
    of the object's size (root of its area). Objects without a sight are not cut.
    """
    known = [(channel, sights[n]) for channel, n in enumerate(ids) if n in sights]
    if not known:
        return logits
    areas = torch.stack([sight.mask.sum() for _, sight in known]).tolist()
    limited = logits.clone()
    for (channel, sight), area in zip(known, areas, strict=True):
        radius = round((index - sight.index) * (MARGIN + reach * area**0.5))
        radius = min(radius, max(sight.mask.shape))
        near = F.max_pool2d(sight.mask[None].float(), 2 * radius + 1, 1, radius)
        near = F.interpolate(near[None], size=logits.shape[-2:], mode="nearest")[0, 0]
        limited[channel][near == 0] = OUT_OF_REACH
    return limited
