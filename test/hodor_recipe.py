"""Golden files of HODOR and the weights with which they were computed."""

from __future__ import annotations

import os
import zlib
from pathlib import Path

import numpy as np
import torch

from stemseg_ros.models.hodor.network import Hodor
from stemseg_ros.models.hodor.settings import Settings

FOLDER = Path(__file__).resolve().parent / "golden" / "hodor"
MASK_SCALES = np.array([32, 32, 16, 16, 8, 8, 4, 4])
GAINS = {"decoder.instance_query_proj.weight": 8, "decoder.bg_query_proj.weight": 4}


def golden_file(name: str) -> Path:
    """Return the path of a golden file; STEMSEG_GOLDEN_HODOR overrides the folder."""
    return Path(os.environ.get("STEMSEG_GOLDEN_HODOR") or FOLDER) / name


def golden_config(**settings: object) -> Settings:
    """Return the settings of the released network with the input size of a golden file."""
    config = Settings()
    return config.model_copy(update={"input": config.input.model_copy(update=settings)})


def recipe_state(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Draw weights from the name of each entry, as for the golden files."""
    return {
        key: value if key.endswith("relative_position_index") else _draw(key, tuple(value.shape))
        for key, value in state.items()
    }


def recipe_network(config: Settings) -> Hodor:
    """Build a network with these weights, in eval mode."""
    network = Hodor(config)
    network.load_state_dict(recipe_state(network.state_dict()))
    return network.eval()


def _draw(key: str, shape: tuple[int, ...]) -> torch.Tensor:
    random = np.random.RandomState(zlib.crc32(key.encode()))
    if key.endswith("scaling_factors"):
        values = MASK_SCALES * (0.25 + 0.5 * random.rand(8))
    elif key.endswith("query_embed"):
        values = random.standard_normal(shape)
    elif len(shape) >= 2:
        values = random.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
        values *= GAINS.get(key, 1)
    elif key.endswith("bias"):
        values = 0.05 * random.standard_normal(shape)
    else:
        values = 0.5 + 0.5 * random.rand(*shape)
    return torch.from_numpy(values.astype(np.float32))
