"""Images to the input that the weights of a variant expect."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image as PillowImage
from torch import Tensor

from stemseg_ros.geometry import Letterbox
from stemseg_ros.models.stc.settings import Variant

MEAN_RGB = (123.675, 116.28, 103.53)
"""Of ImageNet, range 0..255."""
STD_RGB = (58.395, 57.12, 57.375)
"""Divides the channels of the variant mmdet."""


def normalise(images: Tensor, variant: Variant) -> Tensor:
    """Float images (N, 3, H, W), BGR 0..255, to what a variant expects.

    mmdet: RGB, mean 0, deviation 1. adelaidet: BGR, mean 0, not divided.
    """
    if variant == "adelaidet":
        return images - images.new_tensor(MEAN_RGB[::-1]).view(1, 3, 1, 1)
    mean, std = (images.new_tensor(values).view(1, 3, 1, 1) for values in (MEAN_RGB, STD_RGB))
    return (images.flip(1) - mean) / std


def network_input(image: npt.NDArray[np.uint8], geometry: Letterbox, variant: Variant) -> Tensor:
    """uint8 (H, W, 3), BGR, resized, normalised and zero-padded: float32 (1, 3, H'', W'').

    Bilinear with antialiasing, by Pillow, as both implementations of CondInst do.
    """
    height, width = geometry.resized_size
    if geometry.resized_size != geometry.image_size:
        resized = PillowImage.fromarray(image).resize(
            (width, height), PillowImage.Resampling.BILINEAR
        )
        image = np.asarray(resized)
    pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float()
    below, right = geometry.padded_size[0] - height, geometry.padded_size[1] - width
    return F.pad(normalise(pixels, variant), (0, right, 0, below))
