"""The training loop: clips in, losses, AdamW or SGD, an average of the weights out.

Every clip is a pure function of (seed, step, place in the batch), so a run that is stopped and resumed sees
the same clips as one that is not.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from stemseg_ros import __version__
from stemseg_ros.config import Config, dump_config
from stemseg_ros.datasets.driving import load_driving
from stemseg_ros.datasets.sequence import DataError, read_all
from stemseg_ros.errors import StemsegError
from stemseg_ros.network.build import StemSeg
from stemseg_ros.network.checkpoint import save_weights
from stemseg_ros.network.preprocess import normalise
from stemseg_ros.training.clips import Sources, Targets, draw_clip, grid_targets
from stemseg_ros.training.losses import embedding_loss, semantic_loss
from stemseg_ros.training.model import build_for_training, unfused

LOG_EVERY = 20
"""Steps between two lines of the log."""
SAVE_SECONDS = 180.0
"""Time between two checkpoints."""
MAX_BAD_STEPS = 5
"""Successive steps with values that are not finite after which training stops."""

log = logging.getLogger(__name__)


class TrainingError(StemsegError):
    """Training cannot start or go on; the message names the reason."""


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Clips and their targets as tensors; instances are padded with empty masks."""

    clips: Tensor
    """float32 (N, T, 3, H, W), preprocessed."""
    masks: Tensor
    """uint8 (N, I, T, h, w)."""
    classes: Tensor
    """int64 (N, T, h, w)."""
    ignore: Tensor
    """bool (N, T, h, w)."""
    names: tuple[str, ...]


@dataclass(slots=True)
class Progress:
    """What a run has reached, for a progress display."""

    step: int
    steps: int
    losses: dict[str, float]
    clips_per_second: float
    remaining_seconds: float


@dataclass(slots=True)
class _Run:
    """Everything that changes while training."""

    network: StemSeg
    average: dict[str, Tensor]
    optimizer: torch.optim.Optimizer
    step: int = 0
    bad: int = 0
    sums: dict[str, float] = field(default_factory=dict)


def train(config: Config, data: Path, out: Path, *, resume: bool = False,
          report: Callable[[Progress], None] | None = None) -> Path:
    """Train ``config`` on the driving pack ``data``; returns the weights file ``out``/weights.safetensors.

    out: run folder; gets config.yaml, log.csv, checkpoint.pt (to resume) and the averaged weights in half
    precision. report: called every few steps. Raises DataError, TrainingError.
    """
    _check(config)
    checkpoint = out / "checkpoint.pt"
    if resume and not checkpoint.is_file():
        raise TrainingError(f"{checkpoint}: nothing to resume; leave out --resume to start a run")
    if checkpoint.exists() and not resume:
        raise TrainingError(f"{out}: holds a run already; give --resume to go on with it, or another folder")
    sources = load_sources(config, data)
    out.mkdir(parents=True, exist_ok=True)
    cv2.setNumThreads(1)  # the network needs the cores
    run = _start(config)
    if resume:
        _restore(run, checkpoint, config)
    (out / "config.yaml").write_text(dump_config(config), encoding="utf-8")
    _loop(run, config, sources, out, report)
    weights = out / "weights.safetensors"
    export(run.average, config, weights, data=data.name, steps=run.step)
    return weights


def load_sources(config: Config, data: Path) -> Sources:
    """Decode the training split, by part. Raises DataError where a part of ``training.mix`` is missing."""
    sequences = load_driving(data, "train")
    sources: Sources = {}
    for sequence, frames in zip(sequences, read_all(sequences, len(config.network.classes)), strict=True):
        sources.setdefault(sequence.source, []).append(frames)
    for name, weight in config.training.mix.items():
        if weight > 0 and name not in sources:
            raise DataError(f"{data}: no '{name}', which training.mix names; found {', '.join(sorted(sources))}")
    return sources


def export(state: dict[str, Tensor], config: Config, path: Path, **facts: object) -> None:
    """Write the weights of a training network in the layout and precision of a shipped checkpoint."""
    metadata = {"config": config.name, "version": __version__, "seed": str(config.training.seed),
                **{name: str(value) for name, value in facts.items()}}
    save_weights(unfused(state, config), path, metadata)


def make_batch(sources: Sources, config: Config, step: int) -> Batch:
    """The batch of one step, the same whenever it is asked for."""
    clips = [draw_clip(sources, config, np.random.default_rng((config.training.seed, step, place)))
             for place in range(config.training.batch_size)]
    targets = [grid_targets(clip.labels, config) for clip in clips]
    frames = torch.from_numpy(np.stack([clip.frames for clip in clips])).float()  # (N, T, H, W, 3)
    pixels = normalise(frames.permute(0, 1, 4, 2, 3).flatten(0, 1), config.input)
    return Batch(
        clips=pixels.unflatten(0, frames.shape[:2]),
        masks=_pad_masks(targets),
        classes=torch.from_numpy(np.stack([target.classes for target in targets])),
        ignore=torch.from_numpy(np.stack([target.ignore for target in targets])),
        names=tuple(clip.name for clip in clips))


def compute_losses(network: StemSeg, batch: Batch, config: Config) -> dict[str, Tensor]:
    """Forward pass and losses; ``total`` is what is minimised."""
    with torch.autocast(batch.clips.device.type, torch.bfloat16, config.training.precision == "bfloat16"):
        maps = network(batch.clips)
    output = torch.cat([maps.embeddings, maps.raw_variance, maps.heatmap], dim=1)
    losses = embedding_loss(output, batch.masks, batch.ignore, config)
    losses["total"] = losses["embedding"]
    if maps.semantic_logits is not None:
        losses["semantic"] = semantic_loss(maps.semantic_logits, batch.classes, batch.ignore, config)
        losses["total"] = losses["total"] + config.training.semantic_weight * losses["semantic"]
    return losses


def learning_rate_factor(step: int, config: Config) -> float:
    """Linear warm-up, then constant or a cosine down to 0."""
    training = config.training
    warm = min(1.0, (step + 1) / (training.warmup_steps + 1))
    if training.schedule == "constant":
        return warm
    return warm * 0.5 * (1 + math.cos(math.pi * step / training.steps))


def _check(config: Config) -> None:
    height, width = config.training.crop
    if height % 32 or width % 32:
        raise TrainingError(f"training.crop: {height}x{width} are no multiples of 32")


def _start(config: Config) -> _Run:
    torch.manual_seed(config.training.seed)
    network = build_for_training(config)
    average = {name: value.detach().clone() for name, value in network.state_dict().items()}
    return _Run(network, average, _optimizer(network, config))


def _optimizer(network: StemSeg, config: Config) -> torch.optim.Optimizer:
    training = config.training
    head = network.embedding_head
    outputs = {*head.conv_embedding.parameters(), *head.conv_variance.parameters()}
    body = set(network.backbone.body.parameters())
    rest = set(network.parameters()) - outputs - body
    order = [p for p in network.parameters() if p.requires_grad]  # sets have no order, a resumed run needs one
    groups = [{"params": [p for p in order if p in members], "lr": training.learning_rate * rate, "rate": rate}
              for members, rate in ((body, training.backbone_rate), (outputs, training.output_rate), (rest, 1.0))]
    if training.optimizer == "adamw":
        return torch.optim.AdamW(groups, weight_decay=training.weight_decay)
    return torch.optim.SGD(groups, lr=training.learning_rate, momentum=0.9, nesterov=True,
                           weight_decay=training.weight_decay)


def _loop(run: _Run, config: Config, sources: Sources, out: Path,
          report: Callable[[Progress], None] | None) -> None:
    steps, first, began = config.training.steps, run.step, time.monotonic()
    saved = began
    with ThreadPoolExecutor(max_workers=1) as loader:
        ahead: Future[Batch] = loader.submit(make_batch, sources, config, run.step)
        while run.step < steps:
            batch = ahead.result()
            ahead = loader.submit(make_batch, sources, config, run.step + 1)
            _step(run, batch, config)
            run.step += 1
            now = time.monotonic()
            if run.step % LOG_EVERY == 0 or run.step == steps:
                pace = (now - began) / (run.step - first)
                count = run.sums.pop("count", 1.0)
                means = {name: value / count for name, value in run.sums.items()}
                run.sums.clear()
                _log(out / "log.csv", run.step, means, config)
                if report is not None:
                    report(Progress(run.step, steps, means, config.training.batch_size / pace,
                                    pace * (steps - run.step)))
            if now - saved > SAVE_SECONDS or run.step == steps:
                _save(run, out / "checkpoint.pt", config)
                saved = now


def _step(run: _Run, batch: Batch, config: Config) -> None:
    """One optimizer step; a step whose loss or gradient is not finite is left out and counted."""
    training = config.training
    for group in run.optimizer.param_groups:
        group["lr"] = training.learning_rate * group["rate"] * learning_rate_factor(run.step, config)
    losses = compute_losses(run.network, batch, config)
    run.optimizer.zero_grad(set_to_none=True)
    losses["total"].backward()
    norm = nn.utils.clip_grad_norm_(run.network.parameters(), training.clip_norm or math.inf)
    if not torch.isfinite(norm + losses["total"].detach()):
        run.bad += 1
        log.warning("step %d: loss or gradient is not finite, left out (%s)", run.step, ", ".join(batch.names))
        if run.bad >= MAX_BAD_STEPS:
            raise TrainingError(f"step {run.step}: {run.bad} steps in a row without finite loss and gradient, the "
                                f"last on {', '.join(batch.names)}; try precision float32 or a lower learning rate")
        return
    run.bad = 0
    run.optimizer.step()
    _average(run, training.ema)
    run.sums["count"] = run.sums.get("count", 0.0) + 1
    for name, value in {**losses, "gradient": norm}.items():
        run.sums[name] = run.sums.get(name, 0.0) + float(value.detach())


@torch.no_grad()
def _average(run: _Run, decay: float) -> None:
    """Running average of the weights; the decay is lower at first, so that the random start is forgotten."""
    decay = min(decay, (1 + run.step) / (10 + run.step))
    average, current = list(run.average.values()), list(run.network.state_dict().values())
    torch._foreach_lerp_(average, current, 1 - decay)


def _pad_masks(targets: list[Targets]) -> Tensor:
    most = max(1, *(len(target.masks) for target in targets))
    padded = np.zeros((len(targets), most, *targets[0].classes.shape), np.uint8)
    for row, target in zip(padded, targets, strict=True):
        row[:len(target.masks)] = target.masks
    return torch.from_numpy(padded)


def _log(path: Path, step: int, means: dict[str, float], config: Config) -> None:
    fields = {"step": step, "rate": config.training.learning_rate * learning_rate_factor(step, config), **means}
    with path.open("a", encoding="utf-8") as file:
        if file.tell() == 0:
            file.write(",".join(fields) + "\n")
        file.write(",".join(f"{value:.6g}" for value in fields.values()) + "\n")


def _save(run: _Run, path: Path, config: Config) -> None:
    content = {"network": run.network.state_dict(), "average": run.average, "optimizer": run.optimizer.state_dict(),
               "step": run.step, "sums": run.sums, "torch_rng": torch.get_rng_state(), "config": dump_config(config)}
    partial = path.with_name(path.name + ".partial")
    torch.save(content, partial)
    partial.replace(path)


def _restore(run: _Run, path: Path, config: Config) -> None:
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        run.network.load_state_dict(content["network"])
        run.optimizer.load_state_dict(content["optimizer"])
        for name, value in content["average"].items():
            run.average[name].copy_(value)
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        raise TrainingError(f"{path}: does not fit the config '{config.name}', or is damaged: {error}") from error
    run.step, run.sums = content["step"], content["sums"]
    torch.set_rng_state(content["torch_rng"])
