"""Several streams through one network: what is ready together is computed together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import groupby
from typing import Protocol

import numpy as np
import numpy.typing as npt

from stemseg_ros.models.stemseg.pipeline import Pipeline
from stemseg_ros.records import Features, FrameResult, NetworkOutput, Window

Frame = tuple[npt.NDArray[np.uint8], int]
"""An image, uint8 (H, W, 3) BGR, and its stamp in ns."""
Outcome = list[FrameResult] | Exception
"""The frames that are ready, or what went wrong in this stream alone."""


class Pushable(Protocol):
    """A pipeline, or what stands in for one."""

    def push(self, frame: npt.NDArray[np.uint8], stamp_ns: int, /) -> list[FrameResult]: ...


@dataclass(slots=True, eq=False)
class _Turn:
    """One frame on its way through one of the pipelines."""

    pipeline: Pipeline
    image: npt.NDArray[np.uint8]
    stamp_ns: int
    results: list[FrameResult] = field(default_factory=list)
    features: Features | None = None
    window: Window | None = None
    output: NetworkOutput | None = None
    error: Exception | None = None

    def begin(self) -> None:
        self.results = self.pipeline.begin(self.image, self.stamp_ns)

    def add(self) -> None:
        assert self.features is not None
        self.window = self.pipeline.add(self.features, self.stamp_ns)

    def finish(self) -> None:
        if self.window is not None and self.output is not None:
            self.results += self.pipeline.finish(self.window, self.output)


def push_together(pipelines: Sequence[Pushable], frames: Sequence[Frame]) -> list[Outcome]:
    """Push one frame into each of several pipelines; what happened in each.

    The results are those of pushing one after the other, up to rounding. But where pipelines share
    a network (Pipeline.sibling), the frames of one padded size pass the backbone together, and the
    windows that they complete pass the heads together. What one stream raises is its outcome and
    leaves the others alone; where a batch fails, its members are computed one by one. The time of
    a batch counts for all its members.
    """
    turns = [
        _Turn(p, *f) for p, f in zip(pipelines, frames, strict=True) if isinstance(p, Pipeline)
    ]
    if len(turns) < max(2, len(pipelines)) or len({turn.pipeline.network for turn in turns}) > 1:
        return [_push(pipeline, frame) for pipeline, frame in zip(pipelines, frames, strict=True)]
    _each(turns, _Turn.begin)
    _batched(turns, "backbone", _compute_features)
    _each(turns, _Turn.add)
    _batched([turn for turn in turns if turn.window is not None], "heads", _compute_outputs)
    _each(turns, _Turn.finish)
    return [turn.results if turn.error is None else turn.error for turn in turns]


def _push(pipeline: Pushable, frame: Frame) -> Outcome:
    try:
        return pipeline.push(*frame)
    except Exception as error:  # the outcome of this stream
        return error


def _compute_features(turns: Sequence[_Turn]) -> None:
    network = turns[0].pipeline.network
    computed = network.features_of([turn.image for turn in turns])
    for turn, features in zip(turns, computed, strict=True):
        turn.features = features


def _compute_outputs(turns: Sequence[_Turn]) -> None:
    network = turns[0].pipeline.network
    computed = network.outputs_of([turn.window.features for turn in turns if turn.window])
    for turn, output in zip(turns, computed, strict=True):
        turn.output = output


def _each(turns: Sequence[_Turn], step: Callable[[_Turn], None]) -> None:
    """A step of every turn in which nothing failed so far."""
    for turn in turns:
        if turn.error is None:
            try:
                step(turn)
            except Exception as error:  # the outcome of this stream
                turn.error = error


def _batched(
    turns: Sequence[_Turn], stage: str, compute: Callable[[Sequence[_Turn]], None]
) -> None:
    """Compute a stage for all turns of one padded size together, or else one by one."""

    def timed(members: Sequence[_Turn]) -> None:
        with ExitStack() as timers:
            for turn in members:
                timers.enter_context(turn.pipeline.timed(stage))
            compute(members)

    def size(turn: _Turn) -> tuple[int, int]:
        return turn.pipeline.padded_size

    for _, group in groupby(sorted((t for t in turns if t.error is None), key=size), size):
        members = list(group)
        if len(members) > 1:
            try:
                timed(members)
                continue
            except Exception:  # of one member, or for want of memory: each has its own outcome
                pass
        _each(members, lambda turn: timed([turn]))
