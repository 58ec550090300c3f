"""Targets of each location of the pyramid: assignment of ground-truth objects (FCOS, CondInst)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from stemseg_ros.models.stc.heads import Grid

LEVEL_RANGES = ((-1.0, 64.0), (64.0, 128.0), (128.0, 256.0), (256.0, 512.0), (512.0, 1e8))
"""Inclusive range of the largest distance to a side of the box, in pixels, for which each level is
responsible."""
MAX_AREA = 1e8
"""Larger than the area of any box."""


@dataclass(frozen=True, slots=True, eq=False)
class Truth:
    """The I labelled objects of one image, in pixels of the padded input."""

    boxes: Tensor
    """(I, 4) x1, y1, x2, y2."""
    labels: Tensor
    """(I,) int64, class index from 0."""
    masks: Tensor
    """(I, H, W) uint8 or bool, not empty."""
    ids: Tensor
    """(I,) int64 > 0, id of the object in the video."""


@dataclass(frozen=True, slots=True, eq=False)
class LocationTargets:
    """Targets of the L locations of an image."""

    truth: Tensor
    """(L,) int64, index of the assigned object, -1 for background."""
    labels: Tensor
    """(L,) int64, class index from 0; the number of classes for background."""
    distances: Tensor
    """(L, 4) to the sides of the box, in strides; 0 for background."""

    @property
    def positive(self) -> Tensor:
        """Indices (P,) of the locations that are assigned to an object."""
        return (self.truth >= 0).nonzero().squeeze(1)


def assign_locations(
    truth: Truth, grid: Grid, classes: int, center_radius: float
) -> LocationTargets:
    """Compute the targets of one image; of several objects the smallest box wins, at a tie the
    first.

    A location is positive strictly inside a square of half-width ``center_radius`` strides around
    the centroid of a mask, clipped to the box, if its level is responsible for the size of the
    box.
    """
    if not len(truth.boxes):
        return _background(grid, classes)
    points = grid.points[:, None]  # (L, 1, 2)
    boxes = truth.boxes.to(points.dtype)
    distances = torch.cat((points - boxes[None, :, :2], boxes[None, :, 2:] - points), 2)
    fits = _inside(truth, grid, center_radius) & _in_range(distances.amax(2), grid)
    sides = boxes[:, 2:] - boxes[:, :2]
    areas = torch.where(fits, sides.prod(1), MAX_AREA)
    smallest, chosen = areas.min(1)
    # min does not guarantee the first of several equal values.
    chosen = (areas == smallest[:, None]).to(torch.uint8).argmax(1)
    chosen = torch.where(fits.any(1), chosen, -1)
    positive = chosen >= 0
    picked = distances[torch.arange(len(chosen), device=chosen.device), chosen]
    return LocationTargets(
        chosen,
        torch.where(positive, truth.labels[chosen], classes),
        torch.where(positive[:, None], picked / grid.strides[:, None], 0.0),
    )


def compute_centerness(distances: Tensor) -> Tensor:
    """Compute centerness (P,) in [0, 1] of positive distances (P, 4); 1 at the centre of a box
    (FCOS, Eq. 3)."""
    across, down = distances[:, 0::2], distances[:, 1::2]
    return (across.amin(1) / across.amax(1) * (down.amin(1) / down.amax(1))).sqrt()


def mask_centroids(masks: Tensor) -> Tensor:
    """Compute the mean x and y (I, 2) of the pixels of each mask (I, H, W)."""
    flat = masks.to(torch.float64)
    x = torch.arange(masks.shape[2], device=masks.device, dtype=torch.float64)
    y = torch.arange(masks.shape[1], device=masks.device, dtype=torch.float64)
    columns, rows = flat.sum(1), flat.sum(2)
    area = rows.sum(1).clamp(min=1.0)
    return torch.stack((columns @ x / area, rows @ y / area), 1)


def _inside(truth: Truth, grid: Grid, radius: float) -> Tensor:
    """Mark the locations in the sampling region of each object: bool (L, I)."""
    centers = mask_centroids(truth.masks).to(grid.points.dtype)[None]
    reach = (radius * grid.strides)[:, None, None]
    boxes = truth.boxes.to(grid.points.dtype)[None]
    low = torch.maximum(centers - reach, boxes[..., :2])
    high = torch.minimum(centers + reach, boxes[..., 2:])
    points = grid.points[:, None]
    return ((points > low) & (points < high)).all(2)


def _in_range(largest: Tensor, grid: Grid) -> Tensor:
    """Mark the locations whose level is responsible for the largest distances (L, I): bool
    (L, I)."""
    lengths = torch.tensor(grid.level_lengths, device=largest.device)
    limits = largest.new_tensor(LEVEL_RANGES).repeat_interleave(lengths, 0)  # (L, 2)
    return (largest >= limits[:, :1]) & (largest <= limits[:, 1:])


def _background(grid: Grid, classes: int) -> LocationTargets:
    nothing = torch.full((len(grid.points),), -1, device=grid.points.device)
    labels = torch.full_like(nothing, classes)
    return LocationTargets(nothing, labels, grid.points.new_zeros(len(nothing), 4))
