"""Copy-paste augmentation: objects of other images move across a training clip."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from stemseg_ros.datasets.sequence import CLASS_STEP, Sources, is_object

PASTE_AREA = (600, 60000)
"""Range of the area of objects that are pasted into other clips, in pixels."""
PERSON_HEIGHT = (20.0, 200.0)
"""Range of the height of people at street scale, in pixels of the clip."""
UPRIGHT = 1.7
"""Least height of a whole body, in widths."""
MAX_ENLARGEMENT = 1.3
"""Largest scale at which a body is pasted."""
ATTEMPTS = 8
"""Images that are searched for a body."""


@dataclass(frozen=True, slots=True)
class People:
    """How many of the pasted objects are people at street scale."""

    class_id: int = 0
    share: float = 0.0


NO_PEOPLE = People()


def paste_objects(
    frames: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.int32],
    sources: Sources,
    rng: np.random.Generator,
    people: People = NO_PEOPLE,
) -> None:
    """Cut up to three objects out of other images and let each move steadily across the clip, in
    front; people at street scale behind what stands nearer.

    frames: uint8 (T, H, W, 3), labels: int32 (T, H, W), both changed in place.
    """
    for _ in range(int(rng.integers(1, 4))):
        as_person = people.share > 0 and rng.random() < people.share
        cut = _body(sources, people.class_id, rng) if as_person else _cut_out(sources, rng)
        if cut is not None:
            image, mask, class_id = cut
            new = _free_label(labels, class_id)
            if new:
                paste = _paste_person if as_person else _paste
                paste(frames, labels, image, mask, new, rng)


def _free_label(labels: npt.NDArray[np.int32], class_id: int) -> int:
    """Choose an unused label of the class, if possible above all used ones; 0 if there is none."""
    used = np.flatnonzero(np.bincount(labels.ravel(), minlength=1))
    numbers = set((used[used // CLASS_STEP == class_id] % CLASS_STEP).tolist())
    above = max(numbers, default=0) + 1
    free = (number for number in (above, *range(1, CLASS_STEP)) if number not in numbers)
    number = next((number for number in free if number < CLASS_STEP), 0)
    return number and class_id * CLASS_STEP + number


Cut = tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8], int]
"""An object: image (H, W, 3), mask (H, W) 0 or 1, class."""


def _body(sources: Sources, class_id: int, rng: np.random.Generator) -> Cut | None:
    """Cut out a whole, upright person; None after ATTEMPTS images without one."""
    for _ in range(ATTEMPTS):
        cut = _cut_out(sources, rng, class_id)
        if cut is not None and cut[1].shape[0] >= UPRIGHT * cut[1].shape[1]:
            return cut
    return None


def _cut_out(sources: Sources, rng: np.random.Generator, class_id: int = 0) -> Cut | None:
    """Cut out a whole object of a class (0: any); None if the drawn image has none."""
    names = list(sources)
    part = sources[names[rng.integers(len(names))]]
    sequence = part[int(rng.integers(len(part)))]
    frame = sequence[int(rng.integers(len(sequence)))]
    areas = np.bincount(frame.labels.ravel())
    ids = np.flatnonzero((areas >= PASTE_AREA[0]) & (areas <= PASTE_AREA[1]))
    fitting = ids[is_object(ids) & ((class_id == 0) | (ids // CLASS_STEP == class_id))].tolist()
    if not fitting:
        return None
    chosen = fitting[rng.integers(len(fitting))]
    mask = (frame.labels == chosen).astype(np.uint8)
    x, y, width, height = cv2.boundingRect(mask)
    rows, columns = mask.shape
    if x == 0 or y == 0 or x + width == columns or y + height == rows:
        return None  # cut off by the image border
    box = np.s_[y : y + height, x : x + width]
    if mask[box].mean() < 0.5:
        return None  # most likely the visible rest of something hidden
    return frame.image[box], mask[box], chosen // CLASS_STEP


def _paste(
    frames: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.int32],
    image: npt.NDArray[np.uint8],
    mask: npt.NDArray[np.uint8],
    label: int,
    rng: np.random.Generator,
) -> None:
    length, height, width = labels.shape
    largest = 0.7 * min(height / mask.shape[0], width / mask.shape[1])
    scale = min(float(np.exp(rng.uniform(np.log(0.5), np.log(2.0)))), largest)
    growth = np.exp(rng.uniform(-0.04, 0.04) * np.arange(length))
    speed = rng.uniform(-1, 1, 2) * (0.04 * width, 0.015 * height)
    start = rng.uniform((0, 0.3), (1, 0.9)) * (width, height)
    flip = -1.0 if rng.random() < 0.5 else 1.0
    middle = np.array([mask.shape[1], mask.shape[0]]) / 2
    soft = cv2.GaussianBlur(mask.astype(np.float32), (3, 3), 0)
    for t in range(length):
        s = scale * growth[t]
        x, y = start + speed * t - middle * s * (flip, 1)
        matrix = np.array([[flip * s, 0, x], [0, s, y]])
        alpha = cv2.warpAffine(soft, matrix, (width, height), flags=cv2.INTER_LINEAR)
        colours = cv2.warpAffine(
            image, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
        box = (_span(alpha.max(1)), _span(alpha.max(0)))
        part = alpha[box][..., None]
        frames[t][box] = (frames[t][box] * (1 - part) + colours[box] * part).astype(np.uint8)
        labels[t][box][part[..., 0] > 0.5] = label


def _paste_person(
    frames: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.int32],
    image: npt.NDArray[np.uint8],
    mask: npt.NDArray[np.uint8],
    label: int,
    rng: np.random.Generator,
) -> None:
    """Let a body walk across the clip, hidden by objects that stand lower in the image.

    A camera on a car looks from about the height of a head, so that heads and the roofs of cars,
    near or far, lie close to the horizon.
    """
    length, height, width = labels.shape
    tallest = min(PERSON_HEIGHT[1], 0.8 * height, MAX_ENLARGEMENT * mask.shape[0])
    tall = np.exp(rng.uniform(np.log(PERSON_HEIGHT[0]), np.log(tallest)))
    scale = float(tall / mask.shape[0])
    if rng.random() < 0.5:
        image, mask = image[:, ::-1], mask[:, ::-1]
    # Shrunk by areas first: a warp alone would skip pixels.
    size = [max(1, round(side * min(scale, 1.0))) for side in mask.shape[::-1]]
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    small = np.clip(small * rng.uniform(0.6, 1.15), 0, 255).astype(np.uint8)
    soft = cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    left = rng.uniform(-0.5, width / tall - 0.5) * tall
    top = _horizon(labels[length // 2], rng) + rng.normal(0, 0.12) * tall
    speed = rng.uniform(-1, 1, 2) * (0.02 * width, 0.005 * height)
    growth = np.exp(rng.uniform(-0.04, 0.04) * np.arange(length))
    for t in range(length):
        zoom = growth[t] * tall / size[1]
        x, y = left + speed[0] * t, top + speed[1] * t
        matrix = np.array([[zoom, 0, x], [0, zoom, y]])
        alpha = cv2.warpAffine(soft, matrix, (width, height), flags=cv2.INTER_LINEAR)
        box = (_span(alpha.max(1)), _span(alpha.max(0)))
        colours = cv2.warpAffine(
            small, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
        part = alpha[box] * ~_nearer(labels[t], box, y + growth[t] * tall)
        frames[t][box] = frames[t][box] * (1 - part[..., None]) + colours[box] * part[..., None]
        labels[t][box][part > 0.5] = label


def _horizon(labels: npt.NDArray[np.int32], rng: np.random.Generator) -> float:
    """Row of the top of some object of a frame, or a likely one."""
    found = np.flatnonzero(np.bincount(labels.ravel()))
    ids = found[is_object(found)]
    if not len(ids):
        return float(rng.uniform(0.15, 0.6) * len(labels))
    return float(np.flatnonzero((labels == rng.choice(ids)).any(1))[0])


def _nearer(
    labels: npt.NDArray[np.int32], box: tuple[slice, slice], feet: float
) -> npt.NDArray[np.bool_]:
    """Pixels of a box that belong to objects which reach below a row."""
    part = labels[box]
    below = np.flatnonzero(np.bincount(labels[max(0, int(feet)) :].ravel()))
    return np.isin(part, below[is_object(below)])


def _span(profile: npt.NDArray[np.floating]) -> slice:
    """From the first to the last value that is not 0."""
    indices = np.flatnonzero(profile)
    return slice(int(indices[0]), int(indices[-1]) + 1) if len(indices) else slice(0, 0)
