"""A HODOR network with its weights: released checkpoints as they are, our own, or random ones."""

from __future__ import annotations

from pathlib import Path

import torch

from stemseg_ros.execution.device import resolve_device
from stemseg_ros.models.hodor.network import Hodor
from stemseg_ros.models.hodor.settings import HodorConfig
from stemseg_ros.models.layers.weights import RANDOM, CheckpointError, load_state, read_state
from stemseg_ros.resources import resource_path


def load_network(
    config: HodorConfig, checkpoint: str | Path | None = None, device: str | torch.device = "cpu"
) -> Hodor:
    """Build the network, load its weights, and put it on ``device`` in eval mode.

    checkpoint: a file (.pth as released, or .safetensors); None for the weights bundled with the
    preset; "random" for seeded weights. Raises CheckpointError, which names missing and left-over
    keys.
    """
    if checkpoint == RANDOM:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = Hodor(config)
    else:
        network = Hodor(config)
        path = Path(checkpoint) if checkpoint else bundled_checkpoint(config)
        load_state(network, read_state(path), path, config.name)
    return network.eval().requires_grad_(False).to(resolve_device(device))


def bundled_checkpoint(config: HodorConfig) -> Path:
    """File of the weights that belong to a preset. Raises CheckpointError where there are none."""
    try:
        return resource_path(f"config/models/{config.name}.safetensors")
    except FileNotFoundError:
        raise CheckpointError(
            f"no weights are bundled with the config '{config.name}': name a checkpoint file (the "
            "authors publish theirs at https://github.com/Ali2500/HODOR). 'random' gives seeded "
            "random weights, for benchmarks"
        ) from None
