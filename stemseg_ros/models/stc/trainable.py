"""How STC is trained: what learns, targets of a batch, and all losses together."""

from __future__ import annotations

from torch import nn

from stemseg_ros.models.stc.condinst import CondInst
from stemseg_ros.models.stc.settings import CondInstVariant

FROZEN_STAGES = ("backbone.conv1", "backbone.bn1", "backbone.layer1", "backbone.mobilenet.layer1")
"""Parts of the encoder that keep their ImageNet weights."""


def freeze(network: CondInst, variant: CondInstVariant) -> None:
    """Let everything learn but stem and first stage; for adelaidet no norm of the encoder
    either."""
    network.requires_grad_(True)
    for name, module in network.named_modules():
        encoder_norm = name.startswith("backbone.") and isinstance(module, nn.BatchNorm2d)
        if name in FROZEN_STAGES or (variant == "adelaidet" and encoder_norm):
            module.requires_grad_(False)
