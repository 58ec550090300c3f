"""Label grids to full-size masks.

A mask grows from the stride-4 grid to the image in two bilinear steps, as in the released code
(x4, crop of the padding, resize to the image), and is binarised once, at the end. Both steps are
linear and separable, so one small matrix an axis does them, and only the rows and columns of an
object's box are ever computed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.ndimage import find_objects

from stemseg_ros.geometry import GRID_STRIDE, Letterbox
from stemseg_ros.masks import Bools, Rle, encode_box, mask_box

REACH = 1
"""Cells beyond its own that an object can spread to by interpolation."""


@dataclass(frozen=True, slots=True)
class FullMask:
    """One label of a grid at the size of the image."""

    label: int
    rle: Rle
    box: tuple[int, int, int, int]
    """Tight box: x, y, width, height in pixels."""
    area: int
    """Pixels."""


def full_size_masks(grid: npt.NDArray[np.integer], letterbox: Letterbox) -> Iterator[FullMask]:
    """Masks of all labels > 0 of an (h, w) grid, in ascending order; those that vanish are left
    out.

    The masks do not overlap: at most one label can hold more than half of the interpolation weight
    of a pixel.
    """
    labelled = grid > 0
    labels, numbers = np.unique(grid[labelled], return_inverse=True)
    dense = np.zeros(grid.shape, np.int32)
    dense[labelled] = numbers + 1
    for number, box in enumerate(find_objects(dense), start=1):
        crop, top, left = _upsample_box(dense, number, box, letterbox)
        if crop.any():
            yield _full_mask(int(labels[number - 1]), crop, top, left, letterbox.image_size)


def upsample(mask: Bools, letterbox: Letterbox) -> Bools:
    """A whole bool (h, w) grid to a bool (H, W) image mask."""
    everything = (slice(0, mask.shape[0]), slice(0, mask.shape[1]))
    return _upsample_box(mask, True, everything, letterbox)[0]


def _full_mask(label: int, crop: Bools, top: int, left: int, size: tuple[int, int]) -> FullMask:
    box = mask_box(crop)
    assert box is not None, "the caller leaves empty masks out"
    x, y, width, height = box
    rle = encode_box(crop, top, left, size)
    return FullMask(label, rle, (left + x, top + y, width, height), int(crop.sum()))


def _upsample_box(
    grid: npt.NDArray[Any], label: int, box: tuple[slice, slice], letterbox: Letterbox
) -> tuple[Bools, int, int]:
    """Mask of a label that lies in a box of the grid (h, w), as far as its cells can reach.

    Returns a bool crop of the image mask, and its top and left in the image.
    """
    axes = [
        _Axis.of(cells, padded, resized, size)
        for cells, padded, resized, size in zip(
            grid.shape,
            letterbox.padded_size,
            letterbox.resized_size,
            letterbox.image_size,
            strict=True,
        )
    ]
    cells = [
        slice(max(side.start - REACH, 0), min(side.stop + REACH, n))
        for side, n in zip(box, grid.shape, strict=True)
    ]
    pixels = [axis.pixels_of(side) for axis, side in zip(axes, cells, strict=True)]
    rows, columns = (axis.operator[p, c] for axis, p, c in zip(axes, pixels, cells, strict=True))
    mask = grid[cells[0], cells[1]] == label
    soft = rows @ mask.astype(np.float32) @ columns.T
    return soft > 0.5, pixels[0].start, pixels[1].start


@dataclass(frozen=True, slots=True, eq=False)
class _Axis:
    """Interpolation along one axis as a matrix, and which pixels depend on which cells."""

    operator: npt.NDArray[np.float32]
    """(pixels, cells)."""
    centers: npt.NDArray[np.float64]
    """(pixels,) position of each pixel on the grid, in cells, ascending."""

    @staticmethod
    @lru_cache(maxsize=16)
    def of(cells: int, padded: int, resized: int, size: int) -> _Axis:
        if cells * GRID_STRIDE != padded:
            raise ValueError(f"{cells} cells do not fit a padded input of {padded} pixels")
        operator = _linear(cells, padded)[:resized]
        if resized != size:
            operator = _linear(resized, size) @ operator
        return _Axis(operator.astype(np.float32), operator @ np.arange(cells))

    def pixels_of(self, cells: slice) -> slice:
        """Pixels within reach of a range of cells, which must already include the neighbours."""
        start, stop = np.searchsorted(self.centers, (cells.start, cells.stop - 1), side="left")
        at_end = cells.stop == self.operator.shape[1]
        return slice(
            0 if cells.start == 0 else int(start), len(self.centers) if at_end else int(stop)
        )


def _linear(cells: int, pixels: int) -> npt.NDArray[np.float64]:
    """Bilinear interpolation of one axis, align_corners=False, as a (pixels, cells) matrix."""
    position = np.maximum((np.arange(pixels) + 0.5) * cells / pixels - 0.5, 0.0)
    low = np.minimum(position.astype(int), cells - 1)
    high = np.minimum(low + 1, cells - 1)
    matrix = np.zeros((pixels, cells))
    np.add.at(matrix, (np.arange(pixels), low), 1.0 - (position - low))
    np.add.at(matrix, (np.arange(pixels), high), position - low)
    return matrix
