"""Several streams side by side: calls of equal function and shapes are computed together."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import torch
from torch import Tensor

from stemseg_ros.execution.engine import Engine
from stemseg_ros.records import FrameResult
from stemseg_ros.tracker import Call, Step

Outcome = list[FrameResult] | Exception
"""The results of one step, or what went wrong in this stream alone."""
TRACK = "track"
"""Time of a step outside its calls: clustering, linking, masks."""


@dataclass(slots=True, eq=False)
class Running:
    """One step on its way."""

    step: Step
    timings: dict[str, float] = field(default_factory=dict)
    """Milliseconds by function, and those of TRACK; the time of a batch counts for each member."""
    call: Call | None = None
    """What the step waits for."""
    outcome: Outcome | None = None
    """None until the step is over."""

    def resume(self, outputs: tuple[Tensor, ...] | None) -> None:
        """Start the step (None), or go on with the outputs of its call."""
        begin = time.perf_counter()
        self.call = None
        try:
            self.call = next(self.step) if outputs is None else self.step.send(outputs)
        except StopIteration as stop:
            self.outcome = stop.value
        except Exception as error:  # the outcome of this stream
            self.outcome = error
        self.spend(TRACK, begin)

    def fail(self, error: Exception) -> None:
        """End the step, whose call could not be computed."""
        self.step.close()
        self.call, self.outcome = None, error

    def spend(self, name: str, begin: float) -> None:
        """Add the time since ``begin``, as of time.perf_counter."""
        milliseconds = 1e3 * (time.perf_counter() - begin)
        self.timings[name] = self.timings.get(name, 0.0) + milliseconds


@torch.inference_mode()
def run_steps(engine: Engine, steps: Sequence[Step]) -> list[Running]:
    """Drive steps to their ends; each has its outcome and timings then.

    The results are those of one step after the other, up to the rounding of batched convolutions.
    What one stream raises is its outcome and leaves the others alone; where a batch fails, its
    members are computed one by one.
    """
    running = [Running(step) for step in steps]
    for one in running:
        one.resume(None)
    while waiting := [one for one in running if one.call is not None]:
        for group in _equal_calls(waiting):
            _compute(engine, group)
    return running


def _equal_calls(waiting: Sequence[Running]) -> Iterator[list[Running]]:
    def kind(one: Running) -> tuple[str, list[tuple[int, ...]]]:
        assert one.call is not None
        return one.call.function, [tuple(tensor.shape) for tensor in one.call.inputs]

    for _, group in groupby(sorted(waiting, key=kind), kind):
        yield list(group)


def _compute(engine: Engine, group: Sequence[Running]) -> None:
    try:
        _run(engine, group)
    except Exception as error:  # of one member, or for want of memory
        if len(group) == 1:
            group[0].fail(error)
            return
        for one in group:
            _compute(engine, [one])


def _run(engine: Engine, group: Sequence[Running]) -> None:
    begin = time.perf_counter()
    calls = [one.call for one in group if one.call is not None]
    outputs = engine.run(calls[0].function, [call.inputs for call in calls])
    for one, call in zip(group, calls, strict=True):
        one.spend(call.function, begin)
    for one, output in zip(group, outputs, strict=True):
        one.resume(output)
