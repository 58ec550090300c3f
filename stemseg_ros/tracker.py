"""What the author of a model writes: a tracker, which turns frames into results.

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
    """What a caller has to know about when results come, all in frames."""

    look_ahead: int
    """Most frames after a frame that must come in before its result comes out."""
    burst: int
    """Most results that one frame brings."""
    in_flight: int
    """Frames without a result that keep the tracker busy: a caller that waits for results must
    not wait before so many are under way."""
    frames_per_pass: int
    """Frames from one pass of the heavy part of the network to the next."""


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

    Every frame that goes in comes out exactly once and in order. ``FrameResult.epoch`` and
    ``source`` are filled in by the stream. Between two frames all images have one size and stamps
    do not fall.
    """

    @property
    def latency(self) -> Latency:
        """When results come."""
        ...

    def step(self, frame: Frame) -> Step:
        """Take in a frame; the results that are ready now."""
        ...

    def finish(self) -> Step:
        """The results of all pending frames, at the end of a stream or in a pause; frames may
        follow."""
        ...

    def update(self, config: Config) -> None:
        """Take over changed settings from the next frame on. Raises ValueError for settings that
        cannot change while the tracker lives."""
        ...


@runtime_checkable
class PromptTracker(Tracker, Protocol):
    """A tracker of objects that are pointed at. What it refuses changes nothing."""

    def check(self, frame: Frame) -> None:
        """Raises PromptError unless all prompts of the next frame can be followed."""
        ...

    def track(self, stamp_ns: int, prompts: tuple[Prompt, ...]) -> Step:
        """Follow objects from an earlier frame on, as if they had been given with it; its results
        and those of the frames since stay as they were reported.

        Raises PromptError for prompts that ``check`` would refuse, and for a frame that is not
        kept.
        """
        ...

    def untrack(self, ids: Collection[int]) -> None:
        """Follow objects no longer. Raises PromptError for ids that are not followed."""
        ...

    def kept_image(self, stamp_ns: int) -> Image:
        """The image of an earlier frame. Raises PromptError for a frame that is not kept."""
        ...

    def free_ids(self, number: int) -> tuple[int, ...]:
        """The lowest ids that no object of the epoch has had."""
        ...
