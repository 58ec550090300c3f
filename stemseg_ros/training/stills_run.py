"""Training of HODOR from stills: samples, steps, checkpoints.

A batch depends on seed and step only, so a resumed run sees the same samples as an uninterrupted
one.
"""

from __future__ import annotations

import csv
import math
import pickle
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stemseg_ros.config import dump_config
from stemseg_ros.datasets.mix import load_mix
from stemseg_ros.execution.torch_engine import DTYPES, to_channels_last
from stemseg_ros.models.hodor.features import build_light_body
from stemseg_ros.models.hodor.network import Hodor
from stemseg_ros.models.hodor.settings import Settings
from stemseg_ros.models.hodor.trainable import StillsBatch, compute_losses
from stemseg_ros.models.layers.backbone import MobileNetV2
from stemseg_ros.models.layers.preprocess import normalise
from stemseg_ros.models.layers.weight_files import read_state
from stemseg_ros.models.layers.weights import load_state, save_weights
from stemseg_ros.training.model import in_float32
from stemseg_ros.training.pretrained import load_imagenet
from stemseg_ros.training.schedule import rate_factor
from stemseg_ros.training.steps import MAX_BAD_STEPS, TrainingError
from stemseg_ros.training.still_copies import StillPool, draw_sample

REFINER = "decoder.refiner."
LOG_EVERY = 20
"""Steps between lines of log.csv."""
CHECKPOINT, WEIGHTS, LOG = "checkpoint.pt", "weights.safetensors", "log.csv"
COLUMNS = ("step", "rate", "samples_per_second", "total", "cross_entropy", "dice", "gradient")


@dataclass(slots=True)
class StillsRun:
    """State of a training run."""

    network: Hodor
    average: dict[str, Tensor]
    """Exponential moving average of the network's state dict."""
    optimizer: torch.optim.Optimizer
    step: int = 0
    bad: int = 0
    """Consecutive skipped steps."""
    sums: dict[str, float] = field(default_factory=dict)
    """Sums of the losses since the last line of the log, and their count."""


def train_from_stills(config: Settings, data: Path, out: Path, *, resume: bool = False) -> Path:
    """Train on the stills of ``training.mix``; returns ``out``/weights.safetensors, the averaged
    weights, which are written with every checkpoint.

    data: folder to which the roots of the mix are relative. Raises DataError, TrainingError,
    CheckpointError, MissingExtraError.
    """
    checkpoint = out / CHECKPOINT
    if resume != checkpoint.is_file():
        hint = "nothing to resume" if resume else "a run already exists; resume it"
        raise TrainingError(f"{checkpoint}: {hint}")
    weights = {name: entry.weight for name, entry in config.training.mix.items()}
    pool = StillPool(load_mix(config, data), weights)
    run = start(config)
    out.mkdir(parents=True, exist_ok=True)
    if resume:
        restore(run, checkpoint)
    (out / "config.yaml").write_text(dump_config(config), encoding="utf-8")
    _loop(run, config, pool, out)
    return out / WEIGHTS


def start(config: Settings) -> StillsRun:
    """Start a run at step 0."""
    torch.manual_seed(config.training.seed)
    network = build_for_training(config)
    average = {name: value.detach().clone() for name, value in network.state_dict().items()}
    return StillsRun(network, average, make_optimizer(network, config))


def build_for_training(config: Settings) -> Hodor:
    """Build a network with its initial weights."""
    network = Hodor(config)
    if config.training.start_from:
        path = Path(config.training.start_from)
        load_state(network, _new_parts(network) | read_state(path), path, config.name)
    elif config.network.backbone == "mobilenet_v2" and config.training.pretrained:
        body = MobileNetV2()
        load_imagenet(body)
        first = next(body.parameters())
        first.data = first.data.flip(1)  # back to RGB, the input of HODOR
        network.feature_extractor.bb_fpn[0].load_state_dict(build_light_body(body).state_dict())
    network.train()
    for stage in list(network.feature_extractor.bb_fpn[0].children())[
        : config.training.frozen_stages
    ]:
        stage.requires_grad_(False)
    for module in network.modules():
        # Their weight gradients in oneDNN take ten times as long in bfloat16 on the CPU.
        if isinstance(module, nn.Conv2d) and module.groups > 1 and module.stride != (1, 1):
            in_float32(module)
    if config.training.channels_last:
        to_channels_last(network)
    return network


def _new_parts(network: Hodor) -> dict[str, Tensor]:
    """Return the initial weights of what weights of a network without ``refinement`` lack."""
    state = network.state_dict()
    return {name: value for name, value in state.items() if name.startswith(REFINER)}


def make_optimizer(network: Hodor, config: Settings) -> torch.optim.Optimizer:
    """Make AdamW; the ``rate`` of each parameter group is relative to the learning rate."""
    training = config.training
    body = list(network.feature_extractor.bb_fpn[0].parameters())
    inside = {id(weight) for weight in body}
    rest = [weight for weight in network.parameters() if id(weight) not in inside]
    body = [weight for weight in body if weight.requires_grad]
    groups = [{"params": body, "rate": training.backbone_rate}, {"params": rest, "rate": 1.0}]
    rate, decay = training.learning_rate, training.weight_decay
    return torch.optim.AdamW(groups, lr=rate, weight_decay=decay)


def make_batch(pool: StillPool, config: Settings, step: int) -> StillsBatch:
    """Draw the samples of a step."""
    training = config.training
    random = np.random.default_rng((training.seed, step))
    objects = int(random.integers(1, config.stills.objects + 1))
    samples = [
        draw_sample(pool, objects, training.crop, config.stills, random)
        for _ in range(training.batch_size)
    ]
    frames = torch.from_numpy(np.stack([sample.frames for sample in samples])).float()
    pixels = normalise(frames.permute(0, 1, 4, 2, 3).flatten(0, 1), config.input).flip(1)
    labels = torch.from_numpy(np.stack([sample.labels for sample in samples]))
    return StillsBatch(pixels.unflatten(0, frames.shape[:2]), labels, objects)


def take_step(run: StillsRun, batch: StillsBatch, config: Settings) -> None:
    """Take an optimizer step; it is skipped if the loss or the gradient is not finite. Raises
    TrainingError after MAX_BAD_STEPS skipped steps in a row."""
    training = config.training
    rate = training.learning_rate * rate_factor(run.step, config)
    for group in run.optimizer.param_groups:
        group["lr"] = rate * group["rate"]
    run.optimizer.zero_grad(set_to_none=True)
    precision = DTYPES[training.precision]
    with torch.autocast("cpu", precision, precision != torch.float32):
        losses = compute_losses(run.network, batch, config, run.step)
    losses["total"].backward()
    limit = training.clip_norm or math.inf
    norm = nn.utils.clip_grad_norm_(run.network.parameters(), limit)
    if bool(torch.isfinite(norm + losses["total"])):
        run.optimizer.step()
        _update_average(run, training.ema)
        for name, value in {**losses, "gradient": norm, "count": torch.ones(())}.items():
            run.sums[name] = run.sums.get(name, 0.0) + float(value.detach())
        run.bad = 0
    else:
        run.bad += 1
        if run.bad >= MAX_BAD_STEPS:
            raise TrainingError(f"step {run.step}: {run.bad} steps in a row were not finite")
    run.step += 1


def save(run: StillsRun, out: Path, config: Settings) -> None:
    """Write checkpoint and weights, each atomically."""
    content = {
        "step": run.step,
        "bad": run.bad,
        "sums": run.sums,
        "average": run.average,
        "network": run.network.state_dict(),
        "optimizer": run.optimizer.state_dict(),
        "torch_rng": torch.get_rng_state(),
    }
    partial = out / f"{CHECKPOINT}.partial"
    torch.save(content, partial)
    partial.replace(out / CHECKPOINT)
    shipped = Hodor(config)
    shipped.load_state_dict(run.average)
    facts = {"config": config.name, "seed": str(config.training.seed), "steps": str(run.step)}
    save_weights(shipped, out / WEIGHTS, facts)


def restore(run: StillsRun, path: Path) -> None:
    """Restore a run from a checkpoint. Raises TrainingError."""
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        run.network.load_state_dict(content["network"])
        run.optimizer.load_state_dict(content["optimizer"])
        for name, value in run.average.items():
            value.copy_(content["average"][name])
        run.step, run.bad, run.sums = content["step"], content["bad"], content["sums"]
        torch.set_rng_state(content["torch_rng"])
    except (OSError, EOFError, RuntimeError, KeyError, pickle.UnpicklingError) as error:
        raise TrainingError(f"{path}: is damaged or does not fit the config: {error}") from error


def _loop(run: StillsRun, config: Settings, pool: StillPool, out: Path) -> None:
    saved = logged = time.monotonic()
    while run.step < config.training.steps:
        take_step(run, make_batch(pool, config, run.step), config)
        now = time.monotonic()
        if run.step % LOG_EVERY == 0:
            _log(run, config, out, now - logged)
            logged = now
        if now - saved > config.training.checkpoint_seconds:
            save(run, out, config)
            saved = now
    save(run, out, config)


def _log(run: StillsRun, config: Settings, out: Path, seconds: float) -> None:
    count = run.sums.pop("count", 1.0)
    rate = config.training.learning_rate * rate_factor(run.step - 1, config)
    pace = LOG_EVERY * config.training.batch_size / seconds
    means = [run.sums.get(name, math.nan) / count for name in COLUMNS[3:]]
    run.sums.clear()
    path = out / LOG
    fresh = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        if fresh:
            writer.writerow(COLUMNS)
        writer.writerow([run.step, *(f"{value:.5g}" for value in (rate, pace, *means))])


@torch.no_grad()
def _update_average(run: StillsRun, decay: float) -> None:
    """Update the average of the weights; the decay is lower at first, to forget the random
    initialisation."""
    decay = min(decay, (1 + run.step) / (10 + run.step))
    state = run.network.state_dict()
    torch._foreach_lerp_(list(run.average.values()), list(state.values()), 1 - decay)
