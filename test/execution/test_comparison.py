"""Differences of outputs, relative to the largest value."""

from __future__ import annotations

import math

import pytest
import torch

from stemseg_ros.execution.comparison import relative_difference

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("found", "expected", "difference"),
    [
        ([1.0, -4.0], [1.0, -4.0], 0.0),
        ([1.0, -3.0], [1.0, -4.0], 0.25),
        ([0.0, 0.0], [0.0, 0.0], 0.0),
        ([1e-6, 0.0], [0.0, 0.0], 1.0),
        ([0.0, INF], [0.0, INF], 0.0),
        ([3.0, -INF], [4.0, -INF], 0.25),
        ([NAN, 1.0], [1.0, 1.0], INF),
        ([INF, 1.0], [1.0, 1.0], INF),
        ([1.0, 1.0], [INF, 1.0], INF),
        ([-INF, 1.0], [INF, 1.0], INF),
        ([NAN, 1.0], [NAN, 1.0], INF),
    ],
)
def test_difference(found: list[float], expected: list[float], difference: float) -> None:
    value = relative_difference(torch.tensor(found), torch.tensor(expected))
    assert value == pytest.approx(difference)
