"""Requests of ``~/track_masks`` as prompts."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from stemseg.msg import Region

from stemseg_ros.errors import PromptError
from stemseg_ros.masks import Rle, encode
from stemseg_ros.media.messages import ImageMessageError, labels_from_message
from stemseg_ros.records import Prompt

MAX_OBJECTS = 255
"""Most objects of a request."""
POINT_SHARE = 1 / 40
"""Radius of the disc that stands for a point, in shares of the shorter side of the image."""
MIN_RADIUS = 4.0
"""Its least radius, in pixels."""

Size = tuple[int, int]
"""(H, W)."""


def read_prompts(
    request: Any, size: Size, classes: Sequence[str], free_ids: Callable[[int], tuple[int, ...]]
) -> tuple[Prompt, ...]:
    """The objects of a stemseg/srv/TrackMasks request, in the order in which it counts them.

    size: of the image that it means; classes: names, by class id from 1; free_ids: the lowest ids
    not in use. Raises PromptError for what cannot be read; whether the masks can be followed is
    up to the tracker.
    """
    masks = [*_label_masks(request.labels, size, len(request.regions))]
    for number, region in enumerate(request.regions, start=1):
        try:
            masks.append(_region_mask(region, size))
        except PromptError as error:
            raise PromptError(f"region {number}: {error}") from error
    if not masks:
        raise PromptError("no object: 'labels' holds no pixel above 0, and 'regions' is empty")
    ids = _choose_ids(list(request.track_ids), len(masks), free_ids)
    class_ids = _class_ids(list(request.class_names), len(masks), classes)
    return tuple(map(Prompt, ids, class_ids, masks))


def _label_masks(message: Any, size: Size, others: int) -> list[Rle]:
    """Masks of a label image by ascending value; none of an empty message."""
    values: npt.NDArray[np.uint16] = np.zeros(0, np.uint16)
    if message.height or message.width or len(message.data):
        labels = _read_labels(message, size)
        values = np.unique(labels[labels > 0])
    if len(values) + others > MAX_OBJECTS:
        raise PromptError(f"{len(values) + others} objects; at most {MAX_OBJECTS} are accepted")
    return [encode(labels == value) for value in values]


def _read_labels(message: Any, size: Size) -> npt.NDArray[np.uint16]:
    if (message.height, message.width) != size:
        raise PromptError(
            f"labels: {message.width}x{message.height} pixels, the image {size[1]}x{size[0]}"
        )
    try:
        return labels_from_message(message)
    except ImageMessageError as error:
        raise PromptError(f"labels: {error}") from error


def _region_mask(region: Any, size: Size) -> Rle:
    if region.kind == Region.MASK:
        if len(region.mask_rle) > size[0] * size[1] + 1:  # as many runs as there can be
            raise PromptError(f"{len(region.mask_rle)} bytes of run lengths are no mask")
        return {"size": list(size), "counts": bytes(region.mask_rle)}
    if region.kind not in (Region.BOX, Region.POINT):
        raise PromptError(f"kind {region.kind} does not exist: MASK 0, BOX 1, POINT 2")
    if region.kind == Region.BOX:
        return _box_mask(_finite(region.x, region.y, region.width, region.height), size)
    return _point_mask(_finite(region.x, region.y), size)


def _finite(*numbers: float) -> tuple[float, ...]:
    if not all(map(math.isfinite, numbers)):
        shown = ", ".join(f"{number:g}" for number in numbers)
        raise PromptError(f"its numbers are not all finite: {shown}")
    return numbers


def _box_mask(box: tuple[float, ...], size: Size) -> Rle:
    """The ellipse inside a box: most objects leave its corners free."""
    x, y, width, height = box
    if width < 1 or height < 1:
        raise PromptError(f"the box of {width:g}x{height:g} pixels holds none")
    if x < 0 or y < 0 or x + width > size[1] or y + height > size[0]:
        raise PromptError(
            f"the box from ({x:g}, {y:g}) to ({x + width:g}, {y + height:g}) leaves the image of "
            f"{size[1]}x{size[0]} pixels"
        )
    return _ellipse((x + width / 2, y + height / 2), (width / 2, height / 2), size)


def _point_mask(point: tuple[float, ...], size: Size) -> Rle:
    """A small disc around a point."""
    x, y = point
    if not (0 <= x < size[1] and 0 <= y < size[0]):
        raise PromptError(
            f"the point ({x:g}, {y:g}) lies outside of the image of {size[1]}x{size[0]} pixels"
        )
    radius = max(MIN_RADIUS, POINT_SHARE * min(size))
    return _ellipse((x, y), (radius, radius), size)


def _ellipse(centre: tuple[float, float], axes: tuple[float, float], size: Size) -> Rle:
    """centre: (x, y); axes: half of width and height; in pixels."""
    rows, columns = np.ogrid[: size[0], : size[1]]
    across = (columns + 0.5 - centre[0]) / axes[0]
    down = (rows + 0.5 - centre[1]) / axes[1]
    return encode(across**2 + down**2 <= 1)


def _choose_ids(
    given: list[int], objects: int, free_ids: Callable[[int], tuple[int, ...]]
) -> list[int]:
    """Track ids with those filled in that the node chooses."""
    if len(given) not in (0, objects):
        raise PromptError(f"{len(given)} track_ids for {_count(objects)}; one each, or none")
    wanted = given or [0] * objects
    free = iter([n for n in free_ids(2 * objects) if n not in wanted])
    return [n or next(free) for n in wanted]


def _class_ids(names: list[str], objects: int, classes: Sequence[str]) -> list[int]:
    if len(names) not in (0, 1, objects):
        raise PromptError(
            f"{len(names)} class_names for {_count(objects)}; one each, one for all, or none"
        )
    unknown = sorted(set(names) - set(classes))
    if unknown:
        raise PromptError(f"no class '{unknown[0][:40]}'; classes are {', '.join(classes)}")
    ids = [classes.index(name) + 1 for name in names] or [1]
    return ids * objects if len(ids) == 1 else ids


def _count(objects: int) -> str:
    return f"{objects} object{'s' * (objects != 1)}"
