"""Masks of the messages: run lengths, boxes, label images.

Needs numpy and pycocotools alone: this is what a subscriber or a viewer imports.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco

if TYPE_CHECKING:
    from stemseg_ros.records import FrameResult

Bools = npt.NDArray[np.bool_]
Box = tuple[int, int, int, int]
"""x, y, width, height in pixels."""


class Rle(TypedDict):
    """A binary mask in COCO's compressed run-length form, as pycocotools reads and writes it."""

    size: list[int]
    """[height, width] of the source image."""
    counts: bytes
    """Compressed column-major run lengths."""


def encode(mask: Bools) -> Rle:
    """Encode a bool (H, W) mask as COCO compressed run lengths."""
    rle = coco.encode(np.asfortranarray(mask, dtype=np.uint8))
    return Rle(size=[int(side) for side in rle["size"]], counts=rle["counts"])


def encode_box(crop: Bools, top: int, left: int, size: tuple[int, int]) -> Rle:
    """Encode a mask that is empty outside a box, from the box alone.

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
    """Decode compressed run lengths to a bool (H, W) mask.

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


def mask_box(mask: Bools) -> Box | None:
    """Find the tight box of a bool (H, W) mask; None if the mask is empty."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not rows.size:
        return None
    x, y = int(columns[0]), int(rows[0])
    return x, y, int(columns[-1]) - x + 1, int(rows[-1]) - y + 1


def check_counts(counts: bytes, pixels: int) -> None:
    """Raises ValueError unless compressed run lengths fill an image of so many pixels exactly.

    pycocotools does not check: it leaves the rest of the image undefined if the runs are too
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
