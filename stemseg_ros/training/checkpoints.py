"""A run on disk: checkpoints with its whole state, and its weights."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from stemseg_ros import __version__
from stemseg_ros.config import Config, dump_config
from stemseg_ros.models.layers.weights import save_weights
from stemseg_ros.training.model import unfused
from stemseg_ros.training.steps import Run, TrainingError
from stemseg_ros.training.trainables import trainable


def save(run: Run, path: Path, config: Config) -> None:
    """Write a checkpoint, whole or not at all. Raises TrainingError."""
    content = {
        "step": run.step,
        "bad": run.bad,
        "sums": run.sums,
        "average": run.average,
        "config": dump_config(config),
        "network": run.network.state_dict(),
        "optimizer": run.optimizer.state_dict(),
        "scaler": run.scaler.state_dict(),
        "torch_rng": torch.get_rng_state(),
    }
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())  # on the disk before it takes the place of the last one
        partial.replace(path)
    except (OSError, RuntimeError) as error:  # the latter, when torch meets a full disk
        raise TrainingError(f"{path}: cannot be written: {error}") from error


def restore(run: Run, path: Path, config: Config) -> list[str]:
    """Restore a run from a checkpoint; returns the settings that differ. Raises TrainingError."""
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        run.network.load_state_dict(content["network"])
        run.optimizer.load_state_dict(content["optimizer"])
        run.scaler.load_state_dict(content["scaler"])
        for name, value in run.average.items():
            value.copy_(content["average"][name])
        run.step, run.bad, run.sums = content["step"], content["bad"], content["sums"]
        torch.set_rng_state(content["torch_rng"])
        return _changes(yaml.safe_load(content["config"]), config)
    except (
        OSError,
        EOFError,
        RuntimeError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        pickle.UnpicklingError,
        yaml.YAMLError,
    ) as error:
        raise TrainingError(
            f"{path}: is damaged or does not fit the config '{config.name}': {error}"
        ) from error


def _changes(before: dict[str, Any], config: Config) -> list[str]:
    """List differing settings, as "training.steps 100 -> 200"."""
    now = config.model_dump(mode="json")
    changes = []
    for section, values in now.items():
        old = before.get(section)
        if isinstance(values, dict) and isinstance(old, dict):
            changes += [
                f"{section}.{name} {old.get(name)} -> {value}"
                for name, value in values.items()
                if old.get(name) != value
            ]
    return changes


def export(state: dict[str, Tensor], config: Config, path: Path, **facts: object) -> None:
    """Write the state of a training network in the layout and precision of a shipped
    checkpoint."""
    metadata = {
        "config": config.name,
        "version": __version__,
        "seed": str(config.training.seed),
        **{name: str(value) for name, value in facts.items()},
    }
    network = trainable(config).build_plain(config)
    on_cpu = {name: value.cpu() for name, value in state.items()}
    save_weights(unfused(network, on_cpu, folded=config.training.fold_norms), path, metadata)
