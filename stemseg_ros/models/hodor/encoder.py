"""Descriptors of a frame: one for each background cell and object, refined by soft-masked
attention (Sec. 3.2; Athar et al., arXiv 2206.00182)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stemseg_ros.models.hodor.settings import BACKGROUNDS, HodorNetworkConfig

MASK_SCALES = (32.0, 32.0, 16.0, 16.0, 8.0, 8.0, 4.0, 4.0)
"""How strongly each head keeps to the mask, before training."""


class SoftMaskedAttention(nn.Module):
    """Attention of descriptors to pixels that costs more the less a pixel's mask holds."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.scaling_factors = nn.Parameter(initial_mask_scales(heads))
        self.q_proj, self.k_proj = nn.Linear(width, width), nn.Linear(width, width)
        self.v_proj, self.out_proj = nn.Linear(width, width), nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, descriptors: Tensor, pixels: Tensor, masks: Tensor, seen: Tensor) -> Tensor:
        """(B, N, C), (B, P, C), masks (B, N, P) in [0, 1], seen bool (B, P) -> (B, N, C)."""
        q = split_heads(self.q_proj(descriptors), self.heads)
        k = split_heads(self.k_proj(pixels), self.heads)
        v = split_heads(self.v_proj(pixels), self.heads)
        logits = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
        logits = logits - self.scaling_factors[:, None, None] * (1 - masks[:, None])
        logits = logits.masked_fill(~seen[:, None, None], -torch.inf)
        result: Tensor = self.out_proj(join_heads(self.dropout(logits.softmax(-1)) @ v))
        return result


class EncoderLayer(nn.Module):
    """Descriptors attend to each other, then to the pixels of the frame; post-norm."""

    def __init__(self, config: HodorNetworkConfig) -> None:
        super().__init__()
        width, dropout = config.width, config.dropout
        self.self_attn = nn.MultiheadAttention(width, config.heads, dropout, batch_first=True)
        self.norm1 = nn.LayerNorm(width)
        self.cross_attn = SoftMaskedAttention(width, config.heads, dropout)
        self.norm2 = nn.LayerNorm(width)
        self.ffn = nn.Sequential(
            nn.Linear(width, config.encoder_hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(config.encoder_hidden, width),
        )
        self.norm3 = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, descriptors: Tensor, embeddings: Tensor, pixels: Tensor, masks: Tensor, seen: Tensor
    ) -> Tensor:
        named = descriptors + embeddings
        mixed = self.self_attn(named, named, descriptors, need_weights=False)[0]
        descriptors = self.norm1(descriptors + self.dropout(mixed))
        found = self.cross_attn(descriptors, pixels, masks, seen)
        descriptors = self.norm2(descriptors + self.dropout(found))
        result: Tensor = self.norm3(descriptors + self.dropout(self.ffn(descriptors)))
        return result


class Encoder(nn.Module):
    """Features and regions of a frame to its descriptors."""

    def __init__(self, config: HodorNetworkConfig) -> None:
        super().__init__()
        self.fg_query_embed = nn.Parameter(torch.randn(config.width))
        self.bg_query_embed = nn.Parameter(torch.randn(BACKGROUNDS, config.width))
        self.attn_layers = nn.ModuleList(
            EncoderLayer(config) for _ in range(config.encoder_layers)
        )

    def forward(self, features: Tensor, regions: Tensor, content: Tensor) -> Tensor:
        """Describe the regions of frames.

        features: (B, C, h, w) at stride 8; regions: (B, 9 + I, h, w) in [0, 1], background first;
        content: int64 (B, 2), rows and columns that are seen, the rest is masked.
        Returns (B, 9 + I, C).
        """
        descriptors = initial_descriptors(features, regions)
        seen = seen_pixels(content, features.shape[-2:])
        pixels, masks = features.flatten(2).transpose(-2, -1), regions.flatten(2)
        embeddings = self.embeddings(regions.shape[1] - BACKGROUNDS)
        for layer in self.attn_layers:
            descriptors = layer(descriptors, embeddings, pixels, masks, seen)
        return descriptors

    def embeddings(self, objects: int) -> Tensor:
        """(9 + I, C): what tells background cells and objects apart."""
        return torch.cat((self.bg_query_embed, self.fg_query_embed.expand(objects, -1)))


@torch.no_grad()
def initial_descriptors(features: Tensor, regions: Tensor) -> Tensor:
    """Mean feature over each region's pixels above 0.5: (B, C, h, w), (B, N, h, w) -> (B, N, C).

    Without such pixels an object takes the feature at its best pixel, a background cell zeros.
    """
    pixels, masks = features.flatten(2).transpose(-2, -1), regions.flatten(2)
    inside = (masks > 0.5).to(pixels.dtype)
    count = inside.sum(-1, keepdim=True)
    mean = inside @ pixels / count.clamp(min=1)
    best = masks.argmax(-1)
    fallback = pixels.gather(1, best[..., None].expand(-1, -1, pixels.shape[-1]))
    is_object = torch.arange(masks.shape[1], device=masks.device)[:, None] >= BACKGROUNDS
    return torch.where(count > 0, mean, fallback * is_object)


def initial_mask_scales(heads: int) -> Tensor:
    """(heads,): the released start for 8 heads, spread over any other number."""
    places = torch.arange(heads) * len(MASK_SCALES) // heads
    return torch.tensor(MASK_SCALES)[places]


def seen_pixels(content: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
    """bool (B, h * w): pixels within the content (B, 2) of each map."""
    rows = torch.arange(size[0], device=content.device) < content[:, :1]
    columns = torch.arange(size[1], device=content.device) < content[:, 1:]
    return (rows[:, :, None] & columns[:, None]).flatten(1)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(B, N, C) -> (B, heads, N, C / heads)."""
    result: Tensor = x.unflatten(-1, (heads, -1)).transpose(1, 2)
    return result


def join_heads(x: Tensor) -> Tensor:
    """Undo ``split_heads``."""
    return x.transpose(1, 2).flatten(2)
