"""Heads that predict class, box, centerness, mask filters and embedding at every location."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stemseg_ros.models.stc.pyramid import STRIDES, conv_block
from stemseg_ros.models.stc.settings import StcNetworkConfig, TrackingConfig

PRIOR = 0.01
"""Initial probability of every class (focal loss, Lin et al., ICCV 2017)."""


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """The L locations of the pyramid of one input size, P3 to P7, row by row."""

    points: Tensor
    """(L, 2) x, y of the centre of each cell, in pixels of the padded input."""
    strides: Tensor
    """(L,) pixels per cell."""
    level_sizes: tuple[tuple[int, int], ...]
    """(h, w) of each level."""

    @property
    def level_lengths(self) -> list[int]:
        """Number of locations of each level."""
        return [height * width for height, width in self.level_sizes]


def location_grid(
    padded_size: tuple[int, int],
    device: torch.device | None = None,
    dtype: torch.dtype = torch.float32,
) -> Grid:
    """Build the grid of an input of (H'', W''), multiples of 32."""
    sizes, points, strides = [], [], []
    height, width = padded_size
    for stride in STRIDES:
        h, w = -(-height // stride), -(-width // stride)
        y, x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
        points.append(torch.stack((x, y), -1).flatten(0, 1) * stride + stride // 2)
        strides.append(torch.full((h * w,), stride))
        sizes.append((h, w))
    return Grid(
        torch.cat(points).to(device, dtype), torch.cat(strides).to(device, dtype), tuple(sizes)
    )


@dataclass(frozen=True, slots=True, eq=False)
class HeadOutput:
    """Predictions at the L locations of N images."""

    class_logits: Tensor
    """(N, L, C), one sigmoid for each class, no background."""
    distances: Tensor
    """(N, L, 4) left, top, right, bottom >= 0, in strides of the location's level."""
    centerness_logits: Tensor
    """(N, L)."""
    parameters: Tensor
    """(N, L, P), filters of the dynamic mask head."""
    embeddings: Tensor
    """(N, L, E); E is 0 without a tracking head."""


class LevelScale(nn.Module):
    """A learned factor, one for each level."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


def _tower(channels: int, convs: int, groups: int) -> nn.Sequential:
    return nn.Sequential(*(conv_block(channels, channels, groups=groups) for _ in range(convs)))


class FcosHead(nn.Module):
    """Head of FCOS (Tian et al., ICCV 2019) with CondInst's controller, shared by all levels."""

    def __init__(self, network: StcNetworkConfig, parameters: int) -> None:
        super().__init__()
        channels, classes = network.fpn_channels, len(network.classes)
        self.cls_convs = _tower(channels, network.head_convs, network.norm_groups)
        self.reg_convs = _tower(channels, network.head_convs, network.norm_groups)
        self.conv_cls = nn.Conv2d(channels, classes, 3, padding=1)
        self.conv_reg = nn.Conv2d(channels, 4, 3, padding=1)
        self.conv_centerness = nn.Conv2d(channels, 1, 3, padding=1)
        self.controller = nn.Conv2d(channels, parameters, 3, padding=1)
        self.scales = nn.ModuleList(LevelScale() for _ in STRIDES)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                _initialise(module)
        nn.init.constant_(self.conv_cls.bias, math.log(PRIOR / (1 - PRIOR)))  # type: ignore[arg-type]


class TrackingHead(nn.Module):
    """Head that predicts an embedding for each location, from the box tower or its own tower."""

    def __init__(self, network: StcNetworkConfig, tracking: TrackingConfig) -> None:
        super().__init__()
        self.own_tower = tracking.tower_convs > 0
        self.convs = _tower(network.fpn_channels, tracking.tower_convs, network.norm_groups)
        self.output = nn.Conv2d(network.fpn_channels, tracking.channels, 3, padding=1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                _initialise(module)

    def forward(self, level: Tensor, box_tower: Tensor) -> Tensor:
        """Predict (N, E, h, w) from (N, channels, h, w) of the pyramid and of the box tower."""
        embedded: Tensor = self.output(self.convs(level) if self.own_tower else box_tower)
        return embedded


def predict_locations(
    levels: Sequence[Tensor], head: FcosHead, tracking: TrackingHead | None
) -> HeadOutput:
    """Apply the heads to P3 to P7; returns the predictions of all locations."""
    rows: list[tuple[Tensor, ...]] = []
    for level, scale in zip(levels, head.scales, strict=True):
        class_tower, box_tower = head.cls_convs(level), head.reg_convs(level)
        maps = (
            head.conv_cls(class_tower),
            F.relu(scale(head.conv_reg(box_tower))),
            head.conv_centerness(box_tower),
            head.controller(box_tower),
            level[:, :0] if tracking is None else tracking(level, box_tower),
        )
        rows.append(tuple(m.flatten(2).transpose(1, 2) for m in maps))
    logits, distances, centerness, parameters, embeddings = (
        torch.cat(columns, 1) for columns in zip(*rows, strict=True)
    )
    return HeadOutput(logits, distances, centerness.squeeze(2), parameters, embeddings)


def _initialise(conv: nn.Conv2d) -> None:
    nn.init.normal_(conv.weight, std=0.01)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
