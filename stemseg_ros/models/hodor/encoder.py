"""Encoder (Sec. 3.2): one descriptor for each background cell and object of a frame, refined by
soft-masked attention (Athar et al., arXiv 2206.00182)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stemseg_ros.models.hodor.settings import BACKGROUNDS, HodorNetworkConfig

MASK_SCALES = (32.0, 32.0, 16.0, 16.0, 8.0, 8.0, 4.0, 4.0)
"""Initial weight of the mask term in each head."""


class SoftMaskedAttention(nn.Module):
    """Cross-attention from descriptors to pixels, whose logits are lowered where the mask value of
    a pixel is low."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.scaling_factors = nn.Parameter(initial_mask_scales(heads))
        self.q_proj, self.k_proj = nn.Linear(width, width), nn.Linear(width, width)
        self.v_proj, self.out_proj = nn.Linear(width, width), nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, descriptors: Tensor, pixels: Tensor, masks: Tensor, valid: Tensor) -> Tensor:
        """Attend from descriptors (B, N, C) to pixels (B, P, C); returns (B, N, C).

        masks: (B, N, P) in [0, 1]; valid: bool (B, P), False for padding.
        """
        q = split_heads(self.q_proj(descriptors), self.heads)
        k = split_heads(self.k_proj(pixels), self.heads)
        v = split_heads(self.v_proj(pixels), self.heads)
        logits = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
        logits = logits - self.scaling_factors[:, None, None] * (1 - masks[:, None])
        logits = logits.masked_fill(~valid[:, None, None], -torch.inf)
        result: Tensor = self.out_proj(join_heads(self.dropout(logits.softmax(-1)) @ v))
        return result


class EncoderLayer(nn.Module):
    """Self-attention among descriptors, then cross-attention to the pixels of the frame;
    post-norm."""

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
        self, descriptors: Tensor, embeddings: Tensor, pixels: Tensor, masks: Tensor, valid: Tensor
    ) -> Tensor:
        queries = descriptors + embeddings
        mixed = self.self_attn(queries, queries, descriptors, need_weights=False)[0]
        descriptors = self.norm1(descriptors + self.dropout(mixed))
        attended = self.cross_attn(descriptors, pixels, masks, valid)
        descriptors = self.norm2(descriptors + self.dropout(attended))
        result: Tensor = self.norm3(descriptors + self.dropout(self.ffn(descriptors)))
        return result


class Encoder(nn.Module):
    """Encoder from the features and regions of a frame to its descriptors."""

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
        content: int64 (B, 2), rows and columns of the image content; the padding is masked.
        Returns (B, 9 + I, C).
        """
        descriptors = pool_descriptors(features, regions)
        valid = mark_content(content, features.shape[-2:])
        pixels, masks = features.flatten(2).transpose(-2, -1), regions.flatten(2)
        embeddings = self.embeddings(regions.shape[1] - BACKGROUNDS)
        for layer in self.attn_layers:
            descriptors = layer(descriptors, embeddings, pixels, masks, valid)
        return descriptors

    def embeddings(self, objects: int) -> Tensor:
        """Return the learned embeddings (9 + I, C) of the background cells and of ``objects``
        objects."""
        return torch.cat((self.bg_query_embed, self.fg_query_embed.expand(objects, -1)))


@torch.no_grad()
def pool_descriptors(features: Tensor, regions: Tensor) -> Tensor:
    """Average the features over the pixels of each region that are above 0.5.

    features: (B, C, h, w); regions: (B, N, h, w). Returns (B, N, C). Without such pixels an object
    takes the feature at its maximum, a background cell zeros.
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
    """Return the initial mask scales (heads,): those of the released code for 8 heads, resampled
    for any other number."""
    source = torch.arange(heads) * len(MASK_SCALES) // heads
    return torch.tensor(MASK_SCALES)[source]


def mark_content(content: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
    """Mark the pixels within the content (B, 2) of each map: bool (B, h * w)."""
    rows = torch.arange(size[0], device=content.device) < content[:, :1]
    columns = torch.arange(size[1], device=content.device) < content[:, 1:]
    return (rows[:, :, None] & columns[:, None]).flatten(1)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """Reshape (B, N, C) to (B, heads, N, C / heads)."""
    result: Tensor = x.unflatten(-1, (heads, -1)).transpose(1, 2)
    return result


def join_heads(x: Tensor) -> Tensor:
    """Undo ``split_heads``."""
    return x.transpose(1, 2).flatten(2)
