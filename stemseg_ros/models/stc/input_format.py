"""Conversion of images to the input that the weights of a variant expect."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image as PillowImage
from torch import Tensor

from stemseg_ros.geometry import PAD_MULTIPLE, Letterbox
from stemseg_ros.models.stc.settings import CondInstVariant
from stemseg_ros.settings import InputConfig

MEAN_RGB = (123.675, 116.28, 103.53)
"""Mean of ImageNet, range 0..255."""
STD_RGB = (58.395, 57.12, 57.375)
"""Standard deviation of ImageNet, used by the variant mmdet."""


def normalise(images: Tensor, variant: CondInstVariant) -> Tensor:
    """Normalise float images (N, 3, H, W), BGR 0..255, as a variant expects.

    mmdet: RGB, mean 0, deviation 1. adelaidet: BGR, mean 0, not scaled.
    """
    if variant == "adelaidet":
        return images - images.new_tensor(MEAN_RGB[::-1]).view(1, 3, 1, 1)
    mean, std = (images.new_tensor(values).view(1, 3, 1, 1) for values in (MEAN_RGB, STD_RGB))
    return (images.flip(1) - mean) / std


def denormalise(pixels: Tensor, variant: CondInstVariant) -> Tensor:
    """Undo ``normalise``."""
    mean, std = (pixels.new_tensor(values).view(1, 3, 1, 1) for values in (MEAN_RGB, STD_RGB))
    if variant == "adelaidet":
        return pixels + mean.flip(1)
    return (pixels * std + mean).flip(1)


@torch.no_grad()
def adapt_first_convolution(weight: Tensor, variant: CondInstVariant) -> None:
    """Convert weights (O, 3, k, k) for BGR of mean 0 and deviation 1, the input of STEm-Seg's
    light backbone, in place to weights for the input of a variant."""
    if variant == "adelaidet":
        weight.div_(weight.new_tensor(STD_RGB[::-1]).view(1, 3, 1, 1))
    else:
        weight.copy_(weight.flip(1))


def letterbox(image_size: tuple[int, int], config: InputConfig) -> Letterbox:
    """Fit an (H, W) image into the network input; sides are rounded half up, as in both
    implementations of CondInst."""
    shorter, longer = min(image_size), max(image_size)
    scale = min(config.min_dim / shorter, config.max_dim / longer)
    height, width = (max(1, int(side * scale + 0.5)) for side in image_size)
    padded = tuple(-(-side // PAD_MULTIPLE) * PAD_MULTIPLE for side in (height, width))
    return Letterbox(image_size, (height, width), (padded[0], padded[1]))


def network_input(
    image: npt.NDArray[np.uint8], geometry: Letterbox, variant: CondInstVariant
) -> Tensor:
    """Resize, normalise and zero-pad uint8 (H, W, 3), BGR, to float32 (1, 3, H'', W'').

    Bilinear with antialiasing, by Pillow, as in both implementations of CondInst.
    """
    height, width = geometry.resized_size
    if geometry.resized_size != geometry.image_size:
        resized = PillowImage.fromarray(image).resize(
            (width, height), PillowImage.Resampling.BILINEAR
        )
        image = np.asarray(resized)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float()
    bottom, right = geometry.padded_size[0] - height, geometry.padded_size[1] - width
    return F.pad(normalise(pixels, variant), (0, right, 0, bottom))
