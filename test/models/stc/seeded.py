"""Weights with which the golden files of STC were computed: drawn from the name of each entry."""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

CLASS_LAYERS = ("conv_cls", "cls_logits")
MASK_OUTPUTS = ("conv_pred.weight", "mask_branch.tower.4.weight")
LAST_NORMS = ("bn3.weight", "conv3.norm.weight")


def seeded_weights(entries: Mapping[str, Tensor], salt: str) -> dict[str, Tensor]:
    """Draw values for the entries of a state dict; counters and constants stay."""
    return {key: _seeded(key, value, salt) for key, value in entries.items()}


def _seeded(key: str, value: Tensor, salt: str) -> Tensor:
    if key.endswith((".num_batches_tracked", "sizes_of_interest", "_iter")):
        return value
    random = np.random.RandomState(zlib.crc32((salt + key).encode()))
    shape = tuple(value.shape)
    if key.endswith(".scale"):
        values = (0.8 + 0.4 * random.rand(1)).reshape(shape)
    elif key.endswith("running_var"):
        values = 0.5 + random.rand(*shape)
    elif key.endswith("running_mean"):
        values = 0.1 * random.standard_normal(shape)
    elif len(shape) >= 2:
        values = random.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:])) * _gain(key)
    elif key.endswith(".bias"):
        values = 0.05 * random.standard_normal(shape) + _shift(key)
    elif key.endswith(LAST_NORMS):
        values = 0.1 + 0.1 * random.rand(*shape)
    else:
        values = 0.5 + 0.5 * random.rand(*shape)
    return torch.from_numpy(values.astype(np.float32))


def _gain(key: str) -> float:
    if key.endswith(tuple(f"{name}.weight" for name in CLASS_LAYERS)):
        return 4.0
    if key.endswith(MASK_OUTPUTS):
        return 3.0
    return 1 / 57 if key.endswith("stem.conv1.weight") else 1.0


def _shift(key: str) -> float:
    if key.endswith(tuple(f"{name}.bias" for name in CLASS_LAYERS)):
        return -12.0
    return 4.0 if key.endswith(("conv_reg.bias", "bbox_pred.bias")) else 0.0
