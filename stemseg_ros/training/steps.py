"""One step of training: losses, gradients, the optimizer, the average of the weights."""

from __future__ import annotations

import logging
import math
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from stemseg_ros.config import Config
from stemseg_ros.errors import StemsegError
from stemseg_ros.training.distributed import World
from stemseg_ros.training.schedule import make_optimizer, set_rates
from stemseg_ros.training.trainables import AnyBatch, trainable

MAX_BAD_STEPS = 5
"""Number of successive non-finite steps after which training stops."""

log = logging.getLogger(__name__)


class TrainingError(StemsegError):
    """Training cannot start or continue; the message names the reason."""


@dataclass(slots=True)
class Run:
    """The state that changes during training."""

    network: nn.Module
    model: nn.Module
    """The network, or its wrapper that shares gradients with other processes."""
    average: dict[str, Tensor]
    """Running average of the network's state dict."""
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    """Keeps the gradients of float16 in range; does nothing for other types."""
    world: World
    step: int = 0
    bad: int = 0
    """Number of successive skipped steps."""
    sums: dict[str, float] = field(default_factory=dict)
    """Losses added up since the last line of the log, and their count."""

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.network.parameters()).device


def start(config: Config, device: torch.device | None = None, world: World | None = None) -> Run:
    """Start a run at step 0. Raises CheckpointError, MissingExtraError."""
    device, world = device or torch.device("cpu"), world or World()
    torch.manual_seed(config.training.seed)
    task = trainable(config)
    network = task.build(config).to(device)
    average = {name: value.detach().clone() for name, value in network.state_dict().items()}
    if config.training.compile:
        for function in task.COMPILED:
            setattr(network, function, torch.compile(getattr(network, function)))
    model: nn.Module = network
    if world.size > 1:
        model = DistributedDataParallel(network)
    scaler = torch.amp.GradScaler(device.type, enabled=config.training.precision == "float16")
    return Run(network, model, average, make_optimizer(network, config), scaler, world)


def take_step(run: Run, batch: AnyBatch, config: Config) -> None:
    """Take one step of the optimizer; a step whose loss or gradient is not finite is skipped.

    Several of them in a row raise TrainingError, which names the clips.
    """
    set_rates(run.optimizer, run.step, config)
    run.optimizer.zero_grad(set_to_none=True)
    losses = run.world.mean(_backward(run, batch, config))
    run.scaler.unscale_(run.optimizer)
    limit = config.training.clip_norm or math.inf
    norm = nn.utils.clip_grad_norm_(run.network.parameters(), limit)
    if bool(torch.isfinite(norm + losses["total"])):
        run.scaler.step(run.optimizer)
        _average(run, config.training.ema)
        for name, value in {**losses, "gradient": norm, "count": torch.ones(())}.items():
            run.sums[name] = run.sums.get(name, 0.0) + float(value.detach())
        run.bad = 0
    elif not (bool(torch.isfinite(losses["total"])) and run.scaler.get_scale() > 1):
        _count_bad(run, batch)  # else an overflow of float16: a smaller scale avoids it
    if run.scaler.is_enabled():
        run.scaler.update()
    run.step += 1


def _backward(run: Run, batch: AnyBatch, config: Config) -> dict[str, Tensor]:
    """Gradients of the mean loss of a step's clips, ``batch_size`` at a time; the losses."""
    compute_losses = trainable(config).compute_losses
    parts = batch.split(config.training.batch_size)
    sums: dict[str, Tensor] = {}
    for number, part in enumerate(parts):
        last = number == len(parts) - 1
        # Processes exchange gradients once a step, with the last pass.
        alone = isinstance(run.model, DistributedDataParallel) and not last
        with cast(DistributedDataParallel, run.model).no_sync() if alone else nullcontext():
            losses = compute_losses(run.model, part.to(run.device), config)
            run.scaler.scale(losses["total"] / len(parts)).backward()
        for name, value in losses.items():
            sums[name] = sums.get(name, 0.0) + value.detach() / len(parts)
    return sums


def _count_bad(run: Run, batch: AnyBatch) -> None:
    run.bad += 1
    clips = ", ".join(run.world.gather(batch.names))
    log.warning("step %d: loss or gradient is not finite, skipped (%s)", run.step, clips)
    if run.bad >= MAX_BAD_STEPS:
        raise TrainingError(
            f"step {run.step}: {run.bad} steps in a row were not finite, "
            f"the last on {clips}; try training.precision float32 or a lower learning rate"
        )


@torch.no_grad()
def _average(run: Run, decay: float) -> None:
    """Update the running average of the weights; the decay is lower at first, so that the random
    start is forgotten. Counters of batch norms are no weights and are copied."""
    decay = min(decay, (1 + run.step) / (10 + run.step))
    pairs = [(run.average[name], value) for name, value in run.network.state_dict().items()]
    weights = [pair for pair in pairs if pair[0].is_floating_point()]
    torch._foreach_lerp_([a for a, _ in weights], [value for _, value in weights], 1 - decay)
    for average, value in pairs:
        if not average.is_floating_point():
            average.copy_(value)
