"""Images to network input: resize, subtract the mean, pad to multiples of 32."""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from stemseg_ros.config import InputConfig
from stemseg_ros.records import Geometry

PAD_MULTIPLE = 32
"""The coarsest feature map has stride 32."""
MIN_PADDED = 96
"""Shortest padded side: the decoders pool over 3 cells of the coarsest map."""


def geometry(image_size: tuple[int, int], min_dim: int, max_dim: int) -> Geometry:
    """Where an (H, W) image lies in the network input.

    The shorter side becomes ``min_dim`` unless the longer one would pass ``max_dim``; sizes are
    rounded half to even, as the released code does.
    """
    shorter, longer = min(image_size), max(image_size)
    scale = min_dim / shorter
    if scale * longer > max_dim:
        scale = max_dim / longer
    height, width = (max(1, round(side * scale)) for side in image_size)
    padded = tuple(
        max(-(-side // PAD_MULTIPLE) * PAD_MULTIPLE, MIN_PADDED) for side in (height, width)
    )
    return Geometry(image_size, (height, width), (padded[0], padded[1]))


def normalise(images: Tensor, config: InputConfig) -> Tensor:
    """Float images (N, 3, H, W), BGR 0..255, to mean 0 and the configured deviation."""
    mean = _per_channel(config.mean_bgr, images.device)
    std = _per_channel(config.std_bgr, images.device)
    return (images - mean) / std


@lru_cache(maxsize=8)
@torch.inference_mode(False)  # so that training can use what inference made
def _per_channel(values: tuple[float, float, float], device: torch.device) -> Tensor:
    """(1, 3, 1, 1) on a device, kept: made anew for each frame, it would be a copy to the GPU."""
    return torch.tensor(values, device=device).view(1, 3, 1, 1)


def preprocess(images: Tensor, config: InputConfig) -> Tensor:
    """uint8 images (N, H, W, 3), BGR, to float32 network input (N, 3, H'', W'').

    Bilinear without antialiasing. The padding, right and bottom, is zero after the mean is
    subtracted.
    """
    place = geometry((images.shape[1], images.shape[2]), config.min_dim, config.max_dim)
    pixels = images.permute(0, 3, 1, 2).float().contiguous()
    if place.resized_size != place.image_size:
        # Trilinear with one slice is bilinear, but always exact: torch's 2D kernel rounds its
        # weights to fewer bits when it runs on one thread, so that results would depend on the
        # number of threads.
        slices = pixels.unsqueeze(2)
        size = (1, *place.resized_size)
        pixels = F.interpolate(slices, size=size, mode="trilinear", align_corners=False).squeeze(2)
    pad_bottom, pad_right = (
        p - r for p, r in zip(place.padded_size, place.resized_size, strict=True)
    )
    return F.pad(normalise(pixels, config), (0, pad_right, 0, pad_bottom))
