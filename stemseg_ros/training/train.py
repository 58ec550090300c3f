"""The training loop: clips in, losses, AdamW or SGD, an average of the weights out.

A batch depends on seed and step alone, so a run that is stopped and resumed sees the same clips as
one that is not, and on the CPU ends with the same weights, bit for bit. Under ``torchrun`` every
process runs this; the first one alone writes and reports.
"""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch

from stemseg_ros import __version__
from stemseg_ros.config import Config, update_config
from stemseg_ros.datasets.sequence import Sources
from stemseg_ros.execution.device import describe_device, resolve_device
from stemseg_ros.training.batches import batches, load_sources, make_batch
from stemseg_ros.training.checkpoints import export, restore, save
from stemseg_ros.training.distributed import join
from stemseg_ros.training.interrupts import StopRequest, stop_requests
from stemseg_ros.training.run_folder import code_version, write_facts
from stemseg_ros.training.run_log import RunLog, run_log
from stemseg_ros.training.schedule import rate_factor
from stemseg_ros.training.steps import Run, TrainingError, start, take_step
from stemseg_ros.training.trainables import trainable

LOG_EVERY = 20
"""Steps between two lines of the log."""
MIN_CROP = 96
"""Decoders of STEm-Seg pool over three cells at stride 32."""

log = logging.getLogger(__name__)


class TrainingStopped(TrainingError):
    """A signal ended the run before its last step; its checkpoint is written."""

    def __init__(self, message: str, signum: int) -> None:
        super().__init__(message)
        self.signum = signum


@dataclass(frozen=True, slots=True)
class TrainingProgress:
    """Progress of a run."""

    step: int
    steps: int
    losses: dict[str, float]
    """Means since the last report; gradient: norm before clipping."""
    clips_per_second: float
    remaining_seconds: float


Report = Callable[[TrainingProgress], None]


def train(
    config: Config,
    data: Path,
    out: Path,
    *,
    resume: bool = False,
    report: Report | None = None,
    device: str = "cpu",
) -> Path:
    """Train ``config`` on the datasets of its mix; returns the weights file
    ``out``/weights.safetensors.

    data: folder that the roots of the mix are relative to. out: run folder (docs/training.md).
    report: called every few steps. device: "auto", "cpu", "cuda" or "cuda:N".
    Raises ConfigError, DataError, TrainingError, CheckpointError, DeviceError; TrainingStopped
    when SIGTERM or SIGINT ended the run.
    """
    place = resolve_device(device)
    checkpoint = _check(config, out, resume)
    sources = load_sources(config, data)
    with join(place) as world:
        # A resumed run has weights of its own.
        fresh = update_config(config, {"training.start_from": None}) if resume else config
        run = start(fresh, world.device(place), world)
        changes = restore(run, checkpoint, config) if resume else []
        if world.main:
            write_facts(out, config, data, sources)
        with (
            run_log(out, run.step) if world.main else nullcontext() as writer,
            stop_requests() as request,
        ):
            _announce(run, config, resume, changes)
            keeper = (
                None
                if writer is None
                else _Keeper(run, config, sources, checkpoint, writer, report)
            )
            _loop(run, config, sources, request, keeper)
        weights = out / "weights.safetensors"
        if world.main:
            export(run.average, config, weights, data=data.name, steps=run.step)
    return weights


def _check(config: Config, out: Path, resume: bool) -> Path:
    """The run's checkpoint. Raises TrainingError for what cannot work, before anything is read."""
    training, checkpoint = config.training, out / "checkpoint.pt"
    crops = {"training.crop": training.crop} | {
        f"training.mix.{name}.crop": entry.crop
        for name, entry in training.mix.items()
        if entry.crop is not None
    }
    for name, (height, width) in crops.items():
        if any(side % 32 or side < MIN_CROP for side in (height, width)):
            raise TrainingError(
                f"{name}: {height}x{width}; sides must be multiples of 32 from {MIN_CROP}"
            )
    if training.frozen_encoder and not training.start_from:
        raise TrainingError(
            "training.frozen_encoder: an encoder that is not trained needs weights; "
            "training.start_from names their file"
        )
    if training.start_from and not resume and not Path(training.start_from).is_file():
        raise TrainingError(
            f"training.start_from: no file '{training.start_from}'; name another, or null to "
            "start from random weights"
        )
    if resume and not checkpoint.is_file():
        raise TrainingError(f"{checkpoint}: nothing to resume; leave out --resume to start a run")
    if checkpoint.exists() and not resume:
        raise TrainingError(
            f"{out}: holds a run already; --resume continues it, or name another folder"
        )
    return checkpoint


def _announce(run: Run, config: Config, resume: bool, changes: list[str]) -> None:
    log.info(
        "%s at step %d of %d: config %s, stemseg %s %s, torch %s, %d process(es) on %s",
        "resumed" if resume else "started",
        run.step,
        config.training.steps,
        config.name,
        __version__,
        code_version(),
        torch.__version__,
        run.world.size,
        describe_device(run.device),
    )
    if changes and run.world.main:
        log.warning("settings have changed: %s", ", ".join(changes))


def _loop(
    run: Run, config: Config, sources: Sources, request: StopRequest, keeper: _Keeper | None
) -> None:
    steps = config.training.steps
    for batch in batches(sources, config, run.step, run.world):
        take_step(run, batch, config)
        stop = run.world.any(request.signum != 0, run.device)
        if keeper is not None:
            keeper.after_step(ending=stop or run.step == steps)
        if stop and run.step < steps:
            name = signal.Signals(request.signum).name if request.signum else "another process"
            message = f"stopped by {name} after step {run.step} of {steps}; --resume continues"
            log.info(message)
            raise TrainingStopped(message, request.signum or signal.SIGTERM)


class _Keeper:
    """What the first process does after a step: log, pictures, checkpoints."""

    def __init__(
        self,
        run: Run,
        config: Config,
        sources: Sources,
        checkpoint: Path,
        writer: RunLog,
        report: Report | None,
    ) -> None:
        self._run, self._config, self._sources = run, config, sources
        self._checkpoint, self._writer, self._report = checkpoint, writer, report
        self._saved = self._began = self._logged = time.monotonic()
        self._first = self._last_line = run.step

    def after_step(self, ending: bool) -> None:
        """Write what is due; ending: this was the last step."""
        training, step = self._config.training, self._run.step
        if step % LOG_EVERY == 0 or step == training.steps:
            self._log()
        shown = self._writer.board is not None
        if shown and training.picture_steps and step % training.picture_steps == 0:
            self._draw()
        if ending or time.monotonic() - self._saved > training.checkpoint_seconds:
            save(self._run, self._checkpoint, self._config)
            self._saved = time.monotonic()

    def _log(self) -> None:
        run, training, now = self._run, self._config.training, time.monotonic()
        means = _means(run)
        if not means:
            return  # every step since the last line was skipped, and the log says so
        clips = training.batch_size * training.accumulate * run.world.size
        pace = clips * (run.step - self._last_line) / max(now - self._logged, 1e-9)
        rate = training.learning_rate * rate_factor(run.step - 1, self._config)
        self._writer.numbers(run.step, rate, pace, means)
        self._logged, self._last_line = now, run.step
        if self._report is not None:
            seconds = (now - self._began) / (run.step - self._first)
            remaining = seconds * (training.steps - run.step)
            self._report(TrainingProgress(run.step, training.steps, means, pace, remaining))

    def _draw(self) -> None:
        """Draw the first clip of this step, and that of the first step, to compare over time."""
        run, writer = self._run, self._writer
        draw = trainable(self._config).draw_predictions
        for name, step in (("clip of this step", run.step - 1), ("clip of the first step", 0)):
            batch = make_batch(self._sources, self._config, step, run.world)
            writer.picture(run.step, name, draw(run.network, batch, self._config))


def _means(run: Run) -> dict[str, float]:
    """Average the losses since the last call."""
    count = run.sums.pop("count", 1.0)
    means = {name: value / count for name, value in run.sums.items()}
    run.sums.clear()
    return means
