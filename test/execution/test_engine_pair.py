"""Two engines as one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from stemseg_ros.execution.engine_pair import EnginePair


class EchoEngine:
    """Engine that returns its name and arguments."""

    device = torch.device("cpu")

    def __init__(self, name: str, precision: str) -> None:
        self.description = name
        self.precision = precision

    def run(self, function: str, batch: Sequence[Any]) -> list[Any]:
        return [(self.description, function, inputs) for inputs in batch]


@pytest.mark.parametrize(
    ("function", "expected"),
    [("encode", ("one", "encode")), ("other.encode", ("two", "encode"))],
)
def test_prefix_chooses_the_engine(function: str, expected: tuple[str, str]) -> None:
    pair = EnginePair(EchoEngine("one", "float32"), EchoEngine("two", "bfloat16"), "other.")
    assert pair.run(function, [(1,), (2,)]) == [(*expected, (1,)), (*expected, (2,))]


def test_description_joins_what_differs() -> None:
    pair = EnginePair(EchoEngine("one", "float32"), EchoEngine("two", "float32"), "other.")
    assert (pair.description, pair.precision) == ("one and two", "float32")
