"""What each location of the pyramid has to predict: assignment of truths (FCOS, CondInst)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from stemseg_ros.models.stc.heads import Grid

LEVEL_RANGES = ((-1.0, 64.0), (64.0, 128.0), (128.0, 256.0), (256.0, 512.0), (512.0, 1e8))
"""Range of the largest distance to a side of the box, pixels, that each level is in charge of;
both ends belong to it."""
FAR = 1e8
"""Larger than the area of any box."""


@dataclass(frozen=True, slots=True, eq=False)
class Truth:
    """The I labelled objects of one image, in pixels of the padded input."""

    boxes: Tensor
    """(I, 4) x1, y1, x2, y2."""
    labels: Tensor
    """(I,) int64, class from 0."""
    masks: Tensor
    """(I, H, W) uint8 or bool, not empty."""
    ids: Tensor
    """(I,) int64 > 0: identity over the frames of a video."""


@dataclass(frozen=True, slots=True, eq=False)
class LocationTargets:
    """Targets of the L locations of an image."""

    truth: Tensor
    """(L,) int64, index of the truth, -1 for background."""
    labels: Tensor
    """(L,) int64, class from 0, or the number of classes for background."""
    distances: Tensor
    """(L, 4) to the sides of the box, in strides; 0 for background."""

    @property
    def positive(self) -> Tensor:
        """Indices (P,) of the locations that have a truth."""
        return (self.truth >= 0).nonzero().squeeze(1)


def assign_locations(
    truth: Truth, grid: Grid, classes: int, center_radius: float
) -> LocationTargets:
    """Targets of one image; of several truths the one of the smallest box wins, the first at a
    tie.

    A location is positive strictly inside a square of half-width ``center_radius`` strides around
    the centroid of a mask, cut to the box, if its level is in charge of the box's size.
    """
    if not len(truth.boxes):
        return _background(grid, classes)
    points = grid.points[:, None]  # (L, 1, 2)
    boxes = truth.boxes.to(points.dtype)
    distances = torch.cat((points - boxes[None, :, :2], boxes[None, :, 2:] - points), 2)
    fits = _inside(truth, grid, center_radius) & _in_range(distances.amax(2), grid)
    sides = boxes[:, 2:] - boxes[:, :2]
    areas = torch.where(fits, sides.prod(1), FAR)
    smallest, chosen = areas.min(1)
    # min does not promise the first of several equal values.
    chosen = (areas == smallest[:, None]).to(torch.uint8).argmax(1)
    chosen = torch.where(fits.any(1), chosen, -1)
    positive = chosen >= 0
    picked = distances[torch.arange(len(chosen), device=chosen.device), chosen]
    return LocationTargets(
        chosen,
        torch.where(positive, truth.labels[chosen], classes),
        torch.where(positive[:, None], picked / grid.strides[:, None], 0.0),
    )


def centerness_targets(distances: Tensor) -> Tensor:
    """(P, 4) positive distances -> (P,) in [0, 1], 1 in the middle of a box (FCOS, Eq. 3)."""
    across, down = distances[:, 0::2], distances[:, 1::2]
    return (across.amin(1) / across.amax(1) * (down.amin(1) / down.amax(1))).sqrt()


def mask_centroids(masks: Tensor) -> Tensor:
    """(I, H, W) -> (I, 2) mean x and y of the pixels of each mask."""
    flat = masks.to(torch.float64)
    x = torch.arange(masks.shape[2], device=masks.device, dtype=torch.float64)
    y = torch.arange(masks.shape[1], device=masks.device, dtype=torch.float64)
    columns, rows = flat.sum(1), flat.sum(2)
    area = rows.sum(1).clamp(min=1.0)
    return torch.stack((columns @ x / area, rows @ y / area), 1)


def _inside(truth: Truth, grid: Grid, radius: float) -> Tensor:
    """(L, I) whether a location lies in the sampling region of a truth."""
    centers = mask_centroids(truth.masks).to(grid.points.dtype)[None]
    reach = (radius * grid.strides)[:, None, None]
    boxes = truth.boxes.to(grid.points.dtype)[None]
    low = torch.maximum(centers - reach, boxes[..., :2])
    high = torch.minimum(centers + reach, boxes[..., 2:])
    points = grid.points[:, None]
    return ((points > low) & (points < high)).all(2)


def _in_range(largest: Tensor, grid: Grid) -> Tensor:
    """(L, I) whether the level of a location is in charge of such a largest distance."""
    lengths = torch.tensor(grid.level_lengths, device=largest.device)
    limits = largest.new_tensor(LEVEL_RANGES).repeat_interleave(lengths, 0)  # (L, 2)
    return (largest >= limits[:, :1]) & (largest <= limits[:, 1:])


def _background(grid: Grid, classes: int) -> LocationTargets:
    nothing = torch.full((len(grid.points),), -1, device=grid.points.device)
    labels = torch.full_like(nothing, classes)
    return LocationTargets(nothing, labels, grid.points.new_zeros(len(nothing), 4))
