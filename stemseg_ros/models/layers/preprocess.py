"""Images to network input: resize, subtract the mean, pad to multiples of 32."""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from stemseg_ros.geometry import MIN_PADDED, Letterbox
from stemseg_ros.records import Image
from stemseg_ros.settings import InputConfig


def letterbox(image_size: tuple[int, int], config: InputConfig) -> Letterbox:
    """Compute the position of an (H, W) image in the network input of STEm-Seg."""
    return Letterbox.fit(image_size, config.min_dim, config.max_dim, MIN_PADDED)


def image_tensor(image: Image, config: InputConfig, device: torch.device) -> Tensor:
    """Convert a uint8 (H, W, 3) BGR image to the float32 network input (3, H'', W'') on a
    device."""
    # A copy, as torch shares neither read-only nor mirrored memory.
    pixels = torch.from_numpy(image.copy()).to(device, non_blocking=True)
    return preprocess(pixels.unsqueeze(0), config)[0]


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
    fitted = letterbox((images.shape[1], images.shape[2]), config)
    pixels = images.permute(0, 3, 1, 2).float().contiguous()
    if fitted.resized_size != fitted.image_size:
        # Trilinear with one slice is bilinear, but always exact: torch's 2D kernel rounds its
        # weights to fewer bits when it runs on one thread, so that results would depend on the
        # number of threads.
        slices = pixels.unsqueeze(2)
        size = (1, *fitted.resized_size)
        pixels = F.interpolate(slices, size=size, mode="trilinear", align_corners=False).squeeze(2)
    pad_bottom, pad_right = (
        p - r for p, r in zip(fitted.padded_size, fitted.resized_size, strict=True)
    )
    return F.pad(normalise(pixels, config), (0, pad_right, 0, pad_bottom))
