"""Last sightings of objects, and how far from there each can have moved; not in the paper.

The decoder compares pixels with descriptors regardless of position, so objects that look alike,
such as cars in a street, take each other's pixels. Pixels out of an object's reach are excluded.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from stemseg_ros.models.hodor.motion import Motion

MARGIN = 1
"""Cells at stride 8 by which the reach grows with each frame, in addition to
``propagation.reach``."""
FADING = 0.9
"""Share of an object's size that remains with each frame in which its mask is smaller."""
OUT_OF_REACH = -30.0
"""Logit of an object out of its reach; finite, so that it can be interpolated."""


@dataclass(frozen=True, slots=True, eq=False)
class Sighting:
    """Mask of an object in the last frame in which it was present and covered at least one cell,
    since then moved with the image."""

    mask: Tensor
    """(h, w) at stride 8, in [0, 1]; not rounded, as small motions of many frames add up."""
    index: int
    """Position of the frame in the stream."""
    size: float
    """Size of the object in cells, root of the area; more than that of the mask if the object was
    larger shortly before, as when it goes behind another one."""


def update_sightings(
    sightings: Mapping[int, Sighting],
    masks: Mapping[int, Tensor],
    index: int,
    absent: Collection[int] = (),
) -> dict[int, Sighting]:
    """Update sightings by the masks of a frame, (h, w) in [0, 1] at stride 8 by id; those of
    ``absent`` objects stay, objects without a mask are dropped."""
    if not masks:
        return {}
    inside = torch.stack(list(masks.values())) > 0.5
    areas = inside.flatten(1).sum(1).tolist()
    updated = {}
    for (track_id, area), mask in zip(zip(masks, areas, strict=True), inside.float(), strict=True):
        last = sightings.get(track_id)
        if area and track_id not in absent:
            size = max(area**0.5, FADING * last.size) if last else area**0.5
            updated[track_id] = Sighting(mask, index, size)
        elif last:
            updated[track_id] = last
    return updated


def move_sightings(sightings: Mapping[int, Sighting], motion: Motion) -> dict[int, Sighting]:
    """Move sightings to where they are in the next frame; those that would leave the image stay
    where they are."""
    moved = motion.move_masks({track_id: seen.mask for track_id, seen in sightings.items()})
    return {
        track_id: replace(seen, mask=moved[track_id]) if _covers(moved[track_id]) else seen
        for track_id, seen in sightings.items()
    }


def _covers(mask: Tensor) -> bool:
    """Whether a mask that is spread over cells adds up to half of one."""
    return bool(mask.sum() >= 0.5)


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
        frames = index - sighting.index
        size = area**0.5 if frames == 1 else sighting.size
        radius = min(round(frames * (MARGIN + reach * size)), max(sighting.mask.shape))
        covered = sighting.mask >= 0.5 * sighting.mask.max()
        near = F.max_pool2d(covered[None].float(), 2 * radius + 1, 1, radius)
        near = F.interpolate(near[None], size=logits.shape[-2:], mode="nearest")[0, 0]
        limited[channel][near == 0] = OUT_OF_REACH
    return limited
