"""Decoder (Sec. 3.3): segments a frame by comparing its features with object descriptors from
earlier frames."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import deform_conv2d

from stemseg_ros.models.hodor.encoder import initial_mask_scales, join_heads, split_heads
from stemseg_ros.models.hodor.refiner import Refiner
from stemseg_ros.models.hodor.settings import BACKGROUNDS, HodorNetworkConfig

MIXER_GROUPS = 16
OUTPUT_GROUPS = 8
ABSENT = -math.inf
"""Logit of an object without a descriptor in the history."""


class DeformableConv(nn.Module):
    """3x3 deformable convolution (version 1: learned offsets, no modulation)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv_offsets = nn.Conv2d(width, 18, 3, padding=1)
        self.conv_deform = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):  # sampling positions need float32
            x = x.float()
            conv = self.conv_deform
            result: Tensor = deform_conv2d(
                x, self.conv_offsets(x), conv.weight, conv.bias, padding=1
            )
            return result


class DescriptorQuery(nn.Module):
    """Query projection of the cross-attention, in a module of its own to match the parameter names
    of the released checkpoints."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.q_proj = nn.Linear(width, width)


class DecoderLayer(nn.Module):
    """A convolution over neighbouring pixels, then cross-attention from pixels to the descriptors
    of the history."""

    def __init__(self, config: HodorNetworkConfig) -> None:
        super().__init__()
        width = config.width
        self.heads = config.heads
        mixer = (
            DeformableConv(width)
            if config.mixer == "deformable"
            else nn.Conv2d(width, width, 3, padding=1)
        )
        self.self_attn_conv_substitute = nn.Sequential(
            mixer, nn.ReLU(), nn.GroupNorm(MIXER_GROUPS, width)
        )
        self.k_proj_fg, self.k_proj_bg = nn.Linear(width, width), nn.Linear(width, width)
        self.v_proj_fg, self.v_proj_bg = nn.Linear(width, width), nn.Linear(width, width)
        self.norm1 = nn.LayerNorm(width)
        self.cross_attn = DescriptorQuery(width)
        if config.previous_masks:
            self.location_scales = nn.Parameter(initial_mask_scales(config.heads) / 8)
        self.norm2 = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, config.decoder_hidden)
        self.fc2 = nn.Linear(config.decoder_hidden, width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        features: Tensor,
        positions: Tensor,
        descriptors: Tensor,
        embeddings: Tensor,
        bias: Tensor,
    ) -> Tensor:
        """Refine features (B, C, h, w).

        positions: (B, h * w, C); descriptors: (B, T, 9 + I, C); embeddings: (9 + I, C); bias: of
        the attention logits, (B, 1 or h * w, T * (9 + I)). Returns (B, C, h, w).
        """
        size = features.shape[-2:]
        features = features + self.self_attn_conv_substitute(features)
        pixels = features.flatten(2).transpose(-2, -1)
        pixels = self.norm1(
            pixels + self._attend(pixels + positions, descriptors, embeddings, bias)
        )
        hidden = self.dropout(F.relu(self.fc1(pixels)))
        pixels = self.norm2(pixels + self.dropout(self.fc2(hidden)))
        result: Tensor = pixels.transpose(-2, -1).unflatten(-1, size)
        return result

    def _attend(
        self, queries: Tensor, descriptors: Tensor, embeddings: Tensor, bias: Tensor
    ) -> Tensor:
        keys = _project_by_kind(descriptors + embeddings, self.k_proj_bg, self.k_proj_fg)
        values = _project_by_kind(descriptors, self.v_proj_bg, self.v_proj_fg)
        q = split_heads(self.cross_attn.q_proj(queries), self.heads)
        k, v = (split_heads(x.flatten(1, 2), self.heads) for x in (keys, values))
        logits = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
        bias = bias[:, None]
        if bias.shape[2] > 1:  # one bias for each pixel: the previous masks
            bias = bias * self.location_scales[:, None, None]
        # As in the released code, dropout acts on the logits, not on the attention weights.
        return join_heads((self.dropout(logits) + bias).softmax(-1) @ v)


class Decoder(nn.Module):
    """Decoder from the features of a frame and the descriptors of its history to logits at stride
    4."""

    def __init__(self, config: HodorNetworkConfig) -> None:
        super().__init__()
        width, reduced = config.width, config.reduced_width
        self.previous_masks = config.previous_masks
        self.attn_layers = nn.ModuleList(
            DecoderLayer(config) for _ in range(config.decoder_layers)
        )
        self.conv_4x_reduce = _conv_norm(width, reduced, 1)
        self.conv_4x = _conv_norm(width, width, 3)
        self.instance_query_proj = nn.Linear(width, width)
        self.bg_query_proj = nn.Linear(width, width)
        if config.backbone == "swin_t":  # unused, but part of the released checkpoints
            self.fmap_proj_4x = _conv_norm(width, width, 1)
        self.catch_all_conv = nn.Sequential(
            nn.Conv2d(width, config.catch_all_width, 3, padding=1, bias=False),
            nn.GroupNorm(OUTPUT_GROUPS, config.catch_all_width),
            nn.ReLU(),
            nn.Conv2d(config.catch_all_width, 1, 1, bias=False),
        )
        self.refiner = Refiner(width) if config.refinement else None

    def forward(
        self,
        fine: Tensor,
        coarse: Tensor,
        descriptors: Tensor,
        present: Tensor,
        embeddings: Tensor,
        content: Tensor,
        previous: Tensor | None = None,
        masks: Tensor | None = None,
        earlier: Tensor | None = None,
    ) -> Tensor:
        """Segment frames.

        fine, coarse: (B, C, 2h, 2w) and (B, C, h, w), features at strides 4 and 8;
        descriptors: (B, T, 9 + I, C) of T frames; present: bool (B, T, 9 + I), which of them
        exist; embeddings: (9 + I, C); content: int64 (B, 2), rows and columns of the coarse map
        to which positions are relative; previous: (B, 9 + I, h, w) in [0, 1], regions of the
        previous frame, only with ``previous_masks``; masks, earlier: (B, I, 2h, 2w) in [0, 1] and
        (B, C, 2h, 2w), objects and ``fine`` of the previous frame, only with ``refinement``.
        Returns logits (B, 10 + I, 2h, 2w): catch-all, 9 background cells, objects.
        """
        bias = self._attention_bias(present, previous)
        positions = encode_positions(coarse, content)
        for layer in self.attn_layers:
            coarse = layer(coarse, positions, descriptors, embeddings, bias)
        pixels = self._fuse(fine, coarse)
        logits = self._logits(pixels, descriptors, present)
        if self.refiner is None or masks is None or earlier is None:
            return logits
        refined: Tensor = self.refiner(logits, pixels, fine, earlier, masks)
        return refined

    def _attention_bias(self, present: Tensor, previous: Tensor | None) -> Tensor:
        """Compute the attention bias (B, 1 or h * w, T * (9 + I)): -inf for missing descriptors,
        otherwise 0 or the previous regions."""
        missing = torch.zeros_like(present, dtype=torch.float32).masked_fill(~present, ABSENT)
        bias = missing.flatten(1)[:, None]
        if not self.previous_masks or previous is None:
            return bias
        return bias + previous.flatten(2).transpose(-2, -1).repeat(1, 1, present.shape[1])

    def _fuse(self, fine: Tensor, coarse: Tensor) -> Tensor:
        """Merge both strides into the pixel features (B, C, 2h, 2w) that are compared with
        descriptors."""
        upsampled = F.interpolate(coarse, size=fine.shape[-2:], mode="bilinear")
        reduced = self.conv_4x_reduce(fine)
        rest = upsampled.shape[1] - reduced.shape[1]
        result: Tensor = self.conv_4x(upsampled + F.pad(reduced, (0, 0, 0, 0, 0, rest)))
        return result

    def _logits(self, pixels: Tensor, descriptors: Tensor, present: Tensor) -> Tensor:
        queries = _project_by_kind(descriptors, self.bg_query_proj, self.instance_query_proj)
        scores = torch.einsum("btnc,bcp->btnp", queries, pixels.flatten(2))
        scores = scores.float() * pixels.shape[1] ** -0.5
        best = scores.masked_fill(~present[..., None], ABSENT).amax(1)
        rest = self.catch_all_conv[:-1](pixels)
        with torch.autocast(pixels.device.type, enabled=False):  # a single output channel
            catch_all = self.catch_all_conv[-1](rest.float())
        return torch.cat((catch_all, best.unflatten(-1, pixels.shape[-2:])), 1)


def encode_positions(features: Tensor, content: Tensor) -> Tensor:
    """Compute the sine positional encoding (B, h * w, C) of each pixel, relative to the content
    (B, 2); half of the channels encode the row, half the column."""
    height, width = features.shape[-2:]
    half = features.shape[1] // 2
    rows = _encode_axis(height, content[:, 0], half)[:, :, None].expand(-1, -1, width, -1)
    columns = _encode_axis(width, content[:, 1], half)[:, None].expand(-1, height, -1, -1)
    return torch.cat((rows, columns), -1).flatten(1, 2).to(features.dtype)


def _encode_axis(side: int, content: Tensor, channels: int) -> Tensor:
    """Encode the positions along one axis: (B, side, channels), sine and cosine alternating."""
    positions = torch.arange(1, side + 1, device=content.device, dtype=torch.float32)
    angles = 2 * math.pi * positions / (content[:, None].float() + 1e-6)
    pairs = torch.arange(channels, device=content.device) // 2
    scaled = angles[..., None] / 10000 ** (2 * pairs.float() / channels)
    return torch.stack((scaled[..., 0::2].sin(), scaled[..., 1::2].cos()), -1).flatten(-2)


def _project_by_kind(descriptors: Tensor, background: nn.Linear, objects: nn.Linear) -> Tensor:
    """Project (..., 9 + I, C): the background with one layer, the objects with another."""
    parts = (
        background(descriptors[..., :BACKGROUNDS, :]),
        objects(descriptors[..., BACKGROUNDS:, :]),
    )
    return torch.cat(parts, -2)


def _conv_norm(channels_in: int, channels_out: int, kernel: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, kernel, padding=kernel // 2, bias=False),
        nn.ReLU(),
        nn.GroupNorm(OUTPUT_GROUPS, channels_out),
    )
