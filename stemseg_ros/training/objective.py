"""The objective of training on instances."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from stemseg_ros.execution.torch_engine import DTYPES
from stemseg_ros.models.stemseg.losses import embedding_loss, semantic_loss
from stemseg_ros.models.stemseg.network import Maps
from stemseg_ros.models.stemseg.settings import Settings
from stemseg_ros.training.batches import Batch


def forward(model: nn.Module, clips: Tensor, config: Settings) -> Any:
    """What a network makes of preprocessed clips (N, T, 3, H, W), in ``training.precision``."""
    precision = DTYPES[config.training.precision]
    with torch.autocast(clips.device.type, precision, precision != torch.float32):
        return model(clips)


def compute_losses(model: nn.Module, batch: Batch, config: Settings) -> dict[str, Tensor]:
    """Forward pass and losses, each the mean over the clips of what a clip gives by itself.

    The mean over instances is one over those of a clip (Sec. 3.4), so it does not matter how the
    clips of a step are spread over passes and processes. ``total`` is minimised.
    """
    maps: Maps = forward(model, batch.clips, config)
    clips = [_clip_losses(_clip(maps, n), clip, config) for n, clip in enumerate(batch.split(1))]
    return {name: torch.stack([losses[name] for losses in clips]).mean() for name in clips[0]}


def _clip(maps: Maps, n: int) -> Maps:
    """Take the maps of one clip of the batch."""
    one = slice(n, n + 1)
    return Maps(
        maps.embeddings[one],
        maps.raw_variance[one],
        maps.heatmap[one],
        None if maps.semantic_logits is None else maps.semantic_logits[one],
    )


def _clip_losses(maps: Maps, clip: Batch, config: Settings) -> dict[str, Tensor]:
    output = torch.cat([maps.embeddings, maps.raw_variance, maps.heatmap], dim=1)
    # A group has classes, and so has its part in semantics, but nothing to learn instances from.
    losses = embedding_loss(output, clip.masks, clip.ignore | clip.groups, config)
    losses["total"] = losses["embedding"]
    if maps.semantic_logits is not None:
        losses["semantic"] = semantic_loss(maps.semantic_logits, clip.classes, clip.ignore, config)
        losses["total"] = losses["total"] + config.training.semantic_weight * losses["semantic"]
    return losses
