"""Where a clip looks: scale, crop, flip and motion of each frame as one affine map."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from stemseg_ros.datasets.sequence import CLASS_STEP, IGNORE_LABEL

Affine = npt.NDArray[np.float64]
"""3x3 map from source to clip pixels, homogeneous."""

MAX_ROTATION, MAX_SHIFT, MOTION_SCALE = 10.0, 0.1, (0.8, 1.2)
"""Motion of stills: degrees, share of the crop, range of the scale (supplement II)."""
CONSISTENT_MOTION = 0.6
"""Share of still clips with steady motion; in the rest each frame is drawn by itself, as in the
paper."""
OBJECT_CROP = 0.8
"""Share of crops that are placed on an object; the rest lie anywhere."""


@dataclass(frozen=True, slots=True)
class Area:
    """What part of an image a clip shows."""

    crop: tuple[int, int]
    """Height and width of the clip in pixels."""
    scale: tuple[float, float]
    """Range of the random scale before the crop."""
    focus: int = 0
    """Class that crops are placed on; 0: any."""


def still_motion_maps(
    size: tuple[int, int], length: int, rng: np.random.Generator
) -> list[Affine]:
    """Draw the motion of a still through ``length`` frames of (height, width)."""
    if rng.random() < CONSISTENT_MOTION:
        end = draw_motion(size, rng)
        return [affine(size, *(step * end)) for step in np.linspace(-0.5, 0.5, length)]
    return [affine(size, *draw_motion(size, rng)) for _ in range(length)]


def draw_crop(labels: npt.NDArray[np.int32], area: Area, rng: np.random.Generator) -> Affine:
    """Draw scale, flip and position of a crop, mostly around some object."""
    height, width = area.crop
    rows, columns = labels.shape
    low, high = area.scale
    scale = float(np.exp(rng.uniform(np.log(low), np.log(high))))
    ids = [
        label
        for label in np.unique(labels)
        if label not in (0, IGNORE_LABEL) and area.focus in (0, label // CLASS_STEP)
    ]
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


def draw_motion(size: tuple[int, int], rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Draw degrees, shift in x and y in pixels, log of scale."""
    height, width = size
    return np.array(
        [
            rng.uniform(-MAX_ROTATION, MAX_ROTATION),
            rng.uniform(-MAX_SHIFT, MAX_SHIFT) * width,
            rng.uniform(-MAX_SHIFT, MAX_SHIFT) * height,
            rng.uniform(*np.log(MOTION_SCALE)),
        ]
    )


def affine(
    size: tuple[int, int], degrees: float, dx: float, dy: float, log_scale: float
) -> Affine:
    """Compose rotation and scale about the middle of the crop, then a shift."""
    height, width = size
    matrix = cv2.getRotationMatrix2D(
        (width / 2, height / 2), float(degrees), float(np.exp(log_scale))
    )
    matrix[:, 2] += np.array([dx, dy])
    return np.vstack([matrix, [0, 0, 1]])
