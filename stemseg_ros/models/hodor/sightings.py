"""Last sightings of objects, and how far from there each can have moved; not in the paper.

The decoder compares pixels with descriptors regardless of position, so objects that look alike,
such as cars in a street, take each other's pixels. Pixels out of an object's reach are excluded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

MARGIN = 1
"""Cells at stride 8 by which the reach grows with each frame, in addition to
``propagation.reach``."""
OUT_OF_REACH = -30.0
"""Logit of an object out of its reach; finite, so that it can be interpolated."""


@dataclass(frozen=True, slots=True, eq=False)
class Sighting:
    """Mask of an object in the last frame in which it covered at least one cell."""

    mask: Tensor
    """bool (h, w) at stride 8."""
    index: int
    """Position of the frame in the stream."""


def update_sightings(
    sightings: Mapping[int, Sighting], masks: Mapping[int, Tensor], index: int
) -> dict[int, Sighting]:
    """Update sightings by the masks of a frame, (h, w) in [0, 1] at stride 8 by id; objects
    without a mask are dropped."""
    if not masks:
        return {}
    inside = torch.stack(list(masks.values())) > 0.5
    updated = {}
    for (track_id, seen), mask in zip(
        zip(masks, inside.flatten(1).any(1).tolist(), strict=True), inside, strict=True
    ):
        if seen:
            updated[track_id] = Sighting(mask, index)
        elif track_id in sightings:
            updated[track_id] = sightings[track_id]
    return updated


def limit_to_reach(
    logits: Tensor, ids: Sequence[int], sightings: Mapping[int, Sighting], index: int, reach: float
) -> Tensor:
    """Set the logits (I, 2h, 2w) of objects to OUT_OF_REACH where they cannot have moved to.

    ids: of the channels; index: position of the frame in the stream; reach: per frame, relative
    to the object's size (root of its area). Objects without a sighting are not limited.
    """
    known = [(channel, sightings[n]) for channel, n in enumerate(ids) if n in sightings]
    if not known:
        return logits
    areas = torch.stack([sighting.mask.sum() for _, sighting in known]).tolist()
    limited = logits.clone()
    for (channel, sighting), area in zip(known, areas, strict=True):
        radius = round((index - sighting.index) * (MARGIN + reach * area**0.5))
        radius = min(radius, max(sighting.mask.shape))
        near = F.max_pool2d(sighting.mask[None].float(), 2 * radius + 1, 1, radius)
        near = F.interpolate(near[None], size=logits.shape[-2:], mode="nearest")[0, 0]
        limited[channel][near == 0] = OUT_OF_REACH
    return limited
