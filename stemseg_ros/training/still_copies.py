"""Stills with masks as training samples of HODOR: three moved copies of one image (Sec. 3.4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.uint8]
Matrix = npt.NDArray[np.float64]
"""float64 (3, 3), from pixels of a still to pixels of a copy."""
Random = np.random.Generator

FRAMES = 3
IGNORED = 255
"""Label of pixels that count neither as background nor as an object."""
IGNORED_REGION = 10000
"""The same in a label PNG, as in KITTI-MOTS."""
CLASS_STEP = 1000
MIN_AREA = 400
"""Pixels of a still that make a mask worth learning from."""
MIN_SIDE = 12
"""The same for the sides of its box."""
MERGE_REACH = 5
"""Masks so many pixels apart touch, and may become one object: a rider and a bicycle."""


@dataclass(frozen=True, slots=True)
class StillsRecipe:
    """How samples are made."""

    objects: int = 3
    """Most objects of a sample."""
    paste: float = 0.45
    """Share of the samples whose objects move over another still."""
    merge: float = 0.3
    """Share of the objects that take a touching neighbour in."""
    motion: tuple[float, float] = (0.01, 0.12)
    """Range of the standard deviation of an object's step, in shares of the output's size."""
    zoom: tuple[float, float] = (0.15, 0.75)
    """Range of the size of the first object (root of its area), in shares of the output's."""


@dataclass(frozen=True, slots=True, eq=False)
class Still:
    """An image and the masks of its objects."""

    image: Array
    """(H, W, 3), BGR."""
    masks: npt.NDArray[np.bool_]
    """(N, H, W), large enough to learn from."""
    ignored: npt.NDArray[np.bool_]
    """(H, W)."""


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """The copies of one still."""

    frames: Array
    """(3, H, W, 3), BGR."""
    labels: Array
    """(3, H, W): 0 background, 1..I objects, IGNORED."""


def find_stills(folders: Sequence[Path]) -> list[tuple[Path, Path]]:
    """(image, label PNG) of every labelled still in folders, searched with their subfolders."""
    pairs = []
    for folder in folders:
        for image in sorted(folder.rglob("*.jpg")):
            label = image.with_suffix(".png")
            if label.is_file():
                pairs.append((image, label))
    return pairs


def read_still(image: Path, label: Path) -> Still | None:
    """Read a still; None if no object is large enough."""
    pixels = cv2.imread(str(image), cv2.IMREAD_COLOR)
    ids = cv2.imread(str(label), cv2.IMREAD_UNCHANGED)
    if pixels is None or ids is None or ids.shape != pixels.shape[:2]:
        raise ValueError(f"{image}: image or label PNG not readable, or of different sizes")
    values, counts = np.unique(ids, return_counts=True)
    kept = [
        ids == value
        for value, count in zip(values, counts, strict=True)
        if count >= MIN_AREA and value not in (0, IGNORED_REGION) and value % CLASS_STEP
    ]
    kept = [mask for mask in kept if min(_box(mask)[2:]) >= MIN_SIDE]
    if not kept:
        return None
    untold = (ids == IGNORED_REGION) | ((ids > 0) & (ids % CLASS_STEP == 0))
    return Still(pixels, np.stack(kept), untold)


def make_sample(
    still: Still, other: Still, size: tuple[int, int], recipe: StillsRecipe, random: Random
) -> Sample:
    """Three copies of a still, (H, W) each, between which its objects and the camera move.

    other: a still whose image may become the background.
    """
    masks = _choose_objects(still, recipe, random)
    base = _focus(masks[0], size, recipe, random)
    camera = _walk(random, recipe, size)
    pasted = random.random() < recipe.paste
    scene = other.image if pasted else still.image
    if pasted:
        base_scene, objects = _cover(scene.shape[:2], size, random), _walk(random, recipe, size)
    else:
        base_scene, objects = base, camera
    flip = random.random() < 0.5
    tint = _colours(random, 1.0)
    frames, labels = [], []
    for number in range(FRAMES):
        bend = _bend(size, random)
        frame, _ = _warp(scene, camera[number] @ base_scene, size, None if pasted else bend)
        label = np.zeros(size, np.uint8)
        moved = objects[number] @ base
        if not pasted:
            ignored, _ = _warp(still.ignored.astype(np.uint8), moved, size, bend, cv2.INTER_NEAREST)
            label[ignored > 0] = IGNORED
        parts = [
            _warp(mask.astype(np.float32), moved, size, bend)[0] for mask in masks
        ]
        if pasted:
            alpha = np.clip(sum(parts), 0, 1)[..., None]
            own, _ = _warp(still.image, moved, size, bend)
            frame = (own * alpha + frame * (1 - alpha)).astype(np.uint8)
        for position, part in enumerate(parts, start=1):
            label[part > 0.5] = position
        frame = _recolour(frame, tint, _colours(random, 0.25))
        frames.append(_blur(frame, random))
        labels.append(label)
    stacks = np.stack(frames), np.stack(labels)
    if flip:
        stacks = stacks[0][:, :, ::-1].copy(), stacks[1][:, :, ::-1].copy()
    return Sample(*stacks)


def _choose_objects(
    still: Still, recipe: StillsRecipe, random: Random
) -> list[npt.NDArray[np.bool_]]:
    """Some masks of a still, the first drawn with a preference for large ones."""
    masks = still.masks
    weights = np.sqrt(masks.sum((1, 2)))
    count = min(int(random.integers(1, recipe.objects + 1)), len(masks))
    order = random.choice(len(masks), count, replace=False, p=weights / weights.sum())
    chosen = [masks[index] for index in order]
    if random.random() < recipe.merge and len(masks) > count:
        kernel = np.ones((2 * MERGE_REACH + 1,) * 2, np.uint8)
        grown = cv2.dilate(chosen[0].astype(np.uint8), kernel) > 0
        for index in set(range(len(masks))) - set(order.tolist()):
            if (masks[index] & grown).any():
                chosen[0] = chosen[0] | masks[index]
    return chosen


def _focus(
    mask: npt.NDArray[np.bool_], size: tuple[int, int], recipe: StillsRecipe, random: Random
) -> Matrix:
    """A similarity that brings an object to a random size and place."""
    x, y, width, height = _box(mask)
    extent = np.sqrt(mask.sum())
    wanted = np.exp(random.uniform(*np.log(recipe.zoom))) * np.sqrt(size[0] * size[1])
    largest = 1.15 * min(size[0] / height, size[1] / width)
    smallest = 0.6 * max(size[0] / mask.shape[0], size[1] / mask.shape[1])
    scale = float(np.clip(wanted / extent, min(smallest, largest), min(largest, 2.5)))
    center = (x + width / 2, y + height / 2)
    spread = [max(side - scale * length, 0.2 * side) for side, length in zip(size, (height, width))]
    place = [side / 2 + random.uniform(-0.5, 0.5) * free for side, free in zip(size, spread)]
    return np.array(
        [
            [scale, 0, place[1] - scale * center[0]],
            [0, scale, place[0] - scale * center[1]],
            [0, 0, 1],
        ]
    )


def _cover(scene: Sequence[int], size: tuple[int, int], random: Random) -> Matrix:
    """A similarity under which a scene covers more than the output."""
    scale = random.uniform(1.05, 1.6) * max(size[0] / scene[0], size[1] / scene[1])
    shift = [random.uniform(-1, 0) * (scale * a - b) for a, b in zip(scene, size)]
    return np.array([[scale, 0, shift[1]], [0, scale, shift[0]], [0, 0, 1]])


def _walk(random: Random, recipe: StillsRecipe, size: tuple[int, int]) -> list[Matrix]:
    """Where something lies in each frame: a random walk of similarities and shears."""
    motion = np.exp(random.uniform(*np.log(recipe.motion)))
    walk = [np.eye(3)]
    for _ in range(FRAMES - 1):
        walk.append(_step(random, motion, size) @ walk[-1])
    return walk


def _step(random: Random, motion: float, size: tuple[int, int]) -> Matrix:
    angle, shear = random.normal(0, 1.2 * motion), random.normal(0, 0.7 * motion)
    scale = np.exp(random.normal(0, motion, 2) * [0.4, 0.4] + random.normal(0, motion))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    linear = turn @ np.array([[1, shear], [0, 1]]) @ np.diag(scale)
    center = np.array([size[1] / 2, size[0] / 2])
    shift = random.normal(0, motion, 2) * np.sqrt(size[0] * size[1])
    matrix = np.eye(3)
    matrix[:2, :2], matrix[:2, 2] = linear, center + shift - linear @ center
    return matrix


def _bend(size: tuple[int, int], random: Random) -> npt.NDArray[np.float32]:
    """float32 (H, W, 2): a smooth displacement, pixels, for what does not move rigidly."""
    strength = random.uniform(0, 0.02) * np.sqrt(size[0] * size[1])
    knots = random.normal(0, strength, (5, 6, 2)).astype(np.float32)
    return np.asarray(cv2.resize(knots, size[::-1], interpolation=cv2.INTER_CUBIC))


def _warp(
    image: npt.NDArray[np.generic],
    matrix: Matrix,
    size: tuple[int, int],
    bend: npt.NDArray[np.float32] | None,
    interpolation: int = cv2.INTER_LINEAR,
) -> tuple[npt.NDArray[np.generic], None]:
    """An image moved by a matrix and bent; what lies outside is zero."""
    inverse = np.linalg.inv(matrix)
    rows, columns = np.mgrid[: size[0], : size[1]].astype(np.float32)
    if bend is not None:
        rows, columns = rows + bend[..., 0], columns + bend[..., 1]
    x, y = (
        (inverse[axis, 0] * columns + inverse[axis, 1] * rows + inverse[axis, 2]).astype(np.float32)
        for axis in (0, 1)
    )
    return cv2.remap(image, x, y, interpolation), None


def _colours(random: Random, strength: float) -> tuple[float, float, tuple[float, float, float]]:
    """Contrast, brightness, gains of B, G, R."""
    gains = np.exp(random.normal(0, 0.08 * strength, 3))
    return (
        float(np.exp(random.normal(0, 0.15 * strength))),
        float(random.normal(0, 15 * strength)),
        tuple(gains.tolist()),
    )


def _recolour(frame: Array, *tints: tuple[float, float, tuple[float, float, float]]) -> Array:
    pixels = frame.astype(np.float32)
    for contrast, brightness, gains in tints:
        pixels = (pixels - 110) * contrast + 110 + brightness
        pixels *= np.asarray(gains, np.float32)
    return pixels.clip(0, 255).astype(np.uint8)


def _blur(frame: Array, random: Random) -> Array:
    """Sometimes out of focus."""
    if random.random() >= 0.2:
        return frame
    return np.asarray(cv2.GaussianBlur(frame, (0, 0), random.uniform(0.5, 1.5)))


def _box(mask: npt.NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """x, y, width, height."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return (
        int(columns[0]),
        int(rows[0]),
        int(columns[-1] - columns[0] + 1),
        int(rows[-1] - rows[0] + 1),
    )
