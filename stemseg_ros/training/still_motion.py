"""Augmentation of the copies of a still: motion, colour and sharpness."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.uint8]
Matrix = npt.NDArray[np.float64]
"""float64 (3, 3), from pixels (x, y, 1) of a still to those of a copy."""
Bend = npt.NDArray[np.float32]
"""float32 (H, W, 2): displacement in x and y, pixels."""
Size = tuple[int, int]
"""(H, W) of the copies."""
Random = np.random.Generator

TURN, SHEAR, ZOOM, STRETCH = 1.2, 0.7, 1.0, 0.4
"""Standard deviations of rotation and shear (radians), and of the logarithms of scale and aspect
ratio, relative to that of the translation (itself relative to the frame's side)."""
BEND_KNOTS = (5, 6)
MEAN_COLOUR = (104.0, 116.0, 123.0)
"""BGR outside a still: near zero in the network's input."""


class Tint(NamedTuple):
    """Parameters of a colour change."""

    contrast: float
    brightness: float
    gains: npt.NDArray[np.float32]
    """(3,) for B, G, R."""


def side(size: Size) -> float:
    """Return the side of a frame: the root of its area, in pixels."""
    return float(np.sqrt(size[0] * size[1]))


def draw_path(random: Random, motion: float, size: Size, frames: int) -> list[Matrix]:
    """Draw a random walk of affine transforms, one for each frame; the first is the identity."""
    path: list[Matrix] = [np.eye(3)]
    for _ in range(frames - 1):
        path.append(_draw_step(random, motion, size) @ path[-1])
    return path


def _draw_step(random: Random, motion: float, size: Size) -> Matrix:
    angle, shear = random.normal(0, TURN * motion), random.normal(0, SHEAR * motion)
    scale = np.exp(random.normal(0, STRETCH * motion, 2) + random.normal(0, ZOOM * motion))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    linear = turn @ np.array([[1, shear], [0, 1]]) @ np.diag(scale)
    center = np.array([size[1] / 2, size[0] / 2])
    matrix = np.eye(3)
    matrix[:2, :2] = linear
    matrix[:2, 2] = center + random.normal(0, motion, 2) * side(size) - linear @ center
    return matrix


def draw_bend(random: Random, strength: float, size: Size) -> Bend:
    """Draw a smooth displacement for non-rigid motion; strength: relative to the side."""
    knots = random.normal(0, random.uniform(0, strength) * side(size), (*BEND_KNOTS, 2))
    smooth = cv2.resize(knots.astype(np.float32), size[::-1], interpolation=cv2.INTER_CUBIC)
    return np.asarray(smooth, np.float32)


class Warp:
    """Mapping from a still to a copy, for its image and masks."""

    def __init__(self, matrix: Matrix, size: Size, bend: Bend | None = None) -> None:
        inverse = np.linalg.inv(matrix).astype(np.float32)
        rows, columns = np.mgrid[: size[0], : size[1]].astype(np.float32)
        if bend is not None:
            columns, rows = columns + bend[..., 0], rows + bend[..., 1]
        self._x, self._y = (
            inverse[axis, 0] * columns + inverse[axis, 1] * rows + inverse[axis, 2]
            for axis in (0, 1)
        )

    def image(self, pixels: Array) -> Array:
        """Warp uint8 (H, W, 3), BGR; MEAN_COLOUR outside."""
        moved = cv2.remap(pixels, self._x, self._y, cv2.INTER_LINEAR, borderValue=MEAN_COLOUR)
        return np.asarray(moved, np.uint8)

    def mask(self, mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
        """Warp a mask to coverage in [0, 1]; 0 outside."""
        moved = cv2.remap(mask.astype(np.float32), self._x, self._y, cv2.INTER_LINEAR)
        return np.asarray(moved, np.float32)


def draw_tint(random: Random, strength: float) -> Tint:
    """Draw a colour change; strength 1 is the difference between cameras."""
    return Tint(
        float(np.exp(random.normal(0, 0.15 * strength))),
        float(random.normal(0, 15 * strength)),
        np.exp(random.normal(0, 0.08 * strength, 3)).astype(np.float32),
    )


def recolour(frame: Array, *tints: Tint) -> Array:
    """Apply colour changes one after the other."""
    pixels = frame.astype(np.float32)
    for tint in tints:
        pixels = ((pixels - 110) * tint.contrast + 110 + tint.brightness) * tint.gains
    return np.asarray(pixels.clip(0, 255), np.uint8)


def blur(frame: Array, random: Random) -> Array:
    """Apply at random no blur, defocus blur or motion blur."""
    kind = random.random()
    if kind < 0.15:
        return np.asarray(cv2.GaussianBlur(frame, (0, 0), random.uniform(0.5, 1.8)), np.uint8)
    if kind < 0.25:
        length = int(random.integers(3, 10))
        line = np.zeros((length, length), np.float32)
        line[length // 2] = 1 / length
        turn = cv2.getRotationMatrix2D((length / 2 - 0.5,) * 2, random.uniform(0, 180), 1)
        kernel = cv2.warpAffine(line, turn, (length, length))
        return np.asarray(cv2.filter2D(frame, -1, kernel / max(kernel.sum(), 1e-6)), np.uint8)
    return frame
