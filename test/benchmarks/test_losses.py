"""The benchmark of the losses compares like with like."""

from __future__ import annotations

import pytest
import torch

from benchmarks.losses import in_own_process, plain, scene, vectorised
from stemseg_ros.config import load_config

CONFIG = load_config(
    "lite",
    {
        "network.mixing": "xyt",
        "training.crop": [96, 128],
        "training.min_instance_cells": 0,
        "training.size_power": 0.0,
        "training.heatmap_target": "probability",
    },
)


@pytest.mark.parametrize("instances", [1, 5, 20])
def test_the_plain_loop_computes_the_same_losses(instances: int) -> None:
    output, masks = scene(instances, CONFIG, 2, "cpu")
    fast = vectorised(output, masks, CONFIG)
    (gradient,) = torch.autograd.grad(fast, output)
    slow = plain(output, masks, CONFIG)
    (expected,) = torch.autograd.grad(slow, output)
    torch.testing.assert_close(fast, slow, rtol=1e-4, atol=0)
    torch.testing.assert_close(gradient, expected, rtol=1e-2, atol=1e-6)


def test_a_case_is_measured_in_a_process_of_its_own() -> None:
    milliseconds, megabytes, value = in_own_process(vectorised, 3, CONFIG, 1)
    assert milliseconds > 0
    assert megabytes >= 0
    assert value > 0
