"""Weights in networks: bundled, copied key by key, seeded, and written as safetensors files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from stemseg_ros.config import Config, load_config
from stemseg_ros.models.layers.weight_files import CheckpointError
from stemseg_ros.resources import resource_path

RANDOM = "random"
"""Checkpoint name that stands for seeded random weights."""
SOURCES = {
    "stemseg": "the authors publish theirs at https://github.com/sabarim/STEm-Seg (section Model "
    "Zoo)",
    "stc": "published ones of CondInst, which has no tracking head, are a start for training or "
    "detect with tracking.enabled=false",
}
"""Where weights come from, by model."""


def bundled_checkpoint(config: Config) -> Path:
    """File of the weights that belong to a preset. Raises CheckpointError where there are none.

    A config of the same name with another network has none either.
    """
    try:
        path = resource_path(f"config/models/{config.name}.safetensors")
        if load_config(config.name).alone.classes != config.alone.classes:
            raise FileNotFoundError
        return path
    except FileNotFoundError:
        source = f"; {SOURCES[config.model]}" if config.model in SOURCES else ""
        raise CheckpointError(
            f"no weights are bundled with the config '{config.name}': name a checkpoint file "
            f"('stemseg train' makes one{source}). "
            "'random' gives seeded random weights, for benchmarks"
        ) from None


def load_state(network: nn.Module, state: Mapping[str, Tensor], path: Path, config: str) -> None:
    """Copy a state dict that came from ``path`` into a network or a part of one, key by key.

    config: name of the network's config, for messages. Raises CheckpointError.
    """
    wanted = network.state_dict()
    _refuse(path, "lacks", sorted(wanted.keys() - state.keys()))
    _refuse(path, "has unknown", sorted(state.keys() - wanted.keys()))
    for key, tensor in state.items():
        if tensor.shape != wanted[key].shape:
            raise CheckpointError(
                f"{path}: key '{key}' has shape {list(tensor.shape)}, the config "
                f"'{config}' wants {list(wanted[key].shape)}; "
                "is it the checkpoint of another preset?"
            )
        if not torch.isfinite(tensor).all():
            raise CheckpointError(f"{path}: key '{key}' holds values that are not finite")
    network.load_state_dict({key: tensor.to(wanted[key].dtype) for key, tensor in state.items()})


def save_weights(network: nn.Module, path: Path, metadata: Mapping[str, str]) -> None:
    """Write the state dict as a half-precision safetensors file, atomically.

    Entries whose values half precision does not reach, as large variances of norms, stay in
    float32. metadata: strings to keep in the file's header (config, data, seed, code version).
    """
    state = {k: _halved(v.detach().cpu()).contiguous() for k, v in network.state_dict().items()}
    partial = path.with_name(path.name + ".partial")
    # Not save_file, which gives the file to its owner alone.
    partial.write_bytes(safetensors.torch.save(state, metadata=dict(metadata)))
    partial.replace(path)


def _halved(tensor: Tensor) -> Tensor:
    half = tensor.to(torch.float16)
    return half if half.isfinite().all() else tensor


@torch.no_grad()
def initialise(network: nn.Module, seed: int) -> None:
    """Seeded weights that keep the scale of activations: He for convolutions, one and zero for
    norms."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Conv3d)):
            fan_in = module.weight[0].numel()
            module.weight.normal_(0.0, (2.0 / fan_in) ** 0.5, generator=generator)
            if module.bias is not None:
                module.bias.zero_()


def _refuse(path: Path, verb: str, keys: list[str]) -> None:
    if keys:
        shown = ", ".join(f"'{key}'" for key in keys[:3])
        more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
        raise CheckpointError(
            f"{path}: {verb} {'key' if len(keys) == 1 else 'keys'} {shown}{more}"
        )
