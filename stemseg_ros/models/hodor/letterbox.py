"""Network input: images and masks resized, normalised and zero-padded on the right and bottom."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from stemseg_ros.geometry import Letterbox
from stemseg_ros.models.layers.preprocess import normalise
from stemseg_ros.settings import InputConfig


def letterbox(size: tuple[int, int], config: InputConfig) -> Letterbox:
    """Fit an (H, W) image into the network input.

    The shorter side becomes ``min_dim`` unless the longer one would exceed ``max_dim``.
    """
    return Letterbox.fit(size, config.min_dim, config.max_dim)


def letterbox_image(image: Tensor, geometry: Letterbox, config: InputConfig) -> Tensor:
    """Convert uint8 (H, W, 3), BGR, to padded network input: float32 (3, H', W'), RGB."""
    pixels = resize(image.permute(2, 0, 1).float(), geometry.resized_size)
    return pad(normalise(pixels[None], config)[0].flip(0), geometry)


def letterbox_masks(masks: Tensor, geometry: Letterbox) -> Tensor:
    """Convert bool (I, H, W) to padded float32 (I, H', W') of zeros and ones."""
    return pad((resize(masks.float(), geometry.resized_size) > 0.5).float(), geometry)


def resize_to_image(maps: Tensor, geometry: Letterbox) -> Tensor:
    """Crop the padding off (N, H', W') maps at input size and resize them to (N, H, W)."""
    height, width = geometry.resized_size
    return resize(maps[:, :height, :width], geometry.image_size)


def resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize (N, H, W) maps bilinearly without antialiasing."""
    if tuple(maps.shape[-2:]) == size:
        return maps
    # Trilinear with one slice is bilinear, but gives the same values on any number of threads.
    slices = maps[None, :, None]
    return F.interpolate(slices, size=(1, *size), mode="trilinear", align_corners=False)[0, :, 0]


def pad(maps: Tensor, geometry: Letterbox) -> Tensor:
    """Zero-pad (N, H, W) maps at resized size on the right and bottom."""
    bottom, right = (
        p - r for p, r in zip(geometry.padded_size, geometry.resized_size, strict=True)
    )
    return F.pad(maps, (0, right, 0, bottom))


def content_cells(geometry: Letterbox, stride: int) -> tuple[int, int]:
    """Count the rows and columns of a map that lie at least partly on the image."""
    rows, columns = (-(-side // stride) for side in geometry.resized_size)
    return rows, columns
