"""Swin-T in the layout of its authors' detectors (Liu et al., ICCV 2021), which differs from
torchvision's in its parameter names, a norm on each output, and a shift even if the map is a
single window."""

from __future__ import annotations

from functools import lru_cache
from itertools import islice
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

WINDOW = 7
SHIFT = WINDOW // 2
HEAD_WIDTH = 32
MLP_RATIO = 4


class WindowAttention(nn.Module):
    """Self-attention within windows of 7x7 tokens, with a learned relative position bias."""

    relative_position_index: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = width // HEAD_WIDTH
        offsets = (2 * WINDOW - 1) ** 2
        self.relative_position_bias_table = nn.Parameter(torch.zeros(offsets, self.heads))
        self.register_buffer("relative_position_index", offset_index())
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, shift_mask: Tensor | None) -> Tensor:
        """Attend within windows (B, windows, 49, C); shift_mask: (windows, 49, 49), added to the
        logits."""
        batch, windows, tokens, width = x.shape
        qkv = self.qkv(x).view(batch, windows, tokens, 3, self.heads, HEAD_WIDTH)
        q, k, v = qkv.permute(3, 0, 1, 4, 2, 5)
        bias = self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)
        if shift_mask is not None:
            bias = bias + shift_mask[:, None]
        logits = (q * HEAD_WIDTH**-0.5) @ k.transpose(-2, -1) + bias
        mixed = logits.softmax(-1) @ v
        result: Tensor = self.proj(mixed.transpose(2, 3).reshape(batch, windows, tokens, width))
        return result


class Mlp(nn.Module):
    """Feed-forward network of a block."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, MLP_RATIO * width)
        self.fc2 = nn.Linear(MLP_RATIO * width, width)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return result


class Block(nn.Module):
    """Window attention and feed-forward network, both pre-norm and residual."""

    def __init__(self, width: int, shifted: bool, drop_path: float) -> None:
        super().__init__()
        self.shift, self.drop_path = (SHIFT if shifted else 0), drop_path
        self.norm1 = nn.LayerNorm(width)
        self.attn = WindowAttention(width)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = Mlp(width)

    def forward(self, x: Tensor) -> Tensor:
        """Transform tokens (B, H, W, C)."""
        x = x + self._drop(self._attend(self.norm1(x)))
        return x + self._drop(self.mlp(self.norm2(x)))

    def _attend(self, x: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        # Padded tokens are not masked, as in the released code.
        x = F.pad(x, (0, 0, 0, -width % WINDOW, 0, -height % WINDOW))
        size = (x.shape[1], x.shape[2])
        mask = None
        if self.shift:
            x = x.roll((-self.shift, -self.shift), (1, 2))
            mask = shift_mask(size, x.device).to(x.dtype)
        x = from_windows(self.attn(to_windows(x), mask), size)
        if self.shift:
            x = x.roll((self.shift, self.shift), (1, 2))
        return x[:, :height, :width]

    def _drop(self, x: Tensor) -> Tensor:
        """Apply stochastic depth: in training, drop the branch for whole samples."""
        if not self.training or self.drop_path == 0.0:
            return x
        keep = x.new_empty(x.shape[0], 1, 1, 1).bernoulli_(1 - self.drop_path)
        return x * keep / (1 - self.drop_path)


class Downsample(nn.Module):
    """Patch merging: 2x2 tokens become one of twice the width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.reduction = nn.Linear(4 * width, 2 * width, bias=False)
        self.norm = nn.LayerNorm(4 * width)

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
        phases = [x[:, row::2, column::2] for row, column in ((0, 0), (1, 0), (0, 1), (1, 1))]
        result: Tensor = self.reduction(self.norm(torch.cat(phases, -1)))
        return result


class Stage(nn.Module):
    """Blocks at one stride, and the downsampling to the next."""

    def __init__(self, width: int, drop_paths: list[float], last: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            Block(width, position % 2 == 1, drop) for position, drop in enumerate(drop_paths)
        )
        self.downsample = None if last else Downsample(width)


class PatchEmbedding(nn.Module):
    """Projection of 4x4 image patches to tokens."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, 4, 4)
        self.norm = nn.LayerNorm(width)

    def forward(self, images: Tensor) -> Tensor:
        result: Tensor = self.norm(self.proj(images).permute(0, 2, 3, 1))
        return result


class Swin(nn.Module):
    """Swin-T; its maps at strides 4, 8, 16, 32 have a norm each."""

    channels = (96, 192, 384, 768)

    def __init__(self, depths: tuple[int, ...] = (2, 2, 6, 2), drop_path: float = 0.2) -> None:
        super().__init__()
        self.patch_embed = PatchEmbedding(self.channels[0])
        drops = iter(np.linspace(0, drop_path, sum(depths)).tolist())
        self.layers = nn.ModuleList(
            Stage(width, list(islice(drops, depth)), width == self.channels[-1])
            for width, depth in zip(self.channels, depths, strict=True)
        )
        for level, width in enumerate(self.channels):
            self.add_module(f"norm{level}", nn.LayerNorm(width))

    def forward(self, images: Tensor) -> list[Tensor]:
        """Extract maps of ``channels`` at strides 4, 8, 16, 32 from images (B, 3, H, W), H and W
        multiples of 4; sizes are rounded up."""
        x = self.patch_embed(images)
        maps = []
        for level, stage in enumerate(cast("list[Stage]", list(self.layers))):
            for block in stage.blocks:
                x = block(x)
            maps.append(self.get_submodule(f"norm{level}")(x).permute(0, 3, 1, 2))
            if stage.downsample is not None:
                x = stage.downsample(x)  # takes the map before its norm
        return maps


def to_windows(x: Tensor) -> Tensor:
    """Partition (B, H, W, C), H and W multiples of 7, into (B, windows, 49, C)."""
    batch, height, width, channels = x.shape
    x = x.view(batch, height // WINDOW, WINDOW, width // WINDOW, WINDOW, channels)
    return x.transpose(2, 3).reshape(batch, -1, WINDOW**2, channels)


def from_windows(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Undo ``to_windows`` for a map of ``size`` (H, W)."""
    rows, columns = (side // WINDOW for side in size)
    x = x.view(x.shape[0], rows, columns, WINDOW, WINDOW, x.shape[-1]).transpose(2, 3)
    return x.reshape(x.shape[0], *size, x.shape[-1])


def offset_index() -> Tensor:
    """Return the index int64 (49, 49) into the bias table for tokens i and j of a window."""
    tokens = torch.arange(WINDOW**2)
    rows, columns = tokens // WINDOW, tokens % WINDOW
    reach = WINDOW - 1
    row_offsets = rows[:, None] - rows[None] + reach
    column_offsets = columns[:, None] - columns[None] + reach
    return row_offsets * (2 * WINDOW - 1) + column_offsets


@lru_cache(maxsize=32)
@torch.inference_mode(False)
def shift_mask(size: tuple[int, int], device: torch.device) -> Tensor:
    """Return (windows, 49, 49): -100 between tokens that are neighbours only through the cyclic
    shift, else 0."""
    rows, columns = (_regions(side) for side in size)
    regions = (3 * rows[:, None] + columns[None]).float()
    tokens = to_windows(regions[None, :, :, None])[0, ..., 0]
    apart = tokens[:, :, None] != tokens[:, None, :]
    return (-100.0 * apart).to(device)


def _regions(side: int) -> Tensor:
    """Number the region of each row (or column); regions begin at -7 and -3."""
    positions = torch.arange(side)
    return (positions >= side - WINDOW).long() + (positions >= side - SHIFT).long()
