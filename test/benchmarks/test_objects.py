"""Prompts and times of the benchmark of objects."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.objects import TOTAL, grid_prompts, measure
from stemseg_ros.config import load_config
from stemseg_ros.masks import decode
from stemseg_ros.stream import open_model


@pytest.mark.parametrize("number", [1, 5, 20])
def test_prompts_are_apart(number: int) -> None:
    prompts = grid_prompts(number, (64, 96))
    masks = [decode(prompt.rle) for prompt in prompts]
    assert [prompt.track_id for prompt in prompts] == list(range(1, number + 1))
    assert all(mask.any() for mask in masks) and np.sum(masks, 0).max() == 1


def test_times_cover_the_functions() -> None:
    small = {"input.min_dim": 64, "input.max_dim": 96}
    model = open_model(load_config("hodor_lite", small), "random", "cpu")
    frames = [(t + 1, np.full((64, 96, 3), t, np.uint8)) for t in range(3)]
    spent = measure(model, frames, objects=2, timed=1)
    assert set(spent) == {"encode", "describe", "decode", TOTAL}
    assert spent[TOTAL] >= sum(ms for name, ms in spent.items() if name != TOTAL) > 0
