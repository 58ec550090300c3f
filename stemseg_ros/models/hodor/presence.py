"""Presence: whether what is found of an object is the object; not in the paper.

Every object gets the pixels that match its descriptors best, also when it is hidden or gone. What
it gets then, a part of the background or of another object, is described and followed from then
on, and the object is not found when it returns.

An object is *absent* in a frame in which it covers no cell although it once did, or in which its
descriptor is less like that of its given mask than ``propagation.presence``. The descriptor of an
absent object is not remembered, what it covers is no sighting, from the second such frame on it
has no mask, and it gets no pixels where present objects were in the previous frame.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from stemseg_ros.models.hodor.sightings import OUT_OF_REACH

RETURN_MARGIN = 0.15
"""Likeness above ``propagation.presence`` from which an absent object is present again."""


def find_absent(
    masks: Mapping[int, Tensor],
    likeness: Mapping[int, float],
    absent: Collection[int],
    sighted: Collection[int],
    presence: float,
) -> frozenset[int]:
    """Find the objects that are absent in a frame.

    masks: (h, w) in [0, 1] at stride 8, by id; likeness: of the descriptors to those of the given
    masks, in [-1, 1], by id, objects without it are never absent; absent: ids of the objects that
    were absent in the previous frame; sighted: ids of those that covered a cell before, which
    objects smaller than a cell never do.
    """
    if not likeness:
        return frozenset()
    covers = (torch.stack([masks[n] for n in likeness]) > 0.5).flatten(1).any(1).tolist()
    return frozenset(
        track_id
        for (track_id, value), seen in zip(likeness.items(), covers, strict=True)
        if (track_id in sighted and not seen)
        or value < presence + (RETURN_MARGIN if track_id in absent else 0.0)
    )


def keep_from_present(
    logits: Tensor, ids: Sequence[int], absent: Collection[int], previous: Mapping[int, Tensor]
) -> Tensor:
    """Set the logits (I, 2h, 2w) of absent objects to OUT_OF_REACH where present ones were.

    ids: of the channels; previous: masks (h, w) in [0, 1] of the previous frame, by id.
    """
    channels = [channel for channel, track_id in enumerate(ids) if track_id in absent]
    present = [mask for track_id, mask in previous.items() if track_id not in absent]
    if not channels or not present:
        return logits
    taken = (torch.stack(present) > 0.5).any(0)
    taken = F.interpolate(taken[None, None].float(), size=logits.shape[-2:], mode="nearest")[0, 0]
    limited = logits.clone()
    limited[channels] = limited[channels].masked_fill(taken > 0, OUT_OF_REACH)
    return limited
