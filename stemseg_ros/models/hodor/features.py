"""Image features of HODOR at strides 4 and 8: backbone, feature pyramid and group norm."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from stemseg_ros.models.hodor.settings import HodorNetworkConfig
from stemseg_ros.models.hodor.swin import Swin
from stemseg_ros.models.layers.backbone import MobileNetV2
from stemseg_ros.models.layers.norms import fuse_frozen_norms

LEVELS = 4
"""Strides 4, 8, 16, 32."""
USED_LEVELS = 2
"""Levels that the extractor returns: strides 4 and 8."""
RELEASED_NORMS = 5
"""Norms in the released checkpoints, whose pyramid has one more level; two are used."""
NORM_GROUPS = 16


class ConvModule(nn.Module):
    """A convolution in a module of its own, to match the parameter names of the released
    checkpoints."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, kernel, padding=kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.conv(x)
        return result


class NearestPyramid(nn.Module):
    """Feature pyramid with nearest-neighbour upsampling and no activation.

    outputs: number of levels with a 3x3 output convolution, from the finest.
    """

    def __init__(self, channels_in: tuple[int, ...], channels: int, outputs: int) -> None:
        super().__init__()
        self.lateral_convs = nn.ModuleList(ConvModule(n, channels, 1) for n in channels_in)
        self.fpn_convs = nn.ModuleList(ConvModule(channels, channels, 3) for _ in range(outputs))

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Merge maps, fine to coarse, into maps of ``channels`` at strides 4 and 8."""
        laterals = [conv(x) for conv, x in zip(self.lateral_convs, maps, strict=True)]
        for level in range(len(laterals) - 1, 0, -1):
            finer = laterals[level - 1]
            coarse = F.interpolate(laterals[level], size=finer.shape[-2:], mode="nearest")
            laterals[level - 1] = finer + coarse
        return [self.fpn_convs[level](laterals[level]) for level in range(USED_LEVELS)]


class FeatureExtractor(nn.Module):
    """Backbone, feature pyramid and norms: images to normalised maps at strides 4 and 8."""

    def __init__(self, config: HodorNetworkConfig) -> None:
        super().__init__()
        released = config.backbone == "swin_t"
        body = Swin() if released else build_light_body()
        # The released checkpoints contain levels that are not used.
        outputs, norms = (LEVELS, RELEASED_NORMS) if released else (USED_LEVELS, USED_LEVELS)
        pyramid = NearestPyramid(body.channels, config.width, outputs)
        self.bb_fpn = nn.Sequential(body, pyramid)
        self.norm_layers = nn.ModuleList(
            nn.GroupNorm(NORM_GROUPS, config.width) for _ in range(norms)
        )

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Extract maps (B, C, H/4, W/4) and (B, C, H/8, W/8) from images (B, 3, H, W), sides
        multiples of 32."""
        fine, coarse = self.bb_fpn(images)
        return self.norm_layers[0](fine), self.norm_layers[1](coarse)


def build_light_body(body: MobileNetV2 | None = None) -> MobileNetV2:
    """Fold the norms of a MobileNetV2, of ``body`` or a new one, into its convolutions, which get
    biases."""
    body = (body or MobileNetV2()).eval()  # norms can be folded in eval mode only
    fuse_frozen_norms(body)
    return body
