"""Runs several streams side by side; calls of one function with equal shapes form a batch."""

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
"""Results of a step, or the exception raised in its stream."""
TRACK = "track"
"""Name of the time of a step outside its calls: clustering, linking, masks."""


@dataclass(slots=True, eq=False)
class RunningStep:
    """A step in progress."""

    step: Step
    calls_ms: dict[str, float] = field(default_factory=dict)
    """Milliseconds by function; each member of a batch counts the time of the whole batch."""
    track_ms: float = 0.0
    """Milliseconds outside the calls."""
    call: Call | None = None
    """Call whose outputs the step waits for."""
    outcome: Outcome | None = None
    """None until the step has ended."""

    def resume(self, outputs: tuple[Tensor, ...] | None) -> None:
        """Resume the step with the outputs of its call, or start it (None)."""
        begin = time.perf_counter()
        self.call = None
        try:
            self.call = next(self.step) if outputs is None else self.step.send(outputs)
        except StopIteration as stop:
            self.outcome = stop.value
        except Exception as error:  # the outcome of this stream
            self.outcome = error
        self.track_ms += 1e3 * (time.perf_counter() - begin)

    def fail(self, error: Exception) -> None:
        """End the step because its call failed."""
        self.step.close()
        self.call, self.outcome = None, error

    def add_time(self, function: str, begin: float) -> None:
        """Add the time since ``begin`` (time.perf_counter) to a function."""
        milliseconds = 1e3 * (time.perf_counter() - begin)
        self.calls_ms[function] = self.calls_ms.get(function, 0.0) + milliseconds

    @property
    def timings(self) -> dict[str, float]:
        """Milliseconds by function, and of TRACK."""
        return {**self.calls_ms, TRACK: self.track_ms}


@torch.inference_mode()
def run_steps(engine: Engine, steps: Sequence[Step]) -> list[RunningStep]:
    """Run steps to completion; returns each with its outcome and timings.

    Results equal those of running the steps one after the other, up to the rounding of batched
    convolutions. An exception in one stream is its outcome and does not affect the others; if a
    batch fails, its members are computed one by one.
    """
    running = [RunningStep(step) for step in steps]
    for one in running:
        one.resume(None)
    while waiting := [one for one in running if one.call is not None]:
        for group in _group_calls(waiting):
            _compute(engine, group)
    return running


def _group_calls(waiting: Sequence[RunningStep]) -> Iterator[list[RunningStep]]:
    def kind(one: RunningStep) -> tuple[str, list[tuple[int, ...]]]:
        assert one.call is not None
        return one.call.function, [tuple(tensor.shape) for tensor in one.call.inputs]

    for _, group in groupby(sorted(waiting, key=kind), kind):
        yield list(group)


def _compute(engine: Engine, group: Sequence[RunningStep]) -> None:
    try:
        _run(engine, group)
    except Exception as error:  # caused by one member, or out of memory
        if len(group) == 1:
            group[0].fail(error)
            return
        for one in group:
            _compute(engine, [one])


def _run(engine: Engine, group: Sequence[RunningStep]) -> None:
    begin = time.perf_counter()
    calls = [one.call for one in group if one.call is not None]
    outputs = engine.run(calls[0].function, [call.inputs for call in calls])
    for one, call in zip(group, calls, strict=True):
        one.add_time(call.function, begin)
    for one, output in zip(group, outputs, strict=True):
        one.resume(output)
