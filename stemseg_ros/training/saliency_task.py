"""Training of the saliency variant of STEm-Seg (Sec. 4.5; ``trainables.py``)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stemseg_ros.models.stemseg.losses import saliency_loss
from stemseg_ros.models.stemseg.network import SaliencyNetwork
from stemseg_ros.models.stemseg.settings import Settings
from stemseg_ros.training.batches import Batch
from stemseg_ros.training.objective import forward
from stemseg_ros.training.stemseg_task import (
    COMPILED,
    batch,
    build,
    build_plain,
    draw_clip,
    draw_predictions,
    draw_shape,
)

__all__ = [
    "COMPILED",
    "batch",
    "build",
    "build_plain",
    "compute_losses",
    "draw_clip",
    "draw_predictions",
    "draw_shape",
    "parameter_groups",
]


def compute_losses(model: nn.Module, batch: Batch, config: Settings) -> dict[str, Tensor]:
    """See ``Trainable``; the loss is a mean over clips."""
    logits: Tensor = forward(model, batch.clips, config)
    losses = [
        saliency_loss(logits[n : n + 1], clip.classes, clip.ignore, config)
        for n, clip in enumerate(batch.split(1))
    ]
    total = torch.stack(losses).mean()
    return {"saliency": total, "total": total}


def parameter_groups(
    network: SaliencyNetwork, config: Settings
) -> list[tuple[set[nn.Parameter], float]]:
    """See ``Trainable``: the backbone."""
    return [(set(network.backbone.body.parameters()), config.training.backbone_rate)]
