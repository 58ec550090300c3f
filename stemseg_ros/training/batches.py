"""Batches of training clips: every one is a pure function of (seed, step)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from stemseg_ros.config import Config
from stemseg_ros.datasets.mix import load_mix
from stemseg_ros.datasets.sequence import read_all
from stemseg_ros.network.preprocess import normalise
from stemseg_ros.training.clips import Sources, Targets, draw_clip, draw_size, grid_targets


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
    """Sequence of each clip."""


def load_sources(config: Config, data: Path) -> Sources:
    """Sequences of ``training.mix``, checked. The driving pack, which is small, is decoded at
    once.

    Raises ConfigError, DataError.
    """
    classes = len(config.network.classes)
    return {
        name: read_all(sequences, classes)
        if config.training.mix[name].format == "driving"
        else sequences
        for name, sequences in load_mix(config, data).items()
    }


def batches(sources: Sources, config: Config, first: int) -> DataLoader[Batch]:
    """Batches of the steps from ``first`` on, in order, drawn ahead by worker processes if there
    are any."""
    workers = config.training.workers
    return DataLoader(
        _Steps(sources, config),
        batch_size=None,
        sampler=range(first, config.training.steps),
        num_workers=workers,
        multiprocessing_context="spawn" if workers else None,
    )


def make_batch(sources: Sources, config: Config, step: int) -> Batch:
    """The batch of one step, the same whenever it is asked for."""
    seed = config.training.seed
    size = draw_size(
        sources, config, np.random.default_rng((seed, step, config.training.batch_size))
    )
    clips = [
        draw_clip(sources, config, np.random.default_rng((seed, step, place)), size)
        for place in range(config.training.batch_size)
    ]
    targets = [grid_targets(clip.labels, config) for clip in clips]
    frames = torch.from_numpy(np.stack([clip.frames for clip in clips])).float()  # (N, T, H, W, 3)
    pixels = normalise(frames.permute(0, 1, 4, 2, 3).flatten(0, 1), config.input)
    return Batch(
        clips=pixels.unflatten(0, (len(clips), config.window.length)),
        masks=_pad_masks(targets),
        classes=torch.from_numpy(np.stack([target.classes for target in targets])),
        ignore=torch.from_numpy(np.stack([target.ignore for target in targets])),
        names=tuple(clip.name for clip in clips),
    )


class _Steps(Dataset[Batch]):
    """The batch of each step."""

    def __init__(self, sources: Sources, config: Config) -> None:
        self._sources, self._config = sources, config

    def __getitem__(self, step: int) -> Batch:
        cv2.setNumThreads(1)  # processes are the parallelism, and the network needs the cores
        return make_batch(self._sources, self._config, step)


def _pad_masks(targets: list[Targets]) -> Tensor:
    most = max(1, *(len(target.masks) for target in targets))
    padded = np.zeros((len(targets), most, *targets[0].classes.shape), np.uint8)
    for row, target in zip(padded, targets, strict=True):
        row[: len(target.masks)] = target.masks
    return torch.from_numpy(padded)
