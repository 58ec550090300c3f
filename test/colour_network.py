"""A stand-in for the network that reads objects off their colours, for tests of everything behind
it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from stemseg_ros.config import Config
from stemseg_ros.models.layers.preprocess import geometry
from stemseg_ros.records import Features, NetworkOutput

Image = npt.NDArray[np.uint8]
SECOND_COLOUR = 8
"""Added to green, it makes a blue another object."""
FAR = 10.0
"""Distance in embedding space between two colours, with bandwidth 1."""


class ColourNetwork:
    """Takes StemSeg's place in a Pipeline.

    Blue is the object and green its class (1, 2), plus SECOND_COLOUR for another 255 objects; red
    255 makes a seed.
    """

    device = torch.device("cpu")

    def __init__(self, config: Config) -> None:
        self.config = config
        self.encoded = 0
        """Frames that the backbone has seen."""
        self.windows = 0
        self.batches: list[int] = []
        """Sizes of the batches that were computed together."""

    def frame_features(self, image: Image) -> Features:
        self.encoded += 1
        place = geometry(
            (image.shape[0], image.shape[1]), self.config.input.min_dim, self.config.input.max_dim
        )
        assert place.resized_size == place.image_size, "the stand-in does not resize"
        cells = torch.zeros(1, 3, place.padded_size[0] // 4, place.padded_size[1] // 4)
        sampled = torch.from_numpy(image[1::4, 1::4].astype(np.float32)).permute(2, 0, 1)
        cells[0, :, : sampled.shape[1], : sampled.shape[2]] = sampled
        return Features((cells, cells, cells, cells))

    def features_of(self, images: Sequence[Image]) -> list[Features]:
        self.batches.append(len(images))
        return [self.frame_features(image) for image in images]

    def outputs_of(self, windows: Sequence[tuple[Features, ...]]) -> list[NetworkOutput]:
        self.batches.append(len(windows))
        return [self.window_output(features) for features in windows]

    def window_output(self, features: tuple[Features, ...]) -> NetworkOutput:
        self.windows += 1
        blue, green, red = torch.stack([f.maps[0][0] for f in features], dim=1)  # each (T, h, w)
        second, green = green >= SECOND_COLOUR, green % SECOND_COLOUR
        zero = torch.zeros_like(blue)
        free = [zero] * self.config.network.free_dims
        embeddings = torch.stack([FAR * blue, FAR * second, zero, *free])
        foreground = blue > 0
        heat = torch.where(foreground, torch.where(red == 255, 0.99, 0.95), 0.0)
        logits = torch.stack(
            [
                torch.where(foreground, -5.0, 5.0),
                *(torch.where(green == c, 4.0, -4.0) for c in (1, 2)),
                torch.where(foreground, 6.0, -6.0),
            ]
        )
        return NetworkOutput(
            embeddings, torch.ones_like(embeddings[:3]), heat.unsqueeze(0), logits
        )


def scene(size: tuple[int, int], *squares: tuple[int, int, int, int, int]) -> Image:
    """Black image (H, W) with filled squares (object, class, top, left, side in px)."""
    image = np.zeros((*size, 3), np.uint8)
    for colour, kind, top, left, side in squares:
        image[top : top + side, left : left + side] = (colour, kind, 255)
    return image
