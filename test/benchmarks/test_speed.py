"""The comparison of engines counts the same frames for all, and notices other labels."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.speed import Measured, compare, different_pixels
from stemseg_ros.config import load_config

SMALL = {
    "input.min_dim": 128,
    "input.max_dim": 160,
    "runtime.engine": "torch",
    "runtime.precision": "float32",
}


def test_contestants_take_turns_on_the_same_frames() -> None:
    generator = np.random.default_rng(2)
    scene = generator.integers(0, 255, (4, 128, 160, 3), np.uint8)
    frames = [(1 + n, image) for n, image in enumerate(scene)]
    contestants = {
        "one": load_config("lite", SMALL),
        "two": load_config("lite", {**SMALL, "window.mode": "online"}),
    }
    one, two = compare(contestants, frames, 2, "random")
    assert (one.ratio, one.different_percent) == (1.0, 0.0)
    assert [len(each.milliseconds) for each in (one, two)] == [2, 2]
    assert two.ratio == pytest.approx(one.median_ms / two.median_ms)
    assert set(one.stages) == {"encode", "decode", "track"}
    assert sum(one.stages.values()) <= one.milliseconds[-1]


@pytest.mark.parametrize(
    ("labels", "percent"), [([0, 0, 0, 0], 0.0), ([0, 0, 0, 2], 25.0), ([1, 1, 1, 1], 100.0)]
)
def test_other_labels_are_counted(labels: list[int], percent: float) -> None:
    first = [np.zeros((2, 2), np.uint16)]
    assert different_pixels([np.array(labels, np.uint16).reshape(2, 2)], first) == percent


def test_medians_decide() -> None:
    assert Measured("one", "an engine", "float32", [5.0, 100.0, 4.0]).median_ms == 5.0
