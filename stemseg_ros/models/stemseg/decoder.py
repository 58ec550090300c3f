"""Temporal squeeze-expand decoder (Sec. 3.5, Fig. 3) and the heads that end one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stemseg_ros.models.stemseg.mixing import coordinate_grid
from stemseg_ros.models.stemseg.settings import NetworkConfig

Widths = tuple[int, int, int, int]
"""Channels of a decoder at strides 32, 16, 8, 4."""
BLOCK_LAYERS = {"block_32x": 3, "block_16x": 2, "block_8x": 1}
"""Convolutions of each squeezing block; a pool that may halve the time axis follows every one."""
BLOCKS = ("block_4x", "block_8x", "block_16x", "block_32x")
"""Squeezing blocks in the order of the encoder's maps."""
EMBEDDING_GAIN = 0.25
"""Factor before the tanh of the embedding, as in the released code (not in the paper)."""
SAFE_WIDTH = 48
"""Fewest output channels of a 1x1x1 convolution that is left to autocast: oneDNN's AMX kernel for
the weight gradient of narrow ones (up to 32) writes past its buffer in bfloat16."""


def pools_of(length: int) -> int:
    """How many pools of a block really halve the time axis, for windows of T frames; the rest do
    nothing."""
    return {2: 0, 4: 1, 8: 2}.get(length, 3)


class PointwiseConv(nn.Conv3d):
    """A 1x1x1 convolution that is trained in float32.

    oneDNN's AMX kernel for its weight gradient in bfloat16 writes past its buffer: with up to 32
    output channels always, with 48 and 64 on large maps.
    """

    def __init__(self, channels_in: int, channels: int, *, bias: bool = False) -> None:
        super().__init__(channels_in, channels, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, T, h, w) -> (N, channels, T, h, w)."""
        if not torch.is_grad_enabled():
            return super().forward(x)
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x.float())


class SqueezeExpandDecoder(nn.Module):
    """Compresses the coarse maps in time with 3D convolutions and pools, then expands them to
    stride 4. A head adds output layers."""

    def __init__(self, channels_in: int, channels: Widths, groups: int, length: int) -> None:
        super().__init__()
        c32, c16, c8, c4 = channels
        pools = pools_of(length)
        for (name, layers), width in zip(BLOCK_LAYERS.items(), channels[:3], strict=True):
            self.add_module(name, _squeeze(channels_in, width, layers, groups, pools))
        self.block_4x = nn.Sequential(
            nn.Conv3d(channels_in, c4, 3, padding=1), nn.GroupNorm(groups, c4), nn.ReLU()
        )
        self.conv_16 = PointwiseConv(c32 + c16, c16)
        self.conv_8 = PointwiseConv(c16 + c8, c8)
        self.conv_4 = PointwiseConv(c8 + c4, c4)
        # Temporal factors of the three steps undo what the finer of the two maps was pooled less.
        self.expand = tuple(2 if pools >= n else 1 for n in (3, 2, 1))

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Four maps (N, C, T, h_s, w_s), s = 4, 8, 16, 32 -> float32 (N, outputs, T, h_4, w_4),
        those of all output layers."""
        x: Tensor = self.block("block_32x")(maps[3])
        fuse = (self.conv_16, self.conv_8, self.conv_4)
        for level, time, conv in zip((2, 1, 0), self.expand, fuse, strict=True):
            x = enlarge(x, time)
            x = conv(torch.cat((x, self.block(BLOCKS[level])(maps[level])), dim=1))
        x = x.float()  # once for all output layers
        return torch.cat([layer(x) for layer in self.output_layers()], dim=1)

    def block(self, name: str) -> nn.Sequential:
        """The squeezing block of that name."""
        block = self.get_submodule(name)
        assert isinstance(block, nn.Sequential)
        return block

    def first_conv(self, name: str) -> nn.Conv3d:
        """The first convolution of a block, which reads the maps of single frames."""
        conv = self.block(name)[0]
        assert isinstance(conv, nn.Conv3d)
        return conv

    def output_layers(self) -> list[nn.Conv3d]:
        """The 1x1x1 convolutions that end a decoder."""
        raise NotImplementedError


def enlarge(x: Tensor, time: int) -> Tensor:
    """Interpolate (N, C, T, h, w) to twice the height and width and ``time`` times the frames."""
    factor = (float(time), 2.0, 2.0)
    return F.interpolate(x, scale_factor=factor, mode="trilinear", align_corners=False)


class EmbeddingHead(SqueezeExpandDecoder):
    """Embeddings, raw variances and, unless a decoder of its own exists, the heat map."""

    time_scale: Tensor

    def __init__(self, config: NetworkConfig, length: int) -> None:
        super().__init__(config.fpn_channels, config.decoder_channels, config.norm_groups, length)
        width, dims = config.decoder_channels[3], config.embedding_dims
        self.config = config
        self.register_buffer("time_scale", torch.tensor(1.0))
        self.conv_embedding = PointwiseConv(width, dims)
        self.conv_variance = PointwiseConv(width, dims - config.free_dims, bias=True)
        has_heatmap = config.heatmap_head == "embedding"
        self.conv_seediness = PointwiseConv(width, 1) if has_heatmap else None

    def output_layers(self) -> list[nn.Conv3d]:
        """See ``SqueezeExpandDecoder``."""
        last = [] if self.conv_seediness is None else [self.conv_seediness]
        return [self.conv_embedding, self.conv_variance, *last]

    def forward(self, maps: Sequence[Tensor]) -> EmbeddingMaps:  # type: ignore[override]
        """Four maps (N, C, T, h_s, w_s), s = 4, 8, 16, 32 -> EmbeddingMaps."""
        return embedding_maps(super().forward(maps), self.config, self.time_scale)


class MapHead(SqueezeExpandDecoder):
    """A decoder that ends in ``outputs`` channels: semantic logits, or the heat map before its
    sigmoid."""

    def __init__(self, config: NetworkConfig, channels: Widths, outputs: int, length: int) -> None:
        super().__init__(config.fpn_channels, channels, config.norm_groups, length)
        self.conv_out = PointwiseConv(channels[3], outputs)

    def output_layers(self) -> list[nn.Conv3d]:
        """See ``SqueezeExpandDecoder``."""
        return [self.conv_out]


EmbeddingMaps = tuple[Tensor, Tensor, Tensor | None]
"""Embeddings (N, E, T, h, w), raw variance (N, V, T, h, w), heat map (N, 1, T, h, w) or None."""


def embedding_maps(outputs: Tensor, config: NetworkConfig, time_scale: Tensor) -> EmbeddingMaps:
    """What the output layers of the embedding decoder mean.

    outputs: float32 (N, E + V, T, h, w) or, with the heat map, (N, E + V + 1, T, h, w). Offsets
    and grid are added in float32: half precision has too few digits for pixel coordinates.
    """
    dims = config.embedding_dims
    offsets = torch.tanh(outputs[:, :dims] * EMBEDDING_GAIN)
    _, _, length, height, width = outputs.shape
    grid = coordinate_grid(config.mixing, (length, height, width), config.coordinates, time_scale)
    variance_end = 2 * dims - config.free_dims
    has_heatmap = config.heatmap_head == "embedding"
    heatmap = torch.sigmoid(outputs[:, variance_end:]) if has_heatmap else None
    return offsets + grid, outputs[:, dims:variance_end], heatmap


def _squeeze(
    channels_in: int, channels: int, layers: int, groups: int, pools: int
) -> nn.Sequential:
    modules: list[nn.Module] = []
    for layer in range(layers):
        modules += [
            nn.Conv3d(channels_in if layer == 0 else channels, channels, 3, padding=1),
            nn.GroupNorm(groups, channels),
            nn.ReLU(),
            nn.AvgPool3d(3, stride=(2, 1, 1), padding=1) if layer < pools else nn.Identity(),
        ]
    return nn.Sequential(*modules)
