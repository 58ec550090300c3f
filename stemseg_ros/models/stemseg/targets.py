"""Ground truth on the stride-4 grid of the network's output."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from stemseg_ros.datasets.sequence import IGNORE_LABEL, class_of, is_group, is_object
from stemseg_ros.geometry import GRID_STRIDE
from stemseg_ros.models.stemseg.rules import LossRules
from stemseg_ros.models.stemseg.settings import Settings

THIN = 0.5
"""Share of its pixels below which an object of a frame counts as lost by a majority in each
cell."""
THIN_COVER = 0.25
"""Share of a cell that such an object must cover to get it."""


@dataclass(frozen=True, slots=True, eq=False)
class Targets:
    """Ground truth of one clip on the output grid."""

    masks: npt.NDArray[np.uint8]
    """uint8 (I, T, h, w), 0 or 1, every instance visible in some cell."""
    classes: npt.NDArray[np.int64]
    """int64 (T, h, w), 0 background."""
    ignore: npt.NDArray[np.bool_]
    """bool (T, h, w)."""
    groups: npt.NDArray[np.bool_]
    """bool (T, h, w): pixels of a class whose instances are not separated."""


def grid_targets(labels: npt.NDArray[np.int32], config: Settings) -> Targets:
    """Shrink int32 labels (T, H, W), sides multiples of 4, to the stride-4 grid.

    reference: a cell belongs to an instance that covers all of its bilinear support, as bilinear
    shrinking and truncation do; partly covered cells become background, and what is thinner than
    two pixels vanishes. corrected: the label that covers most of the cell, objects before
    background; an object that would lose more than half of its pixels of a frame by that, being
    thin or small, gets every cell that it covers a quarter of and that is not ignored.
    """
    by_majority = LossRules.of(config).cells_by_majority
    grid = _mostly_covered(labels) if by_majority else _covered_throughout(labels)
    present = np.unique(grid)
    ids = present[is_object(present)]
    masks = np.stack([grid == i for i in ids]) if len(ids) else np.zeros((0, *grid.shape))
    return Targets(
        masks.astype(np.uint8),
        class_of(grid).astype(np.int64),
        grid == IGNORE_LABEL,
        is_group(grid),
    )


def _covered_throughout(labels: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """The label of all four pixels in the middle of a cell, where bilinear shrinking looks; 0 if
    they differ."""
    cells = _cells(labels)[:, :, 1:3, :, 1:3]
    first = cells[:, :, :1, :, :1]
    grid: npt.NDArray[np.int32] = np.where(
        (cells == first).all((2, 4)), first[:, :, 0, :, 0], 0
    ).astype(np.int32)
    return grid


def _mostly_covered(labels: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """The label that covers most of each cell, thin and small objects first."""
    # Counting and a table, because np.unique sorts all pixels to number them.
    present = np.flatnonzero(np.bincount(labels.ravel()))
    number = np.zeros(present[-1] + 1, np.int64)
    number[present] = np.arange(len(present))
    cover = _cover(number[labels], len(present))  # (L, T, h, w)
    objects = is_object(present)
    # Half a pixel for what is no background decides ties alone.
    grid = (cover + 0.5 * (present != 0)[:, None, None, None]).argmax(0)  # (T, h, w)
    kept = np.stack([(grid == n).sum((1, 2)) for n in range(len(present))])  # (L, T) cells
    lost = kept * GRID_STRIDE**2 < THIN * cover.sum((2, 3))
    free = present[grid] != IGNORE_LABEL
    best = np.full(grid.shape, THIN_COVER * GRID_STRIDE**2 - 1)
    for n, frame in np.argwhere(lost & objects[:, None]):
        # Of two thin objects in a cell the one that covers more of it gets it.
        claimed = free[frame] & (cover[n, frame] > best[frame])
        grid[frame][claimed], best[frame][claimed] = n, cover[n, frame][claimed]
    return np.asarray(present[grid], np.int32)


def _cover(dense: npt.NDArray[np.int64], count: int) -> npt.NDArray[np.int64]:
    """Pixels of each of the labels 0 .. L - 1 in each cell: (L, T, h, w)."""
    length, height, width = dense.shape
    shape = (length, height // GRID_STRIDE, width // GRID_STRIDE)
    cell = np.arange(np.prod(shape)).reshape(shape)
    cell = cell.repeat(GRID_STRIDE, 1).repeat(GRID_STRIDE, 2)
    bins = np.bincount((dense * cell.max(initial=0) + dense + cell).ravel())
    full = np.zeros(count * np.prod(shape), np.int64)
    full[: len(bins)] = bins
    return full.reshape(count, *shape)


def _cells(labels: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """(T, H, W) -> (T, h, 4, w, 4)."""
    length, height, width = labels.shape
    return labels.reshape(
        length, height // GRID_STRIDE, GRID_STRIDE, width // GRID_STRIDE, GRID_STRIDE
    )
