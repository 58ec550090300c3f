"""Training samples of HODOR: transformed copies of a still with masks (Sec. 3.4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from stemseg_ros.datasets.sequence import (
    CLASS_STEP,
    IGNORE_LABEL,
    DataError,
    LabelledFrame,
    LabelledSequence,
)
from stemseg_ros.masks import mask_box
from stemseg_ros.models.hodor.losses import IGNORED
from stemseg_ros.models.hodor.settings import StillsConfig
from stemseg_ros.training.still_motion import (
    Array,
    Matrix,
    Random,
    Size,
    Warp,
    blur,
    draw_bend,
    draw_path,
    draw_tint,
    recolour,
    side,
)

Mask = npt.NDArray[np.bool_]

MIN_AREA = 400
"""Smallest mask of a still that is used, in pixels."""
MIN_SIDE = 12
"""Shortest side of the box of such a mask, in pixels."""
MIN_VISIBLE = 60
"""Smallest mask of an object in the first frame of a sample, in pixels."""
MERGE_REACH = 5
"""Largest distance, in pixels, of masks that may be merged into one object, such as a rider and a
bicycle."""
MAX_SCALE = 2.5
"""Largest magnification of a still."""
BEND = 0.025
"""Largest standard deviation of the smooth displacement of a copy, relative to its side."""
TRIES = 20
"""Number of stills tried before an object may be hidden in the first frame."""


@dataclass(frozen=True, slots=True, eq=False)
class Still:
    """An image and the masks of its objects."""

    image: Array
    """(H, W, 3), BGR."""
    masks: tuple[Mask, ...]
    """(H, W) each, without small ones."""
    ignored: Mask
    """(H, W)."""


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """Copies of one still."""

    frames: Array
    """(T, H, W, 3), BGR."""
    labels: Array
    """(T, H, W): 0 background, 1..I objects, IGNORED."""


def read_still(frame: LabelledFrame) -> Still:
    """Extract the objects of a labelled frame that are large enough, of any class."""
    labels = frame.labels
    ignored = (labels == IGNORE_LABEL) | ((labels > 0) & (labels % CLASS_STEP == 0))
    counts = np.bincount(labels[~ignored])
    masks = [labels == value for value in np.flatnonzero(counts >= MIN_AREA) if value > 0]
    kept = tuple(mask for mask in masks if min(_tight_box(mask)[2:]) >= MIN_SIDE)
    return Still(frame.image, kept, ignored)


class StillPool:
    """Stills of a mix; caches the number of objects of each."""

    def __init__(
        self, sources: Mapping[str, Sequence[LabelledSequence]], weights: Mapping[str, float]
    ) -> None:
        self._sources = list(sources.values())
        shares = np.array([weights[name] for name in sources])
        self._shares = shares / shares.sum()
        self._objects: dict[str, int] = {}

    def draw(self, random: Random, objects: int = 0) -> Still:
        """Draw a still with at least ``objects`` objects. Raises DataError if none is found."""
        for _ in range(TRIES * TRIES):
            source = self._sources[int(random.choice(len(self._sources), p=self._shares))]
            sequence = source[int(random.integers(len(source)))]
            if self._objects.get(sequence.name, objects) < objects:
                continue
            still = read_still(sequence.read(0))
            self._objects[sequence.name] = len(still.masks)
            if len(still.masks) >= objects:
                return still
        raise DataError(f"found no still with {objects} objects; lower stills.objects")


def draw_sample(
    pool: StillPool, objects: int, size: Size, config: StillsConfig, random: Random
) -> Sample:
    """Draw a sample whose first frame shows ``objects`` objects. Raises DataError."""
    other = pool.draw(random, 1)
    for _ in range(TRIES):
        still = pool.draw(random, objects)
        for _ in range(2):
            sample = make_sample(still, other, objects, size, config, random)
            if min_visible(sample, objects) >= MIN_VISIBLE:
                return sample
    return sample


def min_visible(sample: Sample, objects: int) -> int:
    """Count the pixels of the smallest object in the first frame."""
    counts = np.bincount(sample.labels[0].reshape(-1), minlength=objects + 1)
    return int(counts[1 : objects + 1].min())


def make_sample(
    still: Still, other: Still, objects: int, size: Size, config: StillsConfig, random: Random
) -> Sample:
    """Make copies of a still, between which its objects and the camera move.

    other: a still that may be used as background, or for an object that passes in front.
    """
    masks = _choose_objects(still, objects, config, random)
    scene = _Scene(still, masks, other, size, config, random)
    tint = draw_tint(random, 1.0)
    frames, labels = [], []
    for number in range(config.frames):
        frame, label = scene.draw(number)
        frames.append(blur(recolour(frame, tint, draw_tint(random, 0.25)), random))
        labels.append(label)
    stacks = np.stack(frames), np.stack(labels)
    if random.random() < 0.5:
        return Sample(*(np.ascontiguousarray(stack[:, :, ::-1]) for stack in stacks))
    return Sample(*stacks)


class _Scene:
    """Layers of a sample and their motion."""

    def __init__(
        self,
        still: Still,
        masks: list[Mask],
        other: Still,
        size: Size,
        config: StillsConfig,
        random: Random,
    ) -> None:
        self._still, self._masks, self._size, self._random = still, masks, size, random
        base = _draw_placement(masks[0], size, config, random)
        self._backdrop: Array | None = None
        if random.random() < config.paste:
            self._backdrop = other.image
            self._camera = self._path(_draw_cover(other.image.shape[:2], size, random), config)
        else:
            base = _fill_frame(base, still.image.shape[:2], size)
        self._objects = self._path(base, config)
        self._front: tuple[Array, Mask] | None = None
        if other.masks and random.random() < config.occlude:
            mask = other.masks[int(random.integers(len(other.masks)))]
            self._front = other.image, mask
            self._passing = self._path(_draw_placement(mask, size, config, random), config)

    def _path(self, base: Matrix, config: StillsConfig) -> list[Matrix]:
        motion = float(np.exp(self._random.uniform(*np.log(config.motion))))
        return [step @ base for step in draw_path(self._random, motion, self._size, config.frames)]

    def draw(self, number: int) -> tuple[Array, Array]:
        """Render the image and the labels of a frame."""
        warp = self._make_warp(self._objects[number])
        parts = [warp.mask(mask) for mask in self._masks]
        frame = warp.image(self._still.image)
        label = np.zeros(self._size, np.uint8)
        if self._backdrop is None:
            label[warp.mask(self._still.ignored) > 0] = IGNORED
        else:
            behind = Warp(self._camera[number], self._size).image(self._backdrop)
            frame = _blend(behind, frame, np.clip(np.sum(parts, 0), 0, 1))
        for position, part in enumerate(parts, start=1):
            label[part > 0.5] = position
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


def _choose_objects(
    still: Still, objects: int, config: StillsConfig, random: Random
) -> list[Mask]:
    """Choose masks of a still at random; large ones are more likely."""
    weights = np.sqrt([np.count_nonzero(mask) for mask in still.masks])
    count = min(objects, len(still.masks))
    order = random.choice(len(weights), count, replace=False, p=weights / weights.sum()).tolist()
    chosen = [still.masks[index] for index in order]
    if random.random() < config.merge:
        dilated = cv2.dilate(chosen[0].astype(np.uint8), np.ones((2 * MERGE_REACH + 1,) * 2)) > 0
        for index in set(range(len(weights))) - set(order):
            if (still.masks[index] & dilated).any():
                chosen[0] = chosen[0] | still.masks[index]
    return chosen


def _draw_placement(mask: Mask, size: Size, config: StillsConfig, random: Random) -> Matrix:
    """Draw a similarity transform that gives an object a random size and position."""
    x, y, width, height = _tight_box(mask)
    target = np.exp(random.uniform(*np.log(config.zoom))) * side(size)
    largest = 1.15 * min(size[0] / height, size[1] / width)
    scale = min(float(target / np.sqrt(mask.sum())), largest, MAX_SCALE)
    position = [
        length / 2 + random.uniform(-0.5, 0.5) * max(length - scale * extent, 0.2 * length)
        for length, extent in zip(size, (height, width), strict=True)
    ]
    return _similarity(scale, (x + width / 2, y + height / 2), (position[1], position[0]))


def _fill_frame(base: Matrix, image: tuple[int, ...], size: Size) -> Matrix:
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


def _tight_box(mask: Mask) -> tuple[int, int, int, int]:
    """Return x, y, width, height of a mask that is not empty."""
    box = mask_box(mask)
    assert box is not None
    return box


def _similarity(scale: float, source: tuple[float, float], target: tuple[float, float]) -> Matrix:
    """Return the transform that scales and maps the point ``source`` (x, y) to ``target``."""
    matrix = np.diag([scale, scale, 1.0])
    matrix[:2, 2] = np.array(target) - scale * np.array(source)
    return matrix
