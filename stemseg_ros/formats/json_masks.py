"""Masks in JSON files: COCO's run lengths, compressed or not, and polygons.

The only module that passes masks of files to pycocotools. pycocotools checks nothing: polygons
with NaN or far coordinates crash it or take all memory.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

from stemseg_ros.formats.json_entries import kind, list_of
from stemseg_ros.masks import check_counts
from stemseg_ros.records import Rle

MIN_POLYGON = 6
"""Numbers of a triangle; shorter lists enclose nothing."""

Points = npt.NDArray[np.float64]
"""(N, 2): x and y in pixels, the last point joined to the first."""


def segmentation_rle(segmentation: Any, size: tuple[int, int]) -> Rle | None:
    """A COCO segmentation, run lengths or polygons, as run lengths; None if nothing of it lies in
    the image. Raises ValueError, KeyError."""
    if isinstance(segmentation, dict):
        return run_lengths(segmentation, size)
    if not isinstance(segmentation, list):
        raise ValueError(f"segmentation is {kind(segmentation)}, expected polygons or run lengths")
    polygons = [_points(polygon, n) for n, polygon in enumerate(segmentation)]
    if not any(2 * len(polygon) >= MIN_POLYGON for polygon in polygons):
        raise ValueError("segmentation has no polygon of three points, and is no run lengths")
    clipped = [_clip(p, size) for p in polygons if 2 * len(p) >= MIN_POLYGON]
    flat = [p.ravel().tolist() for p in clipped if 2 * len(p) >= MIN_POLYGON]
    if not flat:
        return None
    merged = coco_mask.merge(coco_mask.frPyObjects(flat, *size))
    return Rle(size=list(size), counts=merged["counts"])


def run_lengths(mask: Any, size: tuple[int, int]) -> Rle:
    """A mask {"size", "counts"}, compressed or not. Raises ValueError, KeyError."""
    if not isinstance(mask, dict):
        raise ValueError(f"a mask is {kind(mask)}, expected an object with size and counts")
    if list_of(mask, "size") != list(size):
        raise ValueError(f"mask size {mask['size']} differs from {list(size)} (height, width)")
    counts = mask["counts"]
    if isinstance(counts, list):
        counts = _compressed(counts, size)
    elif isinstance(counts, str):
        counts = counts.encode()
    else:
        raise ValueError(f"counts are {kind(counts)}, expected text or a list")
    check_counts(counts, size[0] * size[1])
    return Rle(size=list(size), counts=counts)


def _compressed(counts: list[Any], size: tuple[int, int]) -> bytes:
    pixels = size[0] * size[1]
    wrong = [run for run in counts if not isinstance(run, int) or isinstance(run, bool)]
    if wrong:
        raise ValueError(f"a run length is {kind(wrong[0])}, expected a whole number")
    if sum(counts) != pixels or min(counts, default=0) < 0:
        raise ValueError(f"run lengths cover {sum(counts)} of {pixels} pixels")
    compressed: bytes = coco_mask.frPyObjects({"size": list(size), "counts": counts}, *size)[
        "counts"
    ]
    return compressed


def _points(polygon: Any, number: int) -> Points:
    """A list x, y, x, y, ... Raises ValueError that names the polygon by its number."""
    numeric = isinstance(polygon, list) and all(
        isinstance(value, int | float) and not isinstance(value, bool) for value in polygon
    )
    if not numeric or len(polygon) % 2:
        raise ValueError(f"polygon {number}: a polygon is no list of x, y, x, y, ...")
    try:
        wrong = [value for value in polygon if not math.isfinite(value)]
    except OverflowError:  # a whole number beyond all fractions
        wrong = ["of hundreds of digits"]
    if wrong:
        raise ValueError(f"polygon {number}: a coordinate is {wrong[0]}")
    return np.array(polygon, np.float64).reshape(-1, 2)


def _clip(points: Points, size: tuple[int, int]) -> Points:
    """A polygon that reaches further than the size of the image beyond it, clipped there.

    What lies in the image does not change, and neither do polygons that stay nearer: annotations
    reach over the edge by a few pixels. (Sutherland and Hodgman, 1974, one side after the other.)
    """
    for axis, side in enumerate((size[1], size[0])):
        for sign, bound in ((1.0, 2.0 * side), (-1.0, float(side))):
            if len(points) and (sign * points[:, axis]).max() > bound:
                points = _cut(points, axis, sign, bound)
    return points


def _cut(points: Points, axis: int, sign: float, bound: float) -> Points:
    """The part of a polygon with ``sign`` * coordinate <= ``bound``."""
    kept: list[Points] = []
    for a, b in pairwise([points[-1], *points]):
        beyond_a, beyond_b = sign * a[axis] > bound, sign * b[axis] > bound
        if beyond_a != beyond_b:
            # Halves, because the difference of two large numbers may have no finite value.
            start, end = a[axis] / 2, b[axis] / 2
            share = (sign * bound / 2 - start) / (end - start)
            crossing = a * (1 - share) + b * share
            crossing[axis] = sign * bound
            kept.append(crossing)
        if not beyond_b:
            kept.append(b)
    return np.array(kept, np.float64).reshape(-1, 2)
