"""A fake engine that reads objects off their colours, for tests of everything around it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from stemseg_ros.models.stemseg.network import by_level
from stemseg_ros.models.stemseg.settings import Settings
from stemseg_ros.records import Image
from stemseg_ros.stream import Model

SECOND_COLOUR = 8
"""Added to green, it makes a blue another object."""
FAR = 10.0
"""Distance in embedding space between two colours, with bandwidth 1."""
Tensors = tuple[Tensor, ...]


def colour_model(config: Settings) -> Model:
    """A model whose engine is the fake one."""
    return Model(config, ColourEngine(config))


class ColourEngine:
    """Takes the place of an engine with the network of STEm-Seg.

    Blue is the object and green its class (1, 2), plus SECOND_COLOUR for another 255 objects; red
    255 makes a seed.
    """

    device = torch.device("cpu")
    description = "a fake engine"
    precision = "float32"

    def __init__(self, config: Settings) -> None:
        self.config = config
        self.encoded = 0
        """Frames that were encoded."""
        self.windows = 0
        """Windows that were decoded."""
        self.batches: list[int] = []
        """Sizes of the batches that were computed together."""

    def run(self, function: str, batch: Sequence[Tensors]) -> list[Tensors]:
        self.batches.append(len(batch))
        return [getattr(self, function)(*inputs) for inputs in batch]

    def encode(self, pixels: Tensor) -> Tensors:
        self.encoded += 1
        mean, std = (
            torch.tensor(values).view(3, 1, 1)
            for values in (self.config.input.mean_bgr, self.config.input.std_bgr)
        )
        # No pixel is exactly the mean, which is not whole: zeros are padding.
        padding = (pixels == 0).all(0)
        colours = (pixels * std + mean).round().masked_fill(padding, 0)
        cells = colours[:, 1::4, 1::4]
        return cells, cells, cells, cells

    def decode(self, *maps: Tensor) -> Tensors:
        self.windows += 1
        blue, green, red = torch.stack(by_level(maps)[0], dim=1)  # each (T, h, w)
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
        return embeddings, torch.ones_like(embeddings[:3]), heat.unsqueeze(0), logits


def scene(size: tuple[int, int], *squares: tuple[int, int, int, int, int]) -> Image:
    """Black image (H, W) with filled squares (object, class, top, left, side in px)."""
    image = np.zeros((*size, 3), np.uint8)
    for colour, kind, top, left, side in squares:
        image[top : top + side, left : left + side] = (colour, kind, 255)
    return image
