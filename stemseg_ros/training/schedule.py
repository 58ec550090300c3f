"""Learning rates and the optimizer (Sec. 4.1, supplement II)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from stemseg_ros.config import Config
from stemseg_ros.training.trainables import trainable

MOMENTUM = 0.9
STEP_FACTOR = 0.1
"""Of the schedule "steps", at each of its steps."""


def rate_factor(step: int, config: Config) -> float:
    """Learning rate of a step, counted from 0, relative to the configured one.

    Linear warm-up, times: 1 (constant); a half cosine that ends at 0; or 1 until ``decay_start``
    and then a constant factor each step, so that ``decay_factor`` is reached at ``steps``
    (exponential); or a tenth for each of ``drop_steps`` that is reached (steps).
    """
    training = config.training
    warm = min(1.0, (step + 1) / (training.warmup_steps + 1))
    if training.schedule == "constant":
        return warm
    if training.schedule == "cosine":
        return warm * 0.5 * (1 + math.cos(math.pi * step / training.steps))
    if training.schedule == "steps":
        return warm * STEP_FACTOR ** sum(step >= drop for drop in training.drop_steps)
    decayed = max(0, step - training.decay_start) / (training.steps - training.decay_start)
    return float(warm * training.decay_factor**decayed)


def make_optimizer(network: nn.Module, config: Config) -> torch.optim.Optimizer:
    """SGD with Nesterov's momentum, or AdamW; each group of weights has its ``rate``, relative to
    the learning rate."""
    training = config.training
    order = [p for p in network.parameters() if p.requires_grad]  # a set has no order
    groups: list[dict[str, Any]] = []
    rest = set(order)
    for members, rate in trainable(config).parameter_groups(network, config):
        groups.append({"params": [p for p in order if p in members], "rate": rate})
        rest -= members
    groups.append({"params": [p for p in order if p in rest], "rate": 1.0})
    rate, decay = training.learning_rate, training.weight_decay
    if training.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=rate, weight_decay=decay)
    return torch.optim.SGD(groups, lr=rate, momentum=MOMENTUM, nesterov=True, weight_decay=decay)


def set_rates(optimizer: torch.optim.Optimizer, step: int, config: Config) -> None:
    """Set the learning rate of every group of weights for a step."""
    rate = config.training.learning_rate * rate_factor(step, config)
    for group in optimizer.param_groups:
        group["lr"] = rate * group["rate"]
