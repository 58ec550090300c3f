"""Image encoders: one feature map at each of the strides 4, 8, 16, 32."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from functools import partial
from itertools import islice

import torch.nn.functional as F
from torch import Tensor, nn

from stemseg_ros.models.layers.norms import FrozenBatchNorm2d

# The released models were trained by a code base whose frozen batch norm has no epsilon.
CaffeNorm = partial(FrozenBatchNorm2d, eps=0.0)


class Bottleneck(nn.Module):
    """Caffe-style residual block: the stride sits in the first 1x1 convolution, not in the 3x3."""

    def __init__(self, channels_in: int, width: int, stride: int) -> None:
        super().__init__()
        channels_out = 4 * width
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels_out:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels_in, channels_out, 1, stride, bias=False),
                CaffeNorm(channels_out),
            )
        self.conv1 = nn.Conv2d(channels_in, width, 1, stride, bias=False)
        self.bn1 = CaffeNorm(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = CaffeNorm(width)
        self.conv3 = nn.Conv2d(width, channels_out, 1, bias=False)
        self.bn3 = CaffeNorm(channels_out)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        return F.relu(self.bn3(self.conv3(y)) + self.downsample(x))


class Stem(nn.Module):
    """First 7x7 convolution of a ResNet, to stride 4."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, padding=3, bias=False)
        self.bn1 = CaffeNorm(64)

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, padding=1)


class ResNet(nn.Module):
    """ResNet in the layout of the released checkpoints; ``blocks`` per stage: (3, 4, 23, 3) is
    ResNet-101."""

    channels = (256, 512, 1024, 2048)

    def __init__(self, blocks: tuple[int, int, int, int]) -> None:
        super().__init__()
        self.stem = Stem()
        self.layer1 = self._stage(64, 64, blocks[0], stride=1)
        self.layer2 = self._stage(256, 128, blocks[1], stride=2)
        self.layer3 = self._stage(512, 256, blocks[2], stride=2)
        self.layer4 = self._stage(1024, 512, blocks[3], stride=2)

    @staticmethod
    def _stage(channels_in: int, width: int, blocks: int, stride: int) -> nn.Sequential:
        rest = [Bottleneck(4 * width, width, 1) for _ in range(blocks - 1)]
        return nn.Sequential(Bottleneck(channels_in, width, stride), *rest)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(N, 3, H, W) -> maps of ``channels`` at strides 4, 8, 16, 32."""
        maps = [self.stem(images)]
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            maps.append(stage(maps[-1]))
        return maps[1:]


MOBILE_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
"""Expansion, channels, blocks and stride of the first block (Table 2 of the MobileNetV2 paper)."""


class Relu6(nn.Module):
    """ReLU up to 6, as a clamp: PyTorch's own takes the exporter a second each."""

    def forward(self, x: Tensor) -> Tensor:
        return x.clamp(0.0, 6.0)


class InvertedResidual(nn.Module):
    """Expands to ``expansion`` times the channels, filters each of them alone, and projects
    linearly; a residual connection where the shape stays."""

    def __init__(self, channels_in: int, channels: int, expansion: int, stride: int) -> None:
        super().__init__()
        hidden = expansion * channels_in
        expand = [] if expansion == 1 else [_conv_norm_relu6(channels_in, hidden, 1)]
        self.conv = nn.Sequential(
            *expand,
            _conv_norm_relu6(hidden, hidden, 3, stride, groups=hidden),
            nn.Conv2d(hidden, channels, 1, bias=False),
            FrozenBatchNorm2d(channels),
        )
        self._residual = stride == 1 and channels_in == channels

    def forward(self, x: Tensor) -> Tensor:
        projected: Tensor = self.conv(x)
        return x + projected if self._residual else projected


class MobileNetV2(nn.Module):
    """MobileNetV2 (Sandler et al., CVPR 2018) without its classifier, batch norm frozen.

    Layers are numbered through from 0, as checkpoints name them.
    """

    channels = (24, 32, 96, 320)

    def __init__(self) -> None:
        super().__init__()
        layers = _mobile_layers()
        self.layer1, self.layer2, self.layer3, self.layer4 = (
            nn.Sequential(OrderedDict(islice(layers, number))) for number in (4, 3, 7, 4)
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")

    def forward(self, images: Tensor) -> list[Tensor]:
        """(N, 3, H, W) -> maps of ``channels`` at strides 4, 8, 16, 32."""
        maps = [images]
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            maps.append(stage(maps[-1]))
        return maps[1:]


def _mobile_layers() -> Iterator[tuple[str, nn.Module]]:
    width, number = 32, 1
    yield "0", _conv_norm_relu6(3, width, 3, stride=2)
    for expansion, channels, blocks, stride in MOBILE_STAGES:
        for block in range(blocks):
            layer = InvertedResidual(width, channels, expansion, stride if block == 0 else 1)
            yield str(number), layer
            width, number = channels, number + 1


def _conv_norm_relu6(
    channels_in: int, channels: int, size: int, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    conv = nn.Conv2d(
        channels_in, channels, size, stride, padding=size // 2, groups=groups, bias=False
    )
    return nn.Sequential(conv, FrozenBatchNorm2d(channels), Relu6())


def build_body(name: str) -> ResNet | MobileNetV2:
    """Build the encoder named by NetworkConfig.backbone."""
    if name == "mobilenet_v2":
        return MobileNetV2()
    return ResNet((3, 4, 23, 3) if name == "resnet101" else (3, 4, 6, 3))
