"""Samples of HODOR from stills: transformed copies of an image and its masks (Sec. 3.4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from stemseg_ros.datasets.sequence import (
    CLASS_STEP,
    IGNORE_LABEL,
    LabelArray,
    LabelledFrame,
    is_object,
)
from stemseg_ros.masks import mask_box
from stemseg_ros.models.hodor.settings import StillsConfig
from stemseg_ros.training.still_motion import (
    Array,
    Matrix,
    Random,
    Size,
    Warp,
    draw_bend,
    draw_path,
    side,
)

Mask = npt.NDArray[np.bool_]

MIN_AREA = 400
"""Smallest mask of a still that is used, in pixels."""
MIN_SIDE = 12
"""Shortest side of the box of such a mask, in pixels."""
MERGE_REACH = 5
"""Largest distance, in pixels, of masks that may be merged into one object, such as a rider and a
bicycle."""
MAX_SCALE = 2.5
"""Largest magnification of a still."""
BEND = 0.025
"""Largest standard deviation of the smooth displacement of a copy, relative to its side."""
FIRST_LABEL = CLASS_STEP + 1
"""Label of the first object of a sample; the others follow."""


@dataclass(frozen=True, slots=True, eq=False)
class Still:
    """An image and the masks of its objects."""

    image: Array
    """(H, W, 3), BGR."""
    masks: tuple[Mask, ...]
    """(H, W) each, without small ones."""
    ignored: Mask
    """(H, W)."""


def read_still(frame: LabelledFrame) -> Still:
    """Extract the objects of a labelled frame that are large enough, of any class."""
    masks = tuple(frame.labels == value for value in find_objects(frame.labels))
    return Still(frame.image, masks, is_ignored(frame.labels))


def find_objects(labels: LabelArray) -> list[int]:
    """List the labels of the objects that are large enough."""
    large = np.flatnonzero(np.bincount(labels.reshape(-1)) >= MIN_AREA)
    objects: list[int] = large[is_object(large)].tolist()
    return [value for value in objects if min(tight_box(labels == value)[2:]) >= MIN_SIDE]


def is_ignored(labels: LabelArray) -> Mask:
    """Where labels are unknown, or those of groups."""
    return np.asarray((labels > 0) & ~is_object(labels))


def choose(areas: Sequence[int], count: int, random: Random) -> list[int]:
    """Choose ``count`` objects at random by index; large ones are more likely."""
    weights = np.sqrt(areas)
    share = weights / weights.sum()
    return list(random.choice(len(weights), count, replace=False, p=share).tolist())


class StillCopies:
    """Copies of a still, between which its objects and the camera move: layers and their motion.

    other: a still that may be used as background, or for an object that passes in front.
    """

    def __init__(
        self,
        still: Still,
        other: Still,
        objects: int,
        size: Size,
        config: StillsConfig,
        random: Random,
    ) -> None:
        self._still, self._size, self._random = still, size, random
        self._masks = _choose_masks(still, objects, config, random)
        base = draw_placement(self._masks[0], size, config, random)
        self._backdrop: Array | None = None
        if random.random() < config.paste:
            self._backdrop = other.image
            self._camera = self._path(_draw_cover(other.image.shape[:2], size, random), config)
        else:
            base = fill_frame(base, still.image.shape[:2], size)
        self._objects = self._path(base, config)
        self._front: tuple[Array, Mask] | None = None
        if other.masks and random.random() < config.occlude:
            mask = other.masks[int(random.integers(len(other.masks)))]
            self._front = other.image, mask
            self._passing = self._path(draw_placement(mask, size, config, random), config)

    def _path(self, base: Matrix, config: StillsConfig) -> list[Matrix]:
        motion = float(np.exp(self._random.uniform(*np.log(config.motion))))
        return [step @ base for step in draw_path(self._random, motion, self._size, config.frames)]

    def draw(self, number: int) -> tuple[Array, LabelArray]:
        """Render the image and the labels of a frame."""
        warp = self._make_warp(self._objects[number])
        parts = [warp.mask(mask) for mask in self._masks]
        frame = warp.image(self._still.image)
        label = np.zeros(self._size, np.int32)
        if self._backdrop is None:
            label[warp.mask(self._still.ignored) > 0] = IGNORE_LABEL
        else:
            behind = Warp(self._camera[number], self._size).image(self._backdrop)
            frame = _blend(behind, frame, np.clip(np.sum(parts, 0), 0, 1))
        for label_of_part, part in enumerate(parts, start=FIRST_LABEL):
            label[part > 0.5] = label_of_part
        if self._front is not None:
            warp = self._make_warp(self._passing[number])
            share = warp.mask(self._front[1])
            frame = _blend(frame, warp.image(self._front[0]), share)
            label[share > 0.5] = 0
        return frame, label

    def _make_warp(self, matrix: Matrix) -> Warp:
        return Warp(matrix, self._size, draw_bend(self._random, BEND, self._size))


def _blend(behind: Array, front: Array, share: npt.NDArray[np.float32]) -> Array:
    alpha = share[..., None]
    return np.asarray(front * alpha + behind * (1 - alpha), np.uint8)


def _choose_masks(still: Still, objects: int, config: StillsConfig, random: Random) -> list[Mask]:
    order = choose([int(mask.sum()) for mask in still.masks], objects, random)
    chosen = [still.masks[index] for index in order]
    if random.random() < config.merge:
        dilated = cv2.dilate(chosen[0].astype(np.uint8), np.ones((2 * MERGE_REACH + 1,) * 2)) > 0
        for index in set(range(len(still.masks))) - set(order):
            if (still.masks[index] & dilated).any():
                chosen[0] = chosen[0] | still.masks[index]
    return chosen


def draw_placement(mask: Mask, size: Size, config: StillsConfig, random: Random) -> Matrix:
    """Draw a similarity transform that gives an object a random size and position."""
    x, y, width, height = tight_box(mask)
    target = np.exp(random.uniform(*np.log(config.zoom))) * side(size)
    largest = 1.15 * min(size[0] / height, size[1] / width)
    scale = min(float(target / np.sqrt(mask.sum())), largest, MAX_SCALE)
    position = [
        length / 2 + random.uniform(-0.5, 0.5) * max(length - scale * extent, 0.2 * length)
        for length, extent in zip(size, (height, width), strict=True)
    ]
    return _similarity(scale, (x + width / 2, y + height / 2), (position[1], position[0]))


def fill_frame(base: Matrix, image: tuple[int, ...], size: Size) -> Matrix:
    """Adjust a similarity transform minimally so that the image covers the whole frame."""
    scale = max(base[0, 0], *(length / extent for length, extent in zip(size, image, strict=True)))
    center = np.array([size[1] / 2, size[0] / 2])
    shift = center + (base[:2, 2] - center) * scale / base[0, 0]
    lowest = [size[1] - scale * image[1], size[0] - scale * image[0]]
    return _similarity(scale, (0, 0), tuple(np.clip(shift, lowest, 0)))


def _draw_cover(scene: tuple[int, ...], size: Size, random: Random) -> Matrix:
    """Draw a similarity transform under which a scene covers more than the frame."""
    scale = random.uniform(1.05, 1.6) * max(size[0] / scene[0], size[1] / scene[1])
    shift = [random.uniform(-1, 0) * (scale * a - b) for a, b in zip(scene, size, strict=False)]
    return _similarity(scale, (0, 0), (shift[1], shift[0]))


def tight_box(mask: Mask) -> tuple[int, int, int, int]:
    """Return x, y, width, height of a mask that is not empty."""
    box = mask_box(mask)
    assert box is not None
    return box


def _similarity(scale: float, source: tuple[float, float], target: tuple[float, float]) -> Matrix:
    """Return the transform that scales and maps the point ``source`` (x, y) to ``target``."""
    matrix = np.diag([scale, scale, 1.0])
    matrix[:2, 2] = np.array(target) - scale * np.array(source)
    return matrix
