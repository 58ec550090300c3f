"""Loads HODOR networks with released, bundled, own or random weights."""

from __future__ import annotations

from pathlib import Path

import torch

from stemseg_ros.models.hodor.network import Hodor
from stemseg_ros.models.hodor.settings import Settings
from stemseg_ros.models.layers.weight_files import read_state
from stemseg_ros.models.layers.weights import (
    RANDOM,
    bundled_checkpoint,
    load_state,
)


def load_network(
    config: Settings, checkpoint: str | Path | None = None, device: str | torch.device = "cpu"
) -> Hodor:
    """Build the network, load its weights, and put it on ``device`` in eval mode.

    checkpoint: a file (.pth as released, or .safetensors); None for the weights bundled with the
    preset; "random" for seeded weights. Raises CheckpointError, which names missing and
    unexpected keys.
    """
    if checkpoint == RANDOM:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = Hodor(config)
    else:
        network = Hodor(config)
        path = Path(checkpoint) if checkpoint else bundled_checkpoint(config)
        load_state(network, read_state(path), path, config.name)
    return network.eval().requires_grad_(False).to(device)
