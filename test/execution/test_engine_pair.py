"""Two engines as one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from stemseg_ros.execution.engine_pair import EnginePair


class Naming:
    """Returns what it was asked."""

    device = torch.device("cpu")

    def __init__(self, name: str, precision: str) -> None:
        self.description = name
        self.precision = precision

    def run(self, function: str, batch: Sequence[Any]) -> list[Any]:
        return [(self.description, function, inputs) for inputs in batch]


@pytest.mark.parametrize(
    ("function", "answer"),
    [("encode", ("one", "encode")), ("other.encode", ("two", "encode"))],
)
def test_prefix_chooses_the_engine(function: str, answer: tuple[str, str]) -> None:
    pair = EnginePair(Naming("one", "float32"), Naming("two", "bfloat16"), "other.")
    assert pair.run(function, [(1,), (2,)]) == [(*answer, (1,)), (*answer, (2,))]


def test_what_differs_is_named() -> None:
    pair = EnginePair(Naming("one", "float32"), Naming("two", "float32"), "other.")
    assert (pair.description, pair.precision) == ("one and two", "float32")
