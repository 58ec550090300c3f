"""Batches of training clips, each a pure function of (seed, step)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from stemseg_ros.config import Config
from stemseg_ros.datasets.mix import load_mix
from stemseg_ros.datasets.pseudo_label_repair import repair_all
from stemseg_ros.datasets.sequence import LabelledFrame, Sources, read_all
from stemseg_ros.errors import StemsegError
from stemseg_ros.models.layers.preprocess import normalise
from stemseg_ros.models.stemseg.settings import Settings
from stemseg_ros.models.stemseg.targets import Targets, grid_targets
from stemseg_ros.training.clips import Clip
from stemseg_ros.training.distributed import World
from stemseg_ros.training.interrupts import leave_signals_to_the_parent, signals_held
from stemseg_ros.training.trainables import AnyBatch, trainable


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Clips of STEm-Seg and their targets as tensors; instances are padded with empty masks."""

    clips: Tensor
    """float32 (N, T, 3, H, W), preprocessed."""
    masks: Tensor
    """uint8 (N, I, T, h, w)."""
    classes: Tensor
    """int64 (N, T, h, w)."""
    ignore: Tensor
    """bool (N, T, h, w)."""
    groups: Tensor
    """bool (N, T, h, w): cells with a class but no instance."""
    names: tuple[str, ...]
    """Sequence of each clip."""

    def split(self, size: int) -> list[Batch]:
        """Batches of ``size`` clips each; the last may have fewer."""
        parts = [slice(first, first + size) for first in range(0, len(self.names), size)]
        return [
            Batch(
                self.clips[part],
                self.masks[part],
                self.classes[part],
                self.ignore[part],
                self.groups[part],
                self.names[part],
            )
            for part in parts
        ]

    def to(self, device: torch.device) -> Batch:
        """Move the tensors of the batch to a device."""
        return Batch(
            self.clips.to(device),
            self.masks.to(device),
            self.classes.to(device),
            self.ignore.to(device),
            self.groups.to(device),
            self.names,
        )


def load_sources(config: Config, data: Path) -> Sources:
    """Find and check the sequences of ``training.mix``, repaired where the mix asks for it. The
    driving pack, which is small, is decoded at once.

    Raises ConfigError, DataError.
    """
    classes = len(config.classes)
    sources: dict[str, Sequence[Sequence[LabelledFrame]]] = {}
    for name, sequences in load_mix(config, data).items():
        entry = config.training.mix[name]
        if entry.repair:
            sources[name] = repair_all(sequences, classes)
        elif entry.format == "driving":
            sources[name] = read_all(sequences, classes)
        else:
            sources[name] = sequences
    return sources


def batches(
    sources: Sources, config: Config, first: int, world: World | None = None
) -> Iterator[AnyBatch]:
    """Batches of the steps from ``first`` on, in order, drawn ahead by worker processes if there
    are any.

    Drawing one raises DataError, which names the bad file.
    """
    workers = config.training.workers
    loader = DataLoader(
        _Steps(sources, config, world or World()),
        batch_size=None,
        sampler=range(first, config.training.steps),
        num_workers=workers,
        multiprocessing_context="spawn" if workers else None,
        worker_init_fn=_start_worker,
        # Not torch's own generator, whose state is that of the run: dropout draws from it.
        generator=torch.Generator(),
    )
    with signals_held():
        drawn = iter(loader)
    return map(_raise_errors, drawn)


def make_batch(
    sources: Sources, config: Config, step: int, world: World | None = None
) -> AnyBatch:
    """Draw what one process sees in a step, a function of seed and step alone: ``batch_size``
    times ``accumulate`` clips.

    Several processes share the clips of a single one with a batch that is as many times as large.
    """
    return trainable(config).batch(step_clips(sources, config, step, world or World()), config)


def stack_frames(clips: list[Clip]) -> Tensor:
    """Stack the frames of N clips of one size: float32 (N * T, 3, H, W), BGR, 0 to 255."""
    frames = torch.from_numpy(np.stack([clip.frames for clip in clips])).float()
    return frames.permute(0, 1, 4, 2, 3).flatten(0, 1)


def batch_of_windows(clips: list[Clip], config: Settings) -> Batch:
    """Clips and targets of STEm-Seg."""
    targets = [grid_targets(clip.labels, config) for clip in clips]
    pixels = normalise(stack_frames(clips), config.input)
    return Batch(
        clips=pixels.unflatten(0, (len(clips), config.window.length)),
        masks=_pad_masks(targets),
        classes=torch.from_numpy(np.stack([target.classes for target in targets])),
        ignore=torch.from_numpy(np.stack([target.ignore for target in targets])),
        groups=torch.from_numpy(np.stack([target.groups for target in targets])),
        names=tuple(clip.name for clip in clips),
    )


def step_clips(sources: Sources, config: Config, step: int, world: World) -> list[Clip]:
    """Draw the clips of one process in a step."""
    seed, count = config.training.seed, config.training.batch_size * config.training.accumulate
    task = trainable(config)
    # The shape is one for all processes.
    common = np.random.default_rng((seed, step, count * world.size))
    shape = task.draw_shape(sources, config, common)
    clips = [
        task.draw_clip(sources, config, np.random.default_rng((seed, step, place)), shape)
        for place in range(world.rank * count, (world.rank + 1) * count)
    ]
    return [replace(clip, step=step) for clip in clips]


class _Steps(Dataset[AnyBatch | StemsegError]):
    """The batch of each step, or what is wrong with its files: raised in a worker process, its
    message would come with a stack trace."""

    def __init__(self, sources: Sources, config: Config, world: World) -> None:
        self._sources, self._config, self._world = sources, config, world

    def __getitem__(self, step: int) -> AnyBatch | StemsegError:
        cv2.setNumThreads(1)  # processes are the parallelism, and the network needs the cores
        try:
            return make_batch(self._sources, self._config, step, self._world)
        except StemsegError as error:
            return error


def _raise_errors(drawn: AnyBatch | StemsegError) -> AnyBatch:
    if isinstance(drawn, StemsegError):
        raise drawn
    return drawn


def _start_worker(number: int) -> None:
    leave_signals_to_the_parent()


def _pad_masks(targets: list[Targets]) -> Tensor:
    most = max(1, *(len(target.masks) for target in targets))
    padded = np.zeros((len(targets), most, *targets[0].classes.shape), np.uint8)
    for row, target in zip(padded, targets, strict=True):
        row[: len(target.masks)] = target.masks
    return torch.from_numpy(padded)
