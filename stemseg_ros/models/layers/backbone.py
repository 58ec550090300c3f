"""Image encoders: one feature map at each of the strides 4, 8, 16, 32."""

from __future__ import annotations

from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import mobilenet_v2
from torchvision.ops import FrozenBatchNorm2d

# The released models were trained by a code base whose frozen batch norm has no epsilon
# (torchvision: 1e-5).
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


class MobileNetV2(nn.Module):
    """torchvision's MobileNetV2 without its classifier, batch norm frozen."""

    channels = (24, 32, 96, 320)

    def __init__(self) -> None:
        super().__init__()
        layers = mobilenet_v2(weights=None, norm_layer=FrozenBatchNorm2d).features
        self.layer1, self.layer2 = layers[:4], layers[4:7]
        self.layer3, self.layer4 = layers[7:14], layers[14:18]

    def forward(self, images: Tensor) -> list[Tensor]:
        """(N, 3, H, W) -> maps of ``channels`` at strides 4, 8, 16, 32."""
        maps = [images]
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            maps.append(stage(maps[-1]))
        return maps[1:]


def build_body(name: str) -> ResNet | MobileNetV2:
    """Build the encoder named by NetworkConfig.backbone."""
    if name == "mobilenet_v2":
        return MobileNetV2()
    return ResNet((3, 4, 23, 3) if name == "resnet101" else (3, 4, 6, 3))
