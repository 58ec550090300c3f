"""The comparison with the released code, without it: what contestants get and what is compared."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks.released import LENGTH, OVERLAP, SIZE, Feed, Released, compare
from stemseg_ros.errors import StemsegError


class Toy:
    """Means of frames; ``error`` is added to the second output."""

    def __init__(self, error: float = 0.0) -> None:
        self._error = error
        self.windows: list[list[float]] = []

    def encode(self, image: Tensor) -> Tensor:
        assert image.shape == (3, *SIZE)
        return image.mean()

    def decode(self, window: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        self.windows.append([float(frame) for frame in window])
        return torch.ones(2, 2), torch.full((2, 2), 4.0) + self._error


def test_contestants_see_the_same_windows_and_are_compared() -> None:
    one, other = Toy(), Toy(error=-0.4)
    first, second = compare({"one": Feed(one), "other": Feed(other)}, windows=2)
    assert one.windows == other.windows and len(one.windows) == 3
    assert [len(window) for window in one.windows] == [LENGTH] * 3
    assert one.windows[0][-OVERLAP:] == one.windows[1][:OVERLAP]
    assert (first.ratio, first.difference) == (1.0, 0.0)
    assert second.difference == pytest.approx(0.1)
    assert len(second.milliseconds) == 2


def test_a_folder_that_is_no_clone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StemsegError, match="no stemseg/modeling"):
        Released(tmp_path, {})
