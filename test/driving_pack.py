"""A tiny driving pack: textured rectangles that drive to the right."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from stemseg_ros.config import Config, load_config
from stemseg_ros.training.batches import load_sources, make_batch
from stemseg_ros.training.steps import Run, take_step

HEIGHT, WIDTH = 96, 160


def write_pack(root: Path, frames: int = 8) -> Path:
    """Clips 0000 (training) and 0003 (held out), and two stills."""
    for clip, seed in (("0000", 0), ("0003", 1)):
        for t in range(frames):
            _write(root / "clips" / clip / f"{t:06d}", seed, 3 * t)
    for still in range(2):
        _write(root / "stills_city" / f"{still:06d}", 2 + still, 0)
    return root


def save_frame(stem: Path, image: npt.NDArray[np.uint8], labels: npt.NDArray[np.uint16]) -> None:
    """Write a frame and its labels as the pack has them."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(f"{stem}.jpg", image)
    cv2.imwrite(f"{stem}.png", labels)


def tiny_config(**training: object) -> Config:
    """A network and a schedule that take a step in a fraction of a second."""
    settings: dict[str, object] = {
        "network.mixing": "xyt",
        "network.fpn_channels": 16,
        "network.decoder_channels": [16, 16, 16, 16],
        "network.norm_groups": 4,
        "training.crop": [96, 128],
        "training.scale": [0.9, 1.1],
        "training.pretrained": False,
        "training.frozen_stages": 0,
        "training.backbone_rate": 1.0,
        "training.warmup_steps": 0,
        "training.precision": "float32",
        "training.min_instance_cells": 0,
        "training.mix": {"clips": 0.6, "stills_city": 0.4},
        "training.batch_size": 1,
    }
    return load_config(
        "lite", settings | {f"training.{name}": value for name, value in training.items()}
    )


def small_stc(**training: object) -> Config:
    """Return a network and a schedule whose steps take a fraction of a second."""
    settings: dict[str, object] = {
        "network.fpn_channels": 16,
        "network.mask_channels": 16,
        "network.head_convs": 1,
        "network.mask_convs": 1,
        "network.norm_groups": 4,
        "tracking.channels": 16,
        "input.min_dim": 96,
        "input.max_dim": 160,
        "runtime.precision": "float32",
        "training.crop": [96, 128],
        "training.scale": [0.9, 1.1],
        "training.pretrained": False,
        "training.optimizer": "adamw",
        "training.learning_rate": 3e-3,
        "training.clip_norm": 10.0,
        "training.mix": {"clips": 0.6, "stills_city": 0.4},
        "training.batch_size": 2,
        "training.steps": 40,
    }
    return load_config(
        "stc_lite", settings | {f"training.{name}": value for name, value in training.items()}
    )


def small_hodor(**training: object) -> Config:
    """Return a network and a schedule whose steps take a fraction of a second."""
    settings: dict[str, object] = {
        "network.width": 32,
        "network.heads": 2,
        "network.encoder_layers": 1,
        "network.decoder_layers": 1,
        "network.encoder_hidden": 32,
        "network.decoder_hidden": 32,
        "network.reduced_width": 16,
        "network.catch_all_width": 16,
        "input.min_dim": 96,
        "input.max_dim": 160,
        "runtime.precision": "float32",
        "stills.objects": 2,
        "training.mix": {"clips": 0.6, "stills_city": 0.4},
        "training.crop": [96, 128],
        "training.pretrained": False,
        "training.frozen_stages": 0,
        "training.batch_size": 2,
        "training.learning_rate": 3e-3,
        "training.warmup_steps": 0,
        "training.precision": "float32",
        "training.steps": 40,
    }
    return load_config(
        "hodor_lite", settings | {f"training.{name}": value for name, value in training.items()}
    )


def steps(run: Run, config: Config, pack: Path, until: int) -> list[float]:
    """Take the steps up to ``until``; returns the total loss of each."""
    sources, totals = load_sources(config, pack), []
    while run.step < until:
        run.sums.clear()
        take_step(run, make_batch(sources, config, run.step), config)
        totals.append(run.sums["total"])
    return totals


def _write(stem: Path, seed: int, shift: int) -> None:
    rng = np.random.default_rng(seed)
    image = rng.integers(90, 110, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    labels = np.zeros((HEIGHT, WIDTH), np.uint16)
    for number, (top, left, colour) in enumerate(
        [(20, 10, (230, 40, 40)), (55, 60, (40, 40, 230))], start=1
    ):
        box = np.s_[top : top + 24, left + shift : left + shift + 36]
        image[box], labels[box] = colour, 1000 + number
    labels[:8, :8] = 10000
    save_frame(stem, image, labels)
