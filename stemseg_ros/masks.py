"""Label grids to full-size masks and their run lengths; decoding for subscribers.

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
from pycocotools import mask as coco
from scipy.ndimage import find_objects

from stemseg_ros.records import GRID_STRIDE, FrameResult, Geometry, Rle

REACH = 1
"""Cells beyond its own that an object can spread to by interpolation."""

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class FullMask:
    """One label of a grid at the size of the image."""

    label: int
    rle: Rle
    box: tuple[int, int, int, int]
    """Tight box: x, y, width, height in pixels."""
    area: int
    """Pixels."""


def full_size_masks(grid: npt.NDArray[np.integer], geometry: Geometry) -> Iterator[FullMask]:
    """Masks of all labels > 0 of an (h, w) grid, in ascending order; those that vanish are left
    out.

    The masks do not overlap: at most one label can hold more than half of the interpolation weight
    of a pixel.
    """
    labels, dense = np.unique(grid, return_inverse=True)
    first = int(np.searchsorted(labels, 1))  # labels[first:] are the positive ones
    dense = np.maximum(dense.reshape(grid.shape) - first + 1, 0)
    for number, box in enumerate(find_objects(dense), start=1):
        crop, top, left = _upsample_box(dense, number, box, geometry)
        if crop.any():
            yield _full_mask(int(labels[first + number - 1]), crop, top, left, geometry.image_size)


def upsample(mask: Bools, geometry: Geometry) -> Bools:
    """A whole bool (h, w) grid to a bool (H, W) image mask."""
    everything = (slice(0, mask.shape[0]), slice(0, mask.shape[1]))
    return _upsample_box(mask, True, everything, geometry)[0]


def encode(mask: Bools) -> Rle:
    """A bool (H, W) mask as COCO compressed run lengths."""
    rle = coco.encode(np.asfortranarray(mask, dtype=np.uint8))
    return Rle(size=[int(side) for side in rle["size"]], counts=rle["counts"])


def encode_box(crop: Bools, top: int, left: int, size: tuple[int, int]) -> Rle:
    """The same for a mask that is empty outside a box, from the box alone.

    crop: bool (h, w), its first pixel at (top, left) of an image of ``size`` (H, W).
    """
    height, width = size
    steps = np.diff(
        crop.astype(np.int8), axis=0, prepend=0, append=0
    ).T  # (w, h + 1): run starts and ends
    column, row = steps.nonzero()  # column-major order, as COCO's
    edges = (left + column) * height + top + row
    if crop.shape[0] == height:  # a run may go on at the top of the next column: drop the seam
        seam = np.flatnonzero(edges[1:] == edges[:-1])
        edges = np.delete(edges, np.concatenate((seam, seam + 1)))
    if edges.size == 0 or edges[-1] != height * width:
        edges = np.append(edges, height * width)
    counts = np.diff(edges, prepend=0)
    compressed = coco.frPyObjects(
        {"size": [height, width], "counts": counts.tolist()}, height, width
    )
    return Rle(size=[height, width], counts=compressed["counts"])


def decode(rle: Rle | bytes, size: tuple[int, int] | None = None) -> Bools:
    """Compressed run lengths to a bool (H, W) mask.

    Takes an Rle, or the bytes of ``Instance.mask_rle`` and the (height, width) of its
    InstanceArray. Raises ValueError if the run lengths do not fill the image exactly.
    """
    if isinstance(rle, dict):
        height, width = rle["size"]
        counts = rle["counts"]
    else:
        if size is None:
            raise ValueError("the size (height, width) is needed to decode bare run lengths")
        (height, width), counts = size, bytes(rle)
    check_counts(counts, height * width)
    return np.asarray(coco.decode({"size": [height, width], "counts": counts}), dtype=bool)


def label_image(result: FrameResult) -> npt.NDArray[np.uint16]:
    """uint16 (H, W): track id of each pixel, 0 background. Raises ValueError above id 65535."""
    image = np.zeros((result.height, result.width), np.uint16)
    for instance in result.instances:
        if instance.track_id > np.iinfo(np.uint16).max:
            raise ValueError(
                f"track id {instance.track_id} does not fit into 16 bits; reset the tracker"
            )
        x, y, width, height = instance.box
        window = np.s_[y : y + height, x : x + width]
        image[window][decode(instance.rle)[window]] = instance.track_id
    return image


def _full_mask(label: int, crop: Bools, top: int, left: int, size: tuple[int, int]) -> FullMask:
    rows, columns = np.flatnonzero(crop.any(1)), np.flatnonzero(crop.any(0))
    box = (
        left + int(columns[0]),
        top + int(rows[0]),
        int(columns[-1] - columns[0]) + 1,
        int(rows[-1] - rows[0]) + 1,
    )
    return FullMask(label, encode_box(crop, top, left, size), box, int(crop.sum()))


def _upsample_box(
    grid: npt.NDArray[Any], label: int, box: tuple[slice, slice], geometry: Geometry
) -> tuple[Bools, int, int]:
    """Mask of a label that lies in a box of the grid (h, w), as far as its cells can reach.

    Returns a bool crop of the image mask, and its top and left in the image.
    """
    axes = [
        _Axis.of(cells, padded, resized, size)
        for cells, padded, resized, size in zip(
            grid.shape,
            geometry.padded_size,
            geometry.resized_size,
            geometry.image_size,
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


def check_counts(counts: bytes, pixels: int) -> None:
    """Raises ValueError unless compressed run lengths fill an image of so many pixels exactly.

    pycocotools does not look: it leaves the rest of the image undefined when the runs are too
    short.
    """
    total, value, shift, previous = 0, 0, 0, [0, 0]
    index = 0
    for byte in counts:
        chunk = byte - 48
        if not 0 <= chunk < 64:
            raise ValueError(f"byte {byte} does not occur in compressed run lengths")
        value |= (chunk & 0x1F) << shift
        shift += 5
        if chunk & 0x20:
            continue
        if chunk & 0x10:
            value -= 1 << shift
        run = value + (previous[0] if index > 2 else 0)
        if run < 0:
            raise ValueError("negative run length")
        previous = [previous[1], run]
        total += run
        index, value, shift = index + 1, 0, 0
    if shift or total != pixels:
        raise ValueError(f"run lengths cover {total} pixels of an image with {pixels}")
