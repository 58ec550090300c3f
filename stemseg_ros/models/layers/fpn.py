"""Feature pyramid over the encoder's four maps."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class FeaturePyramid(nn.Module):
    """Four maps of equal width at strides 4, 8, 16, 32; no norm, no ReLU, no extra level.

    The top-down path interpolates bilinearly, where most implementations repeat the nearest value.
    """

    def __init__(self, channels_in: tuple[int, ...], channels: int) -> None:
        super().__init__()
        for level, width in enumerate(channels_in, start=1):
            self.add_module(f"fpn_inner{level}", nn.Conv2d(width, channels, 1))
            self.add_module(f"fpn_layer{level}", nn.Conv2d(channels, channels, 3, padding=1))

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        outputs: list[Tensor] = []
        top: Tensor | None = None
        for level in range(len(maps), 0, -1):
            inner = self.get_submodule(f"fpn_inner{level}")(maps[level - 1])
            if top is not None:
                size = inner.shape[-2:]
                inner = inner + F.interpolate(top, size=size, mode="bilinear", align_corners=False)
            top = inner
            outputs.insert(0, self.get_submodule(f"fpn_layer{level}")(inner))
        return outputs


class Backbone(nn.Module):
    """Encoder and feature pyramid, applied to single images."""

    def __init__(self, body: nn.Module, channels_in: tuple[int, ...], channels: int) -> None:
        super().__init__()
        self.body = body
        self.fpn = FeaturePyramid(channels_in, channels)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(N, 3, H, W) -> four maps (N, C, H/s, W/s), s = 4, 8, 16, 32."""
        maps: list[Tensor] = self.fpn(self.body(images))
        return maps
