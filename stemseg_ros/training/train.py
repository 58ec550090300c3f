"""The training loop: clips in, losses, AdamW or SGD, an average of the weights out.

A batch depends on seed and step alone, so a run that is stopped and resumed sees the same clips as
one that is not, and on the CPU ends with the same weights, bit for bit.
"""

from __future__ import annotations

import logging
import math
import pickle
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stemseg_ros import __version__
from stemseg_ros.config import Config, dump_config, update_config
from stemseg_ros.errors import StemsegError
from stemseg_ros.network.build import StemSeg
from stemseg_ros.network.checkpoint import save_weights
from stemseg_ros.training.batches import Batch, batches, load_sources
from stemseg_ros.training.clips import Sources
from stemseg_ros.training.model import build_for_training, embedding_outputs, unfused
from stemseg_ros.training.objective import compute_losses

LOG_EVERY = 20
"""Steps between two lines of the log."""
SAVE_SECONDS = 180.0
"""Time between two checkpoints."""
MAX_BAD_STEPS = 5
"""Successive steps with values that are not finite after which training stops."""
MIN_CROP = 96
"""The decoders pool over three cells at stride 32."""

log = logging.getLogger(__name__)


class TrainingError(StemsegError):
    """Training cannot start or go on; the message names the reason."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is."""

    step: int
    steps: int
    losses: dict[str, float]
    """Means since the last report; gradient: norm before clipping."""
    clips_per_second: float
    remaining_seconds: float


@dataclass(slots=True)
class Run:
    """Everything that changes while training."""

    network: StemSeg
    average: dict[str, Tensor]
    """Running average of the network's state dict."""
    optimizer: torch.optim.Optimizer
    step: int = 0
    bad: int = 0
    """Successive steps that were left out."""
    sums: dict[str, float] = field(default_factory=dict)
    """Losses added up since the last line of the log, and their count."""


def train(
    config: Config,
    data: Path,
    out: Path,
    *,
    resume: bool = False,
    report: Callable[[Progress], None] | None = None,
) -> Path:
    """Train ``config`` on the driving pack ``data``; returns the weights file
    ``out``/weights.safetensors.

    out: run folder; gets config.yaml, log.csv, checkpoint.pt (to resume) and the averaged weights
    in half precision. report: called every few steps. Raises DataError, TrainingError.
    """
    _check_crop(config)
    checkpoint = out / "checkpoint.pt"
    if resume and not checkpoint.is_file():
        raise TrainingError(f"{checkpoint}: nothing to resume; leave out --resume to start a run")
    if checkpoint.exists() and not resume:
        raise TrainingError(
            f"{out}: holds a run already; --resume goes on with it, or name another folder"
        )
    sources = load_sources(config, data)
    run = start(update_config(config, {"training.start_from": None}) if resume else config)
    if resume:
        _restore(run, checkpoint, config)
    out.mkdir(parents=True, exist_ok=True)
    (out / "config.yaml").write_text(dump_config(config), encoding="utf-8")
    _loop(run, config, sources, out, report)
    weights = out / "weights.safetensors"
    export(run.average, config, weights, data=data.name, steps=run.step)
    return weights


def export(state: dict[str, Tensor], config: Config, path: Path, **facts: object) -> None:
    """Write the state of a training network in the layout and precision of a shipped
    checkpoint."""
    metadata = {
        "config": config.name,
        "version": __version__,
        "seed": str(config.training.seed),
        **{name: str(value) for name, value in facts.items()},
    }
    save_weights(unfused(state, config), path, metadata)


def start(config: Config) -> Run:
    """A run at step 0."""
    torch.manual_seed(config.training.seed)
    network = build_for_training(config)
    average = {name: value.detach().clone() for name, value in network.state_dict().items()}
    return Run(network, average, _optimizer(network, config))


def take_step(run: Run, batch: Batch, config: Config) -> None:
    """One step of the optimizer; a step whose loss or gradient is not finite is left out and
    counted."""
    training = config.training
    for group in run.optimizer.param_groups:
        group["lr"] = training.learning_rate * group["rate"] * rate_factor(run.step, config)
    losses = compute_losses(run.network, batch, config)
    run.optimizer.zero_grad(set_to_none=True)
    losses["total"].backward()
    norm = nn.utils.clip_grad_norm_(run.network.parameters(), training.clip_norm or math.inf)
    if bool(torch.isfinite(norm + losses["total"].detach())):
        run.optimizer.step()
        _average(run, training.ema)
        for name, value in {**losses, "gradient": norm, "count": torch.ones(())}.items():
            run.sums[name] = run.sums.get(name, 0.0) + float(value.detach())
        run.bad = 0
    else:
        _count_bad(run, batch)
    run.step += 1


def rate_factor(step: int, config: Config) -> float:
    """Learning rate of a step, relative to the configured one: linear warm-up, then constant or a
    cosine."""
    training = config.training
    warm = min(1.0, (step + 1) / (training.warmup_steps + 1))
    if training.schedule == "constant":
        return warm
    return warm * 0.5 * (1 + math.cos(math.pi * step / training.steps))


def _check_crop(config: Config) -> None:
    if any(side % 32 or side < MIN_CROP for side in config.training.crop):
        height, width = config.training.crop
        raise TrainingError(
            f"training.crop: {height}x{width}; sides must be multiples of 32 from {MIN_CROP}"
        )


def _optimizer(network: StemSeg, config: Config) -> torch.optim.Optimizer:
    training = config.training
    outputs = {p for layer in embedding_outputs(network) for p in layer.parameters()}
    body = set(network.backbone.body.parameters())
    rest = set(network.parameters()) - outputs - body
    order = [p for p in network.parameters() if p.requires_grad]  # a set has no order
    rates = ((body, training.backbone_rate), (outputs, training.output_rate), (rest, 1.0))
    groups = [
        {"params": [p for p in order if p in members], "rate": rate} for members, rate in rates
    ]
    if training.optimizer == "adamw":
        return torch.optim.AdamW(
            groups, lr=training.learning_rate, weight_decay=training.weight_decay
        )
    return torch.optim.SGD(
        groups,
        lr=training.learning_rate,
        momentum=0.9,
        nesterov=True,
        weight_decay=training.weight_decay,
    )


def _loop(
    run: Run,
    config: Config,
    sources: Sources,
    out: Path,
    report: Callable[[Progress], None] | None,
) -> None:
    steps, first, began = config.training.steps, run.step, time.monotonic()
    saved = began
    for batch in batches(sources, config, first):
        take_step(run, batch, config)
        now, last = time.monotonic(), run.step == steps
        if run.step % LOG_EVERY == 0 or last:
            means, pace = _means(run), (now - began) / (run.step - first)
            _log(out / "log.csv", run.step, means, config)
            if report is not None:
                report(
                    Progress(
                        run.step,
                        steps,
                        means,
                        config.training.batch_size / pace,
                        pace * (steps - run.step),
                    )
                )
        if now - saved > SAVE_SECONDS or last:
            _save(run, out / "checkpoint.pt", config)
            saved = now


def _count_bad(run: Run, batch: Batch) -> None:
    run.bad += 1
    clips = ", ".join(batch.names)
    log.warning("step %d: loss or gradient is not finite, left out (%s)", run.step, clips)
    if run.bad >= MAX_BAD_STEPS:
        raise TrainingError(
            f"step {run.step}: {run.bad} steps in a row not finite, "
            f"the last on {clips}; try training.precision float32 or a lower learning rate"
        )


@torch.no_grad()
def _average(run: Run, decay: float) -> None:
    """Running average of the weights; the decay is lower at first, so that the random start is
    forgotten."""
    decay = min(decay, (1 + run.step) / (10 + run.step))
    torch._foreach_lerp_(
        list(run.average.values()), list(run.network.state_dict().values()), 1 - decay
    )


def _means(run: Run) -> dict[str, float]:
    """Losses averaged since the last call."""
    count = run.sums.pop("count", 1.0)
    means = {name: value / count for name, value in run.sums.items()}
    run.sums.clear()
    return means


def _log(path: Path, step: int, means: dict[str, float], config: Config) -> None:
    fields = {
        "step": step,
        "rate": config.training.learning_rate * rate_factor(step - 1, config),
        **means,
    }
    with path.open("a", encoding="utf-8") as file:
        if file.tell() == 0:
            file.write(",".join(fields) + "\n")
        file.write(",".join(f"{value:.6g}" for value in fields.values()) + "\n")


def _save(run: Run, path: Path, config: Config) -> None:
    """Write a checkpoint, whole or not at all."""
    content = {
        "step": run.step,
        "sums": run.sums,
        "average": run.average,
        "config": dump_config(config),
        "network": run.network.state_dict(),
        "optimizer": run.optimizer.state_dict(),
        "torch_rng": torch.get_rng_state(),
    }
    partial = path.with_name(path.name + ".partial")
    torch.save(content, partial)
    partial.replace(path)


def _restore(run: Run, path: Path, config: Config) -> None:
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        run.network.load_state_dict(content["network"])
        run.optimizer.load_state_dict(content["optimizer"])
        for name, value in run.average.items():
            value.copy_(content["average"][name])
        run.step, run.sums = content["step"], content["sums"]
        torch.set_rng_state(content["torch_rng"])
    except (
        OSError,
        EOFError,
        RuntimeError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        pickle.UnpicklingError,
    ) as error:
        raise TrainingError(
            f"{path}: is damaged or does not fit the config '{config.name}': {error}"
        ) from error
