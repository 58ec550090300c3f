"""What training minimises, by task."""

from __future__ import annotations

import torch
from torch import Tensor

from stemseg_ros.config import Config
from stemseg_ros.network.build import Maps, StemSeg
from stemseg_ros.training.batches import Batch
from stemseg_ros.training.losses import embedding_loss, saliency_loss, semantic_loss


def compute_losses(network: StemSeg, batch: Batch, config: Config) -> dict[str, Tensor]:
    """Forward pass and losses; ``total`` is what is minimised."""
    with torch.autocast(
        batch.clips.device.type, torch.bfloat16, config.training.precision == "bfloat16"
    ):
        maps: Maps = network(batch.clips)
    if maps.saliency_logits is not None:
        saliency = saliency_loss(maps.saliency_logits, batch.classes, batch.ignore, config)
        return {"saliency": saliency, "total": saliency}
    output = torch.cat([maps.embeddings, maps.raw_variance, maps.heatmap], dim=1)
    losses = embedding_loss(output, batch.masks, batch.ignore, config)
    losses["total"] = losses["embedding"]
    if maps.semantic_logits is not None:
        losses["semantic"] = semantic_loss(
            maps.semantic_logits, batch.classes, batch.ignore, config
        )
        losses["total"] = losses["total"] + config.training.semantic_weight * losses["semantic"]
    return losses
