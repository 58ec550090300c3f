"""Stills with masks as training samples of HODOR: moved copies of one image (Sec. 3.4)."""

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
    draw_tint,
    recolour,
    side,
    walk,
)

Mask = npt.NDArray[np.bool_]

MIN_AREA = 400
"""Pixels of a still that make a mask worth learning from."""
MIN_SIDE = 12
"""The same for the sides of its box."""
MIN_SEEN = 80
"""Pixels of the first frame that every object of a sample has."""
MERGE_REACH = 5
"""Masks so many pixels apart touch, and may become one object: a rider and a bicycle."""
SHARPEST = 2.5
"""Most pixels of a copy per pixel of a still, along an axis."""
BEND = 0.025
"""Most standard deviation of a copy's smooth displacement, in shares of its side."""
TRIES = 20
"""Stills after which an object of a sample may be out of sight."""


@dataclass(frozen=True, slots=True, eq=False)
class Still:
    """An image and the masks of its objects."""

    image: Array
    """(H, W, 3), BGR."""
    masks: tuple[Mask, ...]
    """(H, W) each, large enough to learn from."""
    ignored: Mask
    """(H, W)."""


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """The copies of one still."""

    frames: Array
    """(T, H, W, 3), BGR."""
    labels: Array
    """(T, H, W): 0 background, 1..I objects, IGNORED."""


def read_still(frame: LabelledFrame) -> Still:
    """The objects of a labelled frame that are large enough; their classes do not matter."""
    labels = frame.labels
    whole = (labels == IGNORE_LABEL) | ((labels > 0) & (labels % CLASS_STEP == 0))
    counts = np.bincount(labels[~whole])
    masks = [labels == value for value in np.flatnonzero(counts >= MIN_AREA) if value > 0]
    kept = tuple(mask for mask in masks if min(_tight_box(mask)[2:]) >= MIN_SIDE)
    return Still(frame.image, kept, whole)


class StillPool:
    """The stills of a mix; remembers how many objects each has."""

    def __init__(
        self, sources: Mapping[str, Sequence[LabelledSequence]], weights: Mapping[str, float]
    ) -> None:
        self._sources = list(sources.values())
        shares = np.array([weights[name] for name in sources])
        self._shares = shares / shares.sum()
        self._objects: dict[str, int] = {}

    def draw(self, random: Random, objects: int = 0) -> Still:
        """A random still with at least so many objects. Raises DataError if none is found."""
        for _ in range(TRIES * TRIES):
            source = self._sources[int(random.choice(len(self._sources), p=self._shares))]
            sequence = source[int(random.integers(len(source)))]
            if self._objects.get(sequence.name, objects) < objects:
                continue
            still = read_still(sequence.read(0))
            self._objects[sequence.name] = len(still.masks)
            if len(still.masks) >= objects:
                return still
        raise DataError(f"no still with {objects} objects found; lower stills.objects")


def draw_sample(
    pool: StillPool, objects: int, size: Size, config: StillsConfig, random: Random
) -> Sample:
    """A sample whose first frame shows ``objects`` objects. Raises DataError."""
    other = pool.draw(random, 1)
    for _ in range(TRIES):
        still = pool.draw(random, objects)
        for _ in range(2):
            sample = make_sample(still, other, objects, size, config, random)
            if min_seen(sample, objects) >= MIN_SEEN:
                return sample
    return sample


def min_seen(sample: Sample, objects: int) -> int:
    """Pixels of the smallest object in the first frame."""
    counts = np.bincount(sample.labels[0].reshape(-1), minlength=objects + 1)
    return int(counts[1 : objects + 1].min())


def make_sample(
    still: Still, other: Still, objects: int, size: Size, config: StillsConfig, random: Random
) -> Sample:
    """Copies of a still between which its objects and the camera move.

    other: a still whose image may become the background, or whose object may pass in front.
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
    """What moves in a sample, and how."""

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
        base = _focus(masks[0], size, config, random)
        self._backdrop: Array | None = None
        if random.random() < config.paste:
            self._backdrop = other.image
            self._camera = self._path(_cover(other.image.shape[:2], size, random), config)
        else:
            base = _fill(base, still.image.shape[:2], size)
        self._objects = self._path(base, config)
        self._front: tuple[Array, Mask] | None = None
        if other.masks and random.random() < config.occlude:
            mask = other.masks[int(random.integers(len(other.masks)))]
            self._front = other.image, mask
            self._passing = self._path(_focus(mask, size, config, random), config)

    def _path(self, base: Matrix, config: StillsConfig) -> list[Matrix]:
        motion = float(np.exp(self._random.uniform(*np.log(config.motion))))
        return [step @ base for step in walk(self._random, motion, self._size, config.frames)]

    def draw(self, number: int) -> tuple[Array, Array]:
        """Image and labels of a frame."""
        warp = self._bent(self._objects[number])
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
            warp = self._bent(self._passing[number])
            share = warp.mask(self._front[1])
            frame = _blend(frame, warp.image(self._front[0]), share)
            label[share > 0.5] = 0
        return frame, label

    def _bent(self, matrix: Matrix) -> Warp:
        return Warp(matrix, self._size, draw_bend(self._random, BEND, self._size))


def _blend(behind: Array, front: Array, share: npt.NDArray[np.float32]) -> Array:
    alpha = share[..., None]
    return np.asarray(front * alpha + behind * (1 - alpha), np.uint8)


def _choose_objects(
    still: Still, objects: int, config: StillsConfig, random: Random
) -> list[Mask]:
    """Some masks of a still, drawn with a preference for large ones."""
    weights = np.sqrt([np.count_nonzero(mask) for mask in still.masks])
    count = min(objects, len(still.masks))
    order = random.choice(len(weights), count, replace=False, p=weights / weights.sum()).tolist()
    chosen = [still.masks[index] for index in order]
    if random.random() < config.merge:
        grown = cv2.dilate(chosen[0].astype(np.uint8), np.ones((2 * MERGE_REACH + 1,) * 2)) > 0
        for index in set(range(len(weights))) - set(order):
            if (still.masks[index] & grown).any():
                chosen[0] = chosen[0] | still.masks[index]
    return chosen


def _focus(mask: Mask, size: Size, config: StillsConfig, random: Random) -> Matrix:
    """A similarity that brings an object to a random size and place."""
    x, y, width, height = _tight_box(mask)
    wanted = np.exp(random.uniform(*np.log(config.zoom))) * side(size)
    largest = 1.15 * min(size[0] / height, size[1] / width)
    scale = min(float(wanted / np.sqrt(mask.sum())), largest, SHARPEST)
    place = [
        length / 2 + random.uniform(-0.5, 0.5) * max(length - scale * extent, 0.2 * length)
        for length, extent in zip(size, (height, width), strict=True)
    ]
    return _similarity(scale, (x + width / 2, y + height / 2), (place[1], place[0]))


def _fill(base: Matrix, image: tuple[int, ...], size: Size) -> Matrix:
    """The nearest similarity under which an image leaves no edge of the frame empty."""
    scale = max(base[0, 0], *(length / extent for length, extent in zip(size, image, strict=True)))
    center = np.array([size[1] / 2, size[0] / 2])
    shift = center + (base[:2, 2] - center) * scale / base[0, 0]
    lowest = [size[1] - scale * image[1], size[0] - scale * image[0]]
    return _similarity(scale, (0, 0), tuple(np.clip(shift, lowest, 0)))


def _cover(scene: tuple[int, ...], size: Size, random: Random) -> Matrix:
    """A similarity under which a scene covers more than the frame."""
    scale = random.uniform(1.05, 1.6) * max(size[0] / scene[0], size[1] / scene[1])
    shift = [random.uniform(-1, 0) * (scale * a - b) for a, b in zip(scene, size, strict=False)]
    return _similarity(scale, (0, 0), (shift[1], shift[0]))


def _tight_box(mask: Mask) -> tuple[int, int, int, int]:
    """x, y, width, height of a mask that is not empty."""
    box = mask_box(mask)
    assert box is not None
    return box


def _similarity(scale: float, source: tuple[float, float], target: tuple[float, float]) -> Matrix:
    """Scales, and brings one point (x, y) to another."""
    matrix = np.diag([scale, scale, 1.0])
    matrix[:2, 2] = np.array(target) - scale * np.array(source)
    return matrix
