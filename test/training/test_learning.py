"""Proof that it learns: training on two small clips, judged by what comes out of the pipeline.

Both clips are longer than a window, so that instances are found, told apart and linked; in both
the objects cross, the later one in front. Nothing here looks at a loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from benchmarks.development import SequenceResult, run_sequence, tracking
from stemseg_ros.config import Config, load_config
from stemseg_ros.datasets.driving import load_driving
from stemseg_ros.stream import open_model
from stemseg_ros.training.train import train

HEIGHT, WIDTH, FRAMES = 128, 192, 14


@dataclass(frozen=True)
class Thing:
    """A textured ellipse that moves steadily."""

    label: int
    """Class * 1000 + id."""
    colour: tuple[int, int, int]
    start: tuple[int, int]
    """x, y of its middle in the first frame."""
    speed: int
    """Pixels to the right per frame."""
    axes: tuple[int, int]


WIDE, TALL = (40, 27), (26, 40)
CLIPS = {
    "0000": (
        Thing(1001, (200, 60, 60), (40, 42), 8, WIDE),
        Thing(2001, (60, 60, 210), (155, 80), -9, TALL),
    ),
    "0001": (
        Thing(1001, (60, 200, 60), (150, 38), -9, WIDE),
        Thing(1002, (60, 200, 200), (42, 86), 8, WIDE),
    ),
}
"""A car and a pedestrian; two cars. They meet in the middle and part again."""


def texture(colour: Sequence[int], seed: int) -> np.ndarray:
    """Smooth noise around a colour, as large as two frames."""
    noise = np.random.default_rng(seed).uniform(-40, 40, (8, 8)).astype(np.float32)
    large = cv2.resize(noise, (2 * WIDTH, 2 * HEIGHT), interpolation=cv2.INTER_CUBIC)
    return np.clip(np.array(colour) + large[..., None], 0, 255).astype(np.uint8)


def draw(things: Sequence[Thing], t: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Image and labels of one frame; textures move with their things."""
    image = texture((110, 110, 110), seed)[:HEIGHT, :WIDTH].copy()
    labels = np.zeros((HEIGHT, WIDTH), np.uint16)
    for number, thing in enumerate(things, start=1):
        x, y = thing.start[0] + thing.speed * t, thing.start[1]
        shape = np.zeros((HEIGHT, WIDTH), np.uint8)
        cv2.ellipse(shape, (x, y), thing.axes, 0, 0, 360, 1, -1)
        layer = np.roll(texture(thing.colour, seed + number), (y, x), (0, 1))[:HEIGHT, :WIDTH]
        image[shape > 0], labels[shape > 0] = layer[shape > 0], thing.label
    return image, labels


def write_clips(root: Path) -> Path:
    """The clips as a driving pack."""
    for seed, (name, things) in enumerate(CLIPS.items()):
        folder = root / "clips" / name
        folder.mkdir(parents=True)
        for t in range(FRAMES):
            image, labels = draw(things, t, 10 * seed)
            cv2.imwrite(str(folder / f"{t:06d}.jpg"), image, [cv2.IMWRITE_JPEG_QUALITY, 95])
            cv2.imwrite(str(folder / f"{t:06d}.png"), labels)
    return root


def tiny_config() -> Config:
    """The bundled preset, thinner, at the size of the clips, from random weights, in float32."""
    return load_config(
        "lite",
        {
            "input.min_dim": HEIGHT,
            "input.max_dim": WIDTH,
            "network.fpn_channels": 24,
            "network.decoder_channels": [24, 24, 24, 24],
            "network.norm_groups": 4,
            "runtime.precision": "float32",
            "training.mix": {"clips": 1.0},
            "training.crop": [HEIGHT, WIDTH],
            "training.scale": [1.0, 1.0],
            "training.copy_paste": 0.0,
            "training.pretrained": False,
            "training.frozen_stages": 0,
            "training.backbone_rate": 1.0,
            "training.precision": "float32",
            "training.steps": 220,
            "training.warmup_steps": 20,
            "training.learning_rate": 3e-3,
            "training.ema": 0.98,
        },
    )


def tube_ious(result: SequenceResult) -> dict[int, float]:
    """IoU over the whole clip of each true instance with the one track that overlaps it most."""
    truth, predicted = np.stack(result.truth), np.stack(result.predicted)
    found = {}
    for label in np.unique(truth[truth > 0]).tolist():
        ids, overlaps = np.unique(predicted[truth == label], return_counts=True)
        overlaps[ids == 0] = 0
        track = ids[overlaps.argmax()]
        either = np.count_nonzero((truth == label) | (predicted == track))
        found[label] = float(overlaps.max() / either)
        assert result.predicted_classes[int(track)] == label // 1000, "the class is right, too"
    return found


@pytest.fixture
def one_thread() -> None:
    """Sums in one order, so that a seed gives one result on a machine; time of one core."""
    torch.set_num_threads(1)


@pytest.mark.timeout(1200)  # of the clock, on a machine that has other work
@pytest.mark.usefixtures("one_thread")
def test_two_clips_are_learned_and_come_out_of_the_pipeline(tmp_path: Path) -> None:
    pytest.importorskip("trackeval", reason="needs the extra eval")
    config, root = tiny_config(), write_clips(tmp_path / "pack")
    weights = train(config, root, tmp_path / "run")
    stream = open_model(config, weights, "cpu").stream()
    for sequence in load_driving(root, "train"):
        result = run_sequence(stream, sequence)
        ious = tube_ious(result)
        things = CLIPS[sequence.name.removeprefix("clips/")]
        assert set(ious) == {thing.label for thing in things}
        assert min(ious.values()) >= 0.9, ious
        for class_id in {thing.label // 1000 for thing in things}:
            scores = tracking(result, class_id)
            assert scores["IDS"] == 0
            assert scores["MOTSA"] == 1.0, "every mask in every frame, and no others"
