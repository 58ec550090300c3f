"""Changes of colour and sharpness of training clips."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt


def blur(image: npt.NDArray[np.uint8], rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Blur 30 % of the images by motion in a random direction."""
    length = int(rng.integers(3, 8))
    angle = rng.uniform(0, np.pi)
    if rng.random() > 0.3:
        return image
    kernel = np.zeros((length, length), np.float32)
    middle, half = (length - 1) / 2, (length - 1) / 2 * np.array([np.cos(angle), np.sin(angle)])
    start, end = (np.rint(middle + sign * half).astype(int).tolist() for sign in (-1, 1))
    cv2.line(kernel, start, end, 1.0)
    return np.asarray(cv2.filter2D(image, -1, kernel / kernel.sum()), dtype=np.uint8)


def shift_colours(
    image: npt.NDArray[np.uint8],
    rng: np.random.Generator,
    hue: float = 4.0,
    saturation: float = 0.12,
) -> npt.NDArray[np.uint8]:
    """Shift hue (of 180) and saturation a little."""
    hsv = cv2.cvtColor(image, cv2.COLOR_BGR2HSV).astype(np.int16)
    hsv[..., 0] = (hsv[..., 0] + round(rng.uniform(-hue, hue))) % 180
    hsv[..., 1] = np.clip(hsv[..., 1] * (1 + rng.uniform(-saturation, saturation)), 0, 255)
    return np.asarray(cv2.cvtColor(hsv.astype(np.uint8), cv2.COLOR_HSV2BGR), dtype=np.uint8)


def change_light(frames: npt.NDArray[np.uint8], rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Change contrast, brightness, gamma and white balance, equally for the whole clip."""
    levels = np.arange(256, dtype=np.float64)[:, None] / 255
    levels = levels ** np.exp(rng.uniform(-0.35, 0.35))
    levels = (levels - 0.5) * rng.uniform(0.75, 1.25) + 0.5 + rng.uniform(-0.06, 0.06)
    table = np.clip(levels * rng.uniform(0.93, 1.07, 3) * 255, 0, 255).astype(np.uint8)  # (256, 3)
    looked_up = [cv2.LUT(frame, table[None]) for frame in frames]
    return np.stack(looked_up).astype(np.uint8, copy=False)
