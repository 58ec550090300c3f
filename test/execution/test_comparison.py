"""Differences of outputs, relative to the largest value."""

from __future__ import annotations

import pytest
import torch

from stemseg_ros.execution.comparison import relative_difference


@pytest.mark.parametrize(
    ("found", "expected", "difference"),
    [
        ([1.0, -4.0], [1.0, -4.0], 0.0),
        ([1.0, -3.0], [1.0, -4.0], 0.25),
        ([0.0, 0.0], [0.0, 0.0], 0.0),
        ([1e-6, 0.0], [0.0, 0.0], 1.0),
    ],
)
def test_difference(found: list[float], expected: list[float], difference: float) -> None:
    value = relative_difference(torch.tensor(found), torch.tensor(expected))
    assert value == pytest.approx(difference)
