"""The network of a preset with its weights: bundled, from a file, or seeded random ones."""

from __future__ import annotations

from pathlib import Path

import torch

from stemseg_ros.config import Config
from stemseg_ros.models.layers.weight_files import read_state
from stemseg_ros.models.layers.weights import (
    RANDOM,
    bundled_checkpoint,
    initialise,
    load_state,
)
from stemseg_ros.models.stemseg.network import WindowNetwork, build_network
from stemseg_ros.models.stemseg.settings import own_settings

IGNORED_PREFIX = "embedding_loss_criterion."
"""The released checkpoints also hold state of the training loss."""


def load_network(
    config: Config, checkpoint: str | Path | None = None, device: str | torch.device = "cpu"
) -> WindowNetwork:
    """Build the configured network, load its weights, and put it on ``device`` in eval mode.

    checkpoint: a file (.pth as released, or .safetensors); None for the weights bundled with the
    preset; "random" for seeded weights, which serve benchmarks only. Raises CheckpointError.
    """
    network = build_network(own_settings(config))
    if checkpoint == RANDOM:
        initialise(network, seed=0)
    else:
        path = bundled_checkpoint(config) if checkpoint in (None, "") else Path(str(checkpoint))
        load_weights(network, path)
    return network.eval().requires_grad_(False).to(device)


def load_weights(network: WindowNetwork, path: Path) -> None:
    """Copy a checkpoint into a network, key by key. Raises CheckpointError."""
    state = {k: v for k, v in read_state(path).items() if not k.startswith(IGNORED_PREFIX)}
    load_state(network, state, path, network.config.name)
