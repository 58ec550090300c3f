"""Images and masks to network input: resized, normalised, zero-padded on the right and bottom."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from stemseg_ros.geometry import Letterbox
from stemseg_ros.models.layers.preprocess import normalise
from stemseg_ros.settings import InputConfig


def place_image(size: tuple[int, int], config: InputConfig) -> Letterbox:
    """Where an (H, W) image lies in the network input.

    The shorter side becomes ``min_dim`` unless the longer one would pass ``max_dim``.
    """
    return Letterbox.fit(size, config.min_dim, config.max_dim)


def letterbox_image(image: Tensor, geometry: Letterbox, config: InputConfig) -> Tensor:
    """uint8 (H, W, 3), BGR -> float32 (3, H', W'), RGB."""
    pixels = resize(image.permute(2, 0, 1).float(), geometry.resized_size)
    return pad(normalise(pixels[None], config)[0].flip(0), geometry)


def letterbox_masks(masks: Tensor, geometry: Letterbox) -> Tensor:
    """bool (I, H, W) -> float32 (I, H', W') of zeros and ones."""
    return pad((resize(masks.float(), geometry.resized_size) > 0.5).float(), geometry)


def to_image_size(maps: Tensor, geometry: Letterbox) -> Tensor:
    """(N, H', W') at padded input size -> (N, H, W): the padding is cut, the rest resized."""
    height, width = geometry.resized_size
    return resize(maps[:, :height, :width], geometry.image_size)


def resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """(N, H, W) to another size, bilinear without antialiasing."""
    if tuple(maps.shape[-2:]) == size:
        return maps
    # Trilinear with one slice is bilinear, but exact on any number of threads.
    slices = maps[None, :, None]
    return F.interpolate(slices, size=(1, *size), mode="trilinear", align_corners=False)[0, :, 0]


def pad(maps: Tensor, geometry: Letterbox) -> Tensor:
    """(N, H, W) at resized size, zeros added on the right and bottom."""
    bottom, right = (
        p - r for p, r in zip(geometry.padded_size, geometry.resized_size, strict=True)
    )
    return F.pad(maps, (0, right, 0, bottom))


def content_cells(geometry: Letterbox, stride: int) -> tuple[int, int]:
    """Rows and columns of a map that lie at least partly on the image."""
    rows, columns = (-(-side // stride) for side in geometry.resized_size)
    return rows, columns
