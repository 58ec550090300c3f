"""Training clips from labelled videos and stills (Sec. 4.1, supplement II).

Every random choice comes from the generator that is passed in, so that a clip is a pure function
of data, settings and seed. Scale, crop, flip and motion of a frame are one affine map: pixels are
resampled once, labels by nearest neighbour with the very same map.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from stemseg_ros.datasets.sequence import CLASS_STEP, IGNORE_LABEL, LabelledFrame
from stemseg_ros.models.stemseg.settings import Settings

Affine = npt.NDArray[np.float64]
"""3x3 map from source to clip pixels, homogeneous."""

Sources = Mapping[str, Sequence[Sequence[LabelledFrame]]]
"""Sequences by entry of the training mix; frames are decoded before, or when they are indexed."""

MAX_STRIDE = 3
"""Frames of a video clip are 1 to 3 source frames apart."""
MAX_ROTATION, MAX_SHIFT, MOTION_SCALE = 10.0, 0.1, (0.8, 1.2)
"""Motion of stills: degrees, share of the crop, range of the scale (supplement II)."""
CONSISTENT_MOTION = 0.6
"""Share of still clips with steady motion; in the rest each frame is drawn by itself, as in the
paper."""
OBJECT_CROP = 0.8
"""Share of crops that are placed on an object; the rest lie anywhere."""
PASTE_AREA = (600, 60000)
"""Range of the area of objects that are pasted into other clips, in pixels."""


@dataclass(frozen=True, slots=True, eq=False)
class Clip:
    """T frames and their labels, ready to be normalised."""

    frames: npt.NDArray[np.uint8]
    """uint8 (T, H, W, 3), BGR."""
    labels: npt.NDArray[np.int32]
    """int32 (T, H, W): 0 background, class * 1000 + track id, IGNORE_LABEL."""
    name: str = ""
    """Sequence it was drawn from, for messages."""


def draw_size(sources: Sources, config: Settings, rng: np.random.Generator) -> tuple[int, int]:
    """Height and width of the clips of a batch: those of an entry drawn by its weight."""
    sizes = [_area(name, config).crop for name in sources]
    if len(set(sizes)) == 1:
        return sizes[0]
    return sizes[rng.choice(len(sizes), p=_shares(list(sources), config))]


def draw_clip(
    sources: Sources,
    config: Settings,
    rng: np.random.Generator,
    size: tuple[int, int] | None = None,
) -> Clip:
    """A clip of ``window.length`` frames; ``training.mix`` has the weights.

    size: (height, width), only entries with crops of this size are drawn from.
    """
    training = config.training
    names = [name for name in sources if size in (None, _area(name, config).crop)]
    name = names[rng.choice(len(names), p=_shares(names, config))]
    area = _area(name, config)
    number = int(rng.integers(len(sources[name])))
    sequence = sources[name][number]
    clip = (
        _video_clip(sequence, area, config.window.length, rng)
        if len(sequence) >= config.window.length
        else _still_clip(
            sequence[int(rng.integers(len(sequence)))], area, config.window.length, rng
        )
    )
    if rng.random() < training.copy_paste:
        clip = paste_objects(clip, sources, rng)
    return Clip(_photometric(clip.frames, rng), clip.labels, f"{name}[{number}]")


@dataclass(frozen=True, slots=True)
class _Area:
    """What part of an image a clip shows."""

    crop: tuple[int, int]
    """Height and width of the clip in pixels."""
    scale: tuple[float, float]
    """Range of the random scale before the crop."""


def _area(name: str, config: Settings) -> _Area:
    entry, training = config.training.mix[name], config.training
    return _Area(entry.crop or training.crop, entry.scale or training.scale)


def _shares(names: list[str], config: Settings) -> npt.NDArray[np.float64]:
    weights = np.array([config.training.mix[name].weight for name in names], np.float64)
    shares: npt.NDArray[np.float64] = weights / weights.sum()
    return shares


def _video_clip(
    sequence: Sequence[LabelledFrame], area: _Area, length: int, rng: np.random.Generator
) -> Clip:
    longest = max(1, min(MAX_STRIDE, (len(sequence) - 1) // max(length - 1, 1)))
    stride = int(rng.integers(1, longest + 1))
    first = int(rng.integers(len(sequence) - (length - 1) * stride))
    frames = sequence[first : first + (length - 1) * stride + 1 : stride]
    if rng.random() < 0.5:
        frames = frames[::-1]
    crop = _crop(frames[length // 2].labels, area, rng)
    return warp(frames, [crop] * length, area.crop)


def _still_clip(frame: LabelledFrame, area: _Area, length: int, rng: np.random.Generator) -> Clip:
    size = area.crop
    crop = _crop(frame.labels, area, rng)
    if rng.random() < CONSISTENT_MOTION:
        end = _motion(size, rng)
        steps = np.linspace(-0.5, 0.5, length)
        motions = [_affine(size, *(step * end)) for step in steps]
    else:
        motions = [_affine(size, *_motion(size, rng)) for _ in range(length)]
    clip = warp([frame] * length, [motion @ crop for motion in motions], size)
    return Clip(np.stack([_colour(_blur(image, rng), rng) for image in clip.frames]), clip.labels)


def warp(frames: Sequence[LabelledFrame], maps: list[Affine], size: tuple[int, int]) -> Clip:
    """Frames through one affine map each, to (height, width). Outside the source: grey,
    background."""
    height, width = size
    grey = (103, 116, 123)  # near the mean that preprocessing subtracts, so it looks like padding
    images = [
        cv2.warpAffine(
            frame.image, m[:2], (width, height), flags=cv2.INTER_LINEAR, borderValue=grey
        )
        for frame, m in zip(frames, maps, strict=True)
    ]
    # float32 holds labels exactly up to 2^24; 16 bits would end at 65 classes.
    labels = [
        cv2.warpAffine(
            frame.labels.astype(np.float32), m[:2], (width, height), flags=cv2.INTER_NEAREST
        )
        for frame, m in zip(frames, maps, strict=True)
    ]
    return Clip(np.stack(images).astype(np.uint8), np.stack(labels).astype(np.int32))


def _crop(labels: npt.NDArray[np.int32], area: _Area, rng: np.random.Generator) -> Affine:
    """Random scale, flip and place of the crop; mostly around some object."""
    height, width = area.crop
    rows, columns = labels.shape
    low, high = area.scale
    scale = float(np.exp(rng.uniform(np.log(low), np.log(high))))
    ids = [i for i in np.unique(labels) if i not in (0, IGNORE_LABEL)]
    if ids and rng.random() < OBJECT_CROP:
        ys, xs = np.nonzero(labels == ids[rng.integers(len(ids))])
        focus = np.array([xs.mean(), ys.mean()]) * scale + rng.uniform(-0.35, 0.35, 2) * (
            width,
            height,
        )
    else:
        focus = rng.random(2) * (columns, rows) * scale
    # The crop stays inside the image where the image is large enough.
    room = np.array([columns * scale - width, rows * scale - height])
    offset = np.clip(
        focus - np.array([width, height]) / 2, np.minimum(room, 0), np.maximum(room, 0)
    )
    flip = -1.0 if rng.random() < 0.5 else 1.0
    x_shift = -offset[0] if flip > 0 else offset[0] + width - 1
    return np.array([[flip * scale, 0, x_shift], [0, scale, -offset[1]], [0, 0, 1]])


def _motion(size: tuple[int, int], rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Degrees, shift in x and y in pixels, log of scale."""
    height, width = size
    return np.array(
        [
            rng.uniform(-MAX_ROTATION, MAX_ROTATION),
            rng.uniform(-MAX_SHIFT, MAX_SHIFT) * width,
            rng.uniform(-MAX_SHIFT, MAX_SHIFT) * height,
            rng.uniform(*np.log(MOTION_SCALE)),
        ]
    )


def _affine(
    size: tuple[int, int], degrees: float, dx: float, dy: float, log_scale: float
) -> Affine:
    """Rotation and scale about the middle of the crop, then a shift."""
    height, width = size
    matrix = cv2.getRotationMatrix2D(
        (width / 2, height / 2), float(degrees), float(np.exp(log_scale))
    )
    matrix[:, 2] += np.array([dx, dy])
    return np.vstack([matrix, [0, 0, 1]])


def _blur(image: npt.NDArray[np.uint8], rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Motion blur in a random direction, for 30 % of the images."""
    length = int(rng.integers(3, 8))
    angle = rng.uniform(0, np.pi)
    if rng.random() > 0.3:
        return image
    kernel = np.zeros((length, length), np.float32)
    middle, half = (length - 1) / 2, (length - 1) / 2 * np.array([np.cos(angle), np.sin(angle)])
    start, end = (np.rint(middle + sign * half).astype(int).tolist() for sign in (-1, 1))
    cv2.line(kernel, start, end, 1.0)
    return np.asarray(cv2.filter2D(image, -1, kernel / kernel.sum()), dtype=np.uint8)


def _colour(
    image: npt.NDArray[np.uint8],
    rng: np.random.Generator,
    hue: float = 4.0,
    saturation: float = 0.12,
) -> npt.NDArray[np.uint8]:
    """Small shift of hue (of 180) and saturation."""
    hsv = cv2.cvtColor(image, cv2.COLOR_BGR2HSV).astype(np.int16)
    hsv[..., 0] = (hsv[..., 0] + round(rng.uniform(-hue, hue))) % 180
    hsv[..., 1] = np.clip(hsv[..., 1] * (1 + rng.uniform(-saturation, saturation)), 0, 255)
    return np.asarray(cv2.cvtColor(hsv.astype(np.uint8), cv2.COLOR_HSV2BGR), dtype=np.uint8)


def _photometric(frames: npt.NDArray[np.uint8], rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """One change of contrast, brightness, gamma and white balance for the whole clip."""
    levels = np.arange(256, dtype=np.float64)[:, None] / 255
    levels = levels ** np.exp(rng.uniform(-0.35, 0.35))
    levels = (levels - 0.5) * rng.uniform(0.75, 1.25) + 0.5 + rng.uniform(-0.06, 0.06)
    table = np.clip(levels * rng.uniform(0.93, 1.07, 3) * 255, 0, 255).astype(np.uint8)  # (256, 3)
    looked_up = [cv2.LUT(frame, table[None]) for frame in frames]
    return np.stack(looked_up).astype(np.uint8, copy=False)


def paste_objects(clip: Clip, sources: Sources, rng: np.random.Generator) -> Clip:
    """Cut up to three objects out of other images and let each move steadily across the clip, in
    front."""
    frames, labels = clip.frames.copy(), clip.labels.copy()
    for _ in range(int(rng.integers(1, 4))):
        cut = _cut_out(sources, rng)
        if cut is not None:
            image, mask, class_id = cut
            used = labels[(labels // CLASS_STEP == class_id)]
            new = max(class_id * CLASS_STEP, int(used.max(initial=0))) + 1
            if new // CLASS_STEP == class_id and new != IGNORE_LABEL:
                _paste(frames, labels, image, mask, new, rng)
    return Clip(frames, labels)


def _cut_out(
    sources: Sources, rng: np.random.Generator
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8], int] | None:
    """A whole object: image (H, W, 3), mask (H, W) 0 or 1, class; None if the drawn image has
    none."""
    names = list(sources)
    part = sources[names[rng.integers(len(names))]]
    sequence = part[int(rng.integers(len(part)))]
    frame = sequence[int(rng.integers(len(sequence)))]
    ids, areas = np.unique(frame.labels, return_counts=True)
    fitting = [
        int(i)
        for i, area in zip(ids, areas, strict=True)
        if i not in (0, IGNORE_LABEL) and PASTE_AREA[0] <= area <= PASTE_AREA[1]
    ]
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


def _span(profile: npt.NDArray[np.floating]) -> slice:
    """From the first to the last value that is not 0."""
    indices = np.flatnonzero(profile)
    return slice(int(indices[0]), int(indices[-1]) + 1) if len(indices) else slice(0, 0)
