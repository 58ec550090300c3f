"""Backbone and feature pyramid P3 to P7, with the parameter names of mmdet."""

from __future__ import annotations

from collections import OrderedDict
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import ResNet, resnet50, resnet101
from torchvision.models.resnet import Bottleneck

from stemseg_ros.models.layers.backbone import MobileNetV2
from stemseg_ros.models.stc.settings import CondInstVariant, StcNetworkConfig

STRIDES = (8, 16, 32, 64, 128)
"""Pixels of the padded input per cell of P3 to P7."""


def conv_block(
    channels_in: int,
    channels_out: int,
    *,
    kernel: int = 3,
    stride: int = 1,
    batch_norm: bool = False,
    groups: int = 0,
) -> nn.Sequential:
    """Build a convolution, followed by BatchNorm or GroupNorm of ``groups`` and ReLU if chosen.

    Only BatchNorm replaces the bias. Names are those of mmdet: conv, bn, gn.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["conv"] = nn.Conv2d(
        channels_in, channels_out, kernel, stride, padding=kernel // 2, bias=not batch_norm
    )
    if batch_norm:
        layers["bn"] = nn.BatchNorm2d(channels_out)
    if groups:
        layers["gn"] = nn.GroupNorm(groups, channels_out)
    if batch_norm or groups:
        layers["relu"] = nn.ReLU()
    return nn.Sequential(layers)


class ResNetBody(nn.Module):
    """torchvision's ResNet without its classifier; batch norms stay in eval mode.

    The stride of a bottleneck is in its 3x3 convolution, as in mmdet; for adelaidet it is moved to
    the first 1x1 convolution.
    """

    channels = (512, 1024, 2048)

    def __init__(self, name: str, variant: CondInstVariant) -> None:
        super().__init__()
        resnet: ResNet = (resnet101 if name == "resnet101" else resnet50)(weights=None)
        for part in ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4"):
            self.add_module(part, resnet.get_submodule(part))
        if variant == "adelaidet":
            for stage in ("layer2", "layer3", "layer4"):
                block = cast(Bottleneck, self.get_submodule(f"{stage}.0"))
                block.conv1.stride, block.conv2.stride = block.conv2.stride, block.conv1.stride

    def train(self, mode: bool = True) -> ResNetBody:
        """Set the mode, except of batch norms, whose statistics are frozen."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self

    def forward(self, images: Tensor) -> list[Tensor]:
        """Extract C3, C4, C5 at strides 8, 16, 32 from images (N, 3, H, W)."""
        x = F.relu(self.get_submodule("bn1")(self.get_submodule("conv1")(images)))
        maps = [self.get_submodule("layer1")(F.max_pool2d(x, 3, 2, padding=1))]
        for stage in ("layer2", "layer3", "layer4"):
            maps.append(self.get_submodule(stage)(maps[-1]))
        return maps[1:]


class LightBody(nn.Module):
    """MobileNetV2 with frozen batch norms."""

    channels = MobileNetV2.channels[1:]

    def __init__(self) -> None:
        super().__init__()
        self.mobilenet = MobileNetV2()

    def forward(self, images: Tensor) -> list[Tensor]:
        """Extract maps of ``channels`` at strides 8, 16, 32 from images (N, 3, H, W)."""
        maps: list[Tensor] = self.mobilenet(images)[1:]
        return maps


def build_body(network: StcNetworkConfig, variant: CondInstVariant) -> ResNetBody | LightBody:
    """Build the backbone that ``network.backbone`` names."""
    if network.backbone == "mobilenet_v2":
        return LightBody()
    return ResNetBody(network.backbone, variant)


class PyramidLevels(nn.Module):
    """Feature pyramid of five levels at strides 8 to 128, with nearest-neighbour upsampling,
    without norms and activations."""

    def __init__(self, channels_in: tuple[int, ...], channels: int) -> None:
        super().__init__()
        self.lateral_convs = nn.ModuleList(
            conv_block(width, channels, kernel=1) for width in channels_in
        )
        self.fpn_convs = nn.ModuleList(
            conv_block(channels, channels, stride=1 if level < len(channels_in) else 2)
            for level in range(len(STRIDES))
        )

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Compute P3, P4, P5 from C3, C4, C5, then P6 from P5 and P7 from ReLU(P6)."""
        inner = [conv(m) for conv, m in zip(self.lateral_convs, maps, strict=True)]
        for level in range(len(inner) - 1, 0, -1):
            above = F.interpolate(inner[level], size=inner[level - 1].shape[-2:], mode="nearest")
            inner[level - 1] = inner[level - 1] + above
        levels = [conv(m) for conv, m in zip(self.fpn_convs, inner, strict=False)]
        levels.append(self.fpn_convs[3](levels[-1]))
        levels.append(self.fpn_convs[4](F.relu(levels[-1])))
        return levels
