"""Training of STEm-Seg for instances (``trainables.py``)."""

from __future__ import annotations

from torch import nn

from stemseg_ros.models.stemseg.network import StemSeg
from stemseg_ros.models.stemseg.network import build_network as build_plain
from stemseg_ros.models.stemseg.settings import Settings
from stemseg_ros.training.batches import batch_of_windows as batch
from stemseg_ros.training.clips import draw_clip
from stemseg_ros.training.clips import draw_size as draw_shape
from stemseg_ros.training.model import build_for_training as build
from stemseg_ros.training.objective import compute_losses
from stemseg_ros.training.prediction_pictures import draw_predictions

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

COMPILED = ("encode", "heads")


def parameter_groups(network: StemSeg, config: Settings) -> list[tuple[set[nn.Parameter], float]]:
    """See ``Trainable``: the backbone, and the output layers of embeddings and variances."""
    training = config.training
    head = network.embedding_head
    outputs = {*head.conv_embedding.parameters(), *head.conv_variance.parameters()}
    body = set(network.backbone.body.parameters())
    return [(body, training.backbone_rate), (outputs, training.output_rate)]
