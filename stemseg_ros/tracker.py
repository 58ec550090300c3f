"""The contract of a model: a tracker, which turns frames into results.

A tracker knows no threads, no ROS and no engine. It is a generator: where it needs the network, it
yields a ``Call`` and is resumed with the outputs. Whoever drives it (``execution/lockstep.py``)
decides on which engine, in which precision and together with which other streams the call is
computed.
"""

from __future__ import annotations

from collections.abc import Collection, Generator
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias, runtime_checkable

if TYPE_CHECKING:  # settings say their latency, and cost no PyTorch
    from torch import Tensor

    from stemseg_ros.config import Config
    from stemseg_ros.records import Frame, FrameResult, Image, Prompt


class Latency(NamedTuple):
    """When results are returned, in frames."""

    look_ahead: int
    """Most further frames that must come in before the result of a frame comes out."""
    burst: int
    """Most results that one frame yields."""
    in_flight: int
    """Frames without a result that keep the tracker busy: a caller that waits for results must
    have this many in flight before it waits."""
    frames_per_pass: int
    """Frames between two passes of the heavy part of the network."""


class Call(NamedTuple):
    """One item of work for the network."""

    function: str
    """Name of a function of the network."""
    inputs: tuple[Tensor, ...]
    """Its inputs without the batch dimension, on the device of the network."""


Step: TypeAlias = "Generator[Call, tuple[Tensor, ...], list[FrameResult]]"
"""Yields calls, is sent their outputs (without the batch dimension), returns results."""


class Tracker(Protocol):
    """The state of one epoch of one stream.

    Every frame yields exactly one result, in order. The stream fills in ``FrameResult.epoch`` and
    ``source``; within an epoch all images have one size and stamps do not decrease.
    """

    @property
    def latency(self) -> Latency:
        """When results are returned."""
        ...

    def step(self, frame: Frame) -> Step:
        """Process a frame; returns the results that are ready."""
        ...

    def finish(self) -> Step:
        """Finish all pending frames, at the end of a stream or in a pause; returns their results.
        Frames may follow."""
        ...

    def update(self, config: Config) -> None:
        """Apply changed settings from the next frame on. Raises ValueError for settings that are
        fixed for the life of the tracker."""
        ...


@runtime_checkable
class PromptTracker(Tracker, Protocol):
    """A tracker of objects given by prompts. A refused prompt changes nothing."""

    @property
    def followed(self) -> tuple[int, ...]:
        """Ids of the objects that are followed, ascending."""
        ...

    def check(self, frame: Frame) -> None:
        """Raises PromptError unless all prompts of the next frame can be followed."""
        ...

    def track(self, stamp_ns: int, prompts: tuple[Prompt, ...]) -> Step:
        """Follow objects from an earlier frame on, as if they had been given with it; results
        already reported stay as they are.

        Raises PromptError for prompts that ``check`` refuses, and for a frame that is not kept.
        """
        ...

    def untrack(self, ids: Collection[int]) -> None:
        """Stop following objects. Raises PromptError for ids that are not followed."""
        ...

    def kept_image(self, stamp_ns: int) -> Image:
        """The image of an earlier frame. Raises PromptError for a frame that is not kept."""
        ...

    def free_ids(self, number: int) -> tuple[int, ...]:
        """The lowest ids that no object of the epoch has used."""
        ...
