"""Drives generators of calls without an engine."""

from __future__ import annotations

from collections.abc import Generator
from typing import TypeVar

import torch
from torch import Tensor, nn

from stemseg_ros.tracker import Call

Result = TypeVar("Result")


@torch.inference_mode()
def run_calls(network: nn.Module, steps: Generator[Call, tuple[Tensor, ...], Result]) -> Result:
    """Run a generator to its end; the network computes each call. Returns its result."""
    outputs = None
    while True:
        try:
            call = next(steps) if outputs is None else steps.send(outputs)
        except StopIteration as stop:
            result: Result = stop.value
            return result
        batch = getattr(network, call.function)(*(x[None] for x in call.inputs))
        outputs = tuple(x[0] for x in batch)
