"""STC learns in a few minutes to keep the ids of two objects that pass each other."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from driving_pack import save_frame

from stemseg_ros.config import load_config
from stemseg_ros.evaluation.linkers import mask_iou
from stemseg_ros.masks import decode
from stemseg_ros.records import Frame, Instance
from stemseg_ros.resources import resource_path
from stemseg_ros.stream import open_model
from stemseg_ros.training.batches import load_sources, make_batch
from stemseg_ros.training.checkpoints import export
from stemseg_ros.training.steps import start, take_step

HEIGHT, WIDTH, FRAMES = 96, 160, 16
OBJECT = (28, 40)
"""Height and width of both objects."""
SPEED = 7
STEPS = 180
SETTINGS = {
    "input.min_dim": HEIGHT,
    "input.max_dim": WIDTH,
    "runtime.engine": "torch",
    "runtime.precision": "float32",
    "association.new_score": 0.5,
    "pairs.max_distance": 12,
    "training.mix": {"clips": 1.0},
    "training.copy_paste": 0.0,
    "training.crop": [HEIGHT, WIDTH],
    "training.scale": [0.95, 1.05],
    "training.start_from": str(resource_path("config/models/lite.safetensors")),
    "training.frozen_stages": 2,
    "training.optimizer": "adamw",
    "training.learning_rate": 1e-3,
    "training.warmup_steps": 10,
    "training.schedule": "cosine",
    "training.clip_norm": 10.0,
    "training.precision": "float32",
    "training.batch_size": 1,
    "training.steps": STEPS,
}


def crossing(seed: int, t: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint16]]:
    """Draw a bluish object moving right and a reddish one moving left in front of it; returns
    image and labels."""
    random = np.random.default_rng(seed)
    image = cv2.resize(random.integers(60, 140, (12, 20, 3), np.uint8), (WIDTH, HEIGHT))
    labels = np.zeros((HEIGHT, WIDTH), np.uint16)
    height, width = OBJECT
    lefts = (6 + SPEED * t, WIDTH - 6 - width - SPEED * t)
    colours = ((150, 20, 20), (20, 20, 150))
    for number, (top, left, colour) in enumerate(zip((30, 38), lefts, colours, strict=True)):
        texture = cv2.resize(random.integers(0, 90, (6, 8, 3), np.uint8), (width, height))
        box = np.s_[top : top + height, left : left + width]
        image[box], labels[box] = texture + np.array(colour, np.uint8), 1001 + number
    return image.astype(np.uint8), labels


def write_clips(root: Path) -> Path:
    """Write two clips for training and one held-out clip."""
    for clip in (0, 1, 3):
        for t in range(FRAMES):
            save_frame(root / "clips" / f"{clip:04d}" / f"{t:06d}", *crossing(clip, t))
    return root


def id_on(instances: tuple[Instance, ...], truth: npt.NDArray[np.bool_]) -> int | None:
    """Return the id of the track whose mask has an IoU above 0.5 with the ground truth, or
    None."""
    for instance in instances:
        if mask_iou(decode(instance.rle), truth) > 0.5:
            return instance.track_id
    return None


@pytest.mark.timeout(1200)  # wall-clock time, on a busy machine
def test_objects_that_pass_each_other_keep_their_ids(tmp_path: Path) -> None:
    config = load_config("stc_lite", SETTINGS)
    run, sources = start(config), load_sources(config, write_clips(tmp_path))
    contrastive = []
    while run.step < STEPS:
        run.sums.clear()
        take_step(run, make_batch(sources, config, run.step), config)
        contrastive.append(run.sums["contrastive"])
    assert np.mean(contrastive[-30:]) < 0.5 * np.mean(contrastive[:30])

    weights = tmp_path / "weights.safetensors"
    export(run.network.state_dict(), config, weights)
    stream = open_model(config, str(weights), "cpu").stream()
    ids = []
    for t in range(FRAMES):
        image, labels = crossing(3, t)
        (result,) = stream.push(Frame(image, 1 + t))
        ids.append([id_on(result.instances, labels == label) for label in (1001, 1002)])
    before, after = ids[:3], ids[-3:]
    first, second = before[0]
    assert None not in (first, second) and first != second
    assert before == after == [[first, second]] * 3
