"""Mask head with dynamic filters: shared mask features, three small layers for each location."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stemseg_ros.models.stc.pyramid import conv_block
from stemseg_ros.models.stc.settings import MASK_FEATURES, StcNetworkConfig

FEATURE_STRIDE = 8
"""Pixels of the padded input per cell of the mask features."""
MASK_STRIDE = 4
"""Pixels of the padded input per cell of the mask logits."""
LAYERS = ((MASK_FEATURES + 2, MASK_FEATURES), (MASK_FEATURES, MASK_FEATURES), (MASK_FEATURES, 1))
"""Input and output channels of the three layers; the first also takes relative coordinates."""
PARAMETERS = sum(inputs * outputs + outputs for inputs, outputs in LAYERS)
"""Filter parameters of a location, predicted by the controller: all weights, then all biases."""


class MaskBranch(nn.Module):
    """Branch that merges P3, P4, P5 into one map of mask features at stride 8."""

    def __init__(self, network: StcNetworkConfig) -> None:
        super().__init__()
        width, channels = network.mask_channels, network.fpn_channels
        self.convs_all_levels = nn.ModuleList(
            nn.Sequential(
                OrderedDict({f"conv{level}": conv_block(channels, width, batch_norm=True)})
            )
            for level in range(3)
        )
        self.conv_branch = nn.Sequential(
            *(conv_block(width, width, batch_norm=True) for _ in range(network.mask_convs))
        )
        self.conv_pred = nn.Conv2d(width, MASK_FEATURES, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, a=1)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """Merge P3, P4, P5, each (N, channels, h, w), into (N, 8, h3, w3)."""
        total: Tensor = self.convs_all_levels[0](levels[0])
        for number in (1, 2):
            total = total + upsample_aligned(
                self.convs_all_levels[number](levels[number]), 2**number
            )
        features: Tensor = self.conv_pred(self.conv_branch(total))
        return features


class MaskHead(nn.Module):
    """Parameters of the mask head; its filters are predicted."""

    def __init__(self, network: StcNetworkConfig) -> None:
        super().__init__()
        self.mask_feature_head = MaskBranch(network)


def upsample_aligned(maps: Tensor, factor: int) -> Tensor:
    """Upsample (N, C, h, w) to (N, C, factor * h, factor * w).

    Output cell j samples the input at max(j - factor // 2, 0) / factor, linearly, so that cell
    centres keep their position; this differs from ``align_corners=False``.
    """
    height, width = maps.shape[-2:]
    padded = F.pad(maps, (0, 1, 0, 1), mode="replicate")
    size = (factor * height + 1, factor * width + 1)
    upsampled = F.interpolate(padded, size=size, mode="bilinear", align_corners=True)
    shift = factor // 2
    upsampled = F.pad(upsampled, (shift, 0, shift, 0), mode="replicate")
    return upsampled[..., : factor * height, : factor * width]


def predict_masks(features: Tensor, parameters: Tensor, points: Tensor, strides: Tensor) -> Tensor:
    """Predict the masks of D locations by their own filters (CondInst, Sec. 3.2).

    features: (8, h, w) of one image, or (D, 8, h, w). parameters: (D, 169). points:
    (D, 2), x and y in pixels. strides: (D,). Returns (D, 2 h, 2 w) logits, stride 4.
    """
    height, width = features.shape[-2:]
    weights, biases = split_parameters(parameters)
    offsets = _offsets(points, strides, height, width)  # (D, 2, hw)
    # One product for all D: copying the features for each location would cost memory.
    hidden = weights[0][:, :, 2:] @ features.flatten(-2)
    hidden = F.relu(hidden + weights[0][:, :, :2] @ offsets + biases[0])
    hidden = F.relu(weights[1] @ hidden + biases[1])
    logits = weights[2] @ hidden + biases[2]
    return upsample_aligned(logits.unflatten(2, (height, width)), 2).squeeze(1)


def split_parameters(parameters: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Split (D, 169) into weights (D, out, in) and biases (D, out, 1) of the three layers."""
    sizes = [inputs * outputs for inputs, outputs in LAYERS] + [out for _, out in LAYERS]
    parts = parameters.split(sizes, dim=1)
    weights = [
        part.unflatten(1, (outputs, inputs))
        for part, (inputs, outputs) in zip(parts[:3], LAYERS, strict=True)
    ]
    return weights, [part.unsqueeze(2) for part in parts[3:]]


def _offsets(points: Tensor, strides: Tensor, height: int, width: int) -> Tensor:
    """Compute relative coordinates (D, 2, hw), from cell to location, in units of 8 strides."""
    half = FEATURE_STRIDE // 2
    x = torch.arange(width, device=points.device, dtype=points.dtype) * FEATURE_STRIDE + half
    y = torch.arange(height, device=points.device, dtype=points.dtype) * FEATURE_STRIDE + half
    cells = torch.stack(
        (x.expand(height, width).flatten(), y[:, None].expand(height, width).flatten())
    )
    return (points[:, :, None] - cells) / (8 * strides)[:, None, None]
