"""Labels at image size, computed only where an object can have the largest probability.

Resizing all maps of a frame to the image took longer than the network; most of it is background.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from stemseg_ros.geometry import Letterbox

ROUNDING = 1e-3
"""Relative tolerance of the bound on the winner's probability."""


class Span(NamedTuple):
    """Consecutive rows or columns."""

    start: int
    stop: int


class Box(NamedTuple):
    """Rows and columns of an image."""

    rows: Span
    columns: Span

    @property
    def area(self) -> int:
        """Number of pixels."""
        return (self.rows.stop - self.rows.start) * (self.columns.stop - self.columns.start)

    @property
    def slices(self) -> tuple[slice, slice]:
        """Slices of an (H, W) map."""
        return slice(*self.rows), slice(*self.columns)


@dataclass(frozen=True, slots=True, eq=False)
class LabelMap:
    """The winner of each pixel of an image."""

    numbers: Tensor
    """int64 (H, W): number of the object from 1 on, 0 for background."""
    confidence: Tensor
    """float32 (H, W) in [0, 1]: probability of that object; 0 for background."""


def label_pixels(background: Tensor, objects: Tensor, geometry: Letterbox) -> LabelMap:
    """Find the largest of all probabilities at each pixel of the image; of equal ones the first.

    background: (B, H', W') and objects: (I, H', W'), at padded input size; together at most 1 in
    each pixel. The result is that of resizing all maps bilinearly to the image.
    """
    height, width = geometry.resized_size
    background, objects = background[:, :height, :width], objects[:, :height, :width]
    numbers = torch.zeros(geometry.image_size, dtype=torch.int64, device=objects.device)
    confidence = torch.zeros(geometry.image_size, device=objects.device)
    # Resized values are means of values at input size, and the largest of N that add up to 1 is
    # at least 1 / N.
    least = (1 - ROUNDING) / (len(background) + len(objects))
    boxes = _find_boxes(objects >= least, geometry)
    for number, box in boxes.items():
        best, labels = confidence[box.slices], numbers[box.slices]
        found = _resize_part(objects[number - 1 : number], box, geometry)[0]
        labels[found > best] = number
        torch.maximum(best, found, out=best)
    for box in _cover(list(boxes.values())):
        best, labels = confidence[box.slices], numbers[box.slices]
        lost = _resize_part(background, box, geometry).amax(0) >= best
        labels[lost], best[lost] = 0, 0.0
    return LabelMap(numbers, confidence)


def _find_boxes(inside: Tensor, geometry: Letterbox) -> dict[int, Box]:
    """Find the pixels of the image on which the pixels of bool (I, h, w) have an influence; by
    number from 1 on, without empty ones."""
    sides = torch.cat((inside.any(2), inside.any(1)), 1).cpu()
    boxes = {}
    for number, side in enumerate(sides, 1):
        rows, columns = (
            part.nonzero().flatten().tolist() for part in side.split(geometry.resized_size)
        )
        if rows:
            spans = (
                _influence(part[0], part[-1], resized, full)
                for part, resized, full in zip(
                    (rows, columns), geometry.resized_size, geometry.image_size, strict=True
                )
            )
            boxes[number] = Box(*spans)
    return boxes


def _influence(first: int, last: int, resized: int, full: int) -> Span:
    """Return the rows of the image that take values from rows ``first`` to ``last``."""
    scale = full / resized
    start, stop = int((first - 0.5) * scale - 0.5), int((last + 1.5) * scale - 0.5) + 2
    return Span(max(0, start), min(full, stop))


def _cover(boxes: list[Box]) -> list[Box]:
    """Cover boxes by themselves, or by one that contains them if it is smaller than their sum."""
    if not boxes:
        return []
    rows, columns = (
        Span(min(span.start for span in spans), max(span.stop for span in spans))
        for spans in zip(*boxes, strict=True)
    )
    around = Box(rows, columns)
    return [around] if around.area < sum(box.area for box in boxes) else boxes


def _resize_part(maps: Tensor, box: Box, geometry: Letterbox) -> Tensor:
    """Compute a part of maps (N, h, w) resized to the image, bilinearly: (N, rows, columns)."""
    rows, columns = (
        (torch.arange(*span, device=maps.device) + 0.5) * (2 / side) - 1
        for span, side in zip(box, geometry.image_size, strict=True)
    )
    grid = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), -1)
    return F.grid_sample(maps[None], grid[None], padding_mode="border", align_corners=False)[0]
