"""The pipeline together with the headers of the frames inside it."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
from std_msgs.msg import Header

from stemseg_ros.config import Config
from stemseg_ros.execution.lockstep import Frame, push_together
from stemseg_ros.media.messages import stamp_ns
from stemseg_ros.records import FrameResult
from stemseg_ros.ros.input.stamps import LATE_NS, StampOrder

Event = Literal["epoch", "encoding", "frames_duplicate", "frames_out_of_order"]
"""What a stream tells: tracking starts anew, the encoding changed, a frame was dropped because of
its stamp."""


Failure = tuple["Stream", Exception]
T = TypeVar("T")


class StreamingPipeline(Protocol):
    """What the node needs of stemseg_ros.models.stemseg.pipeline.Pipeline."""

    epoch: int
    stage_ms: dict[str, float]

    def push(self, frame: npt.NDArray[np.uint8], stamp_ns: int) -> list[FrameResult]: ...
    def flush(self) -> list[FrameResult]: ...
    def reset(self) -> None: ...
    def update(self, config: Config) -> None: ...
    def sibling(self) -> StreamingPipeline: ...


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """What a result needs of the message that its frame came in."""

    header: Header
    image: npt.NDArray[np.uint8] | None
    """uint8 (H, W, 3), BGR; kept only while somebody looks at the overlay."""
    encoding: str = ""
    """As the message names it."""
    arrived: float = 0.0
    """Monotonic time in seconds."""


class Stream:
    """Frames with headers in, results with headers out, one for one and in order.

    Frames whose stamp repeats or comes late are left out; a jump of the stamps or of the clock,
    and another image size, finish what is pending and start a new epoch. ``on_event`` gets the
    kind and a sentence for the log.

    Lives on the worker thread. Epochs go on counting over successive pipelines, so that a
    subscriber never sees a number twice while the node lives.
    """

    def __init__(
        self,
        publish: Callable[[Source, FrameResult], None],
        on_window: Callable[[Mapping[str, float]], None],
        on_event: Callable[[Event, str], None] = lambda kind, text: None,
        max_gap: float = 0.0,
        first_epoch: int = 0,
    ) -> None:
        """max_gap: seconds; see the setting node.max_gap."""
        self._publish = publish
        self._on_window = on_window
        self._on_event = on_event
        self._max_gap_ns = round(max_gap * 1e9)
        self.pipeline: StreamingPipeline | None = None
        self._abandoned = False
        self._inside: deque[Source] = deque()
        self._epochs_before = first_epoch
        self._order = StampOrder()
        self._shape: tuple[int, ...] | None = None
        self._encoding: str | None = None

    def open(self, pipeline: StreamingPipeline) -> None:
        """Take a pipeline into use."""
        self._epochs_before -= pipeline.epoch
        self.pipeline = pipeline

    def close(self) -> None:
        """Let go of the pipeline and what it holds on the device."""
        if self.pipeline is not None:
            self._epochs_before += self.pipeline.epoch + 1
        self.pipeline = None
        self._forget()

    @property
    def epoch(self) -> int:
        """Of the next result."""
        return self._epochs_before + (0 if self.pipeline is None else self.pipeline.epoch)

    @property
    def pending(self) -> int:
        """Frames inside the window that got no result yet."""
        return len(self._inside)

    def begin(self, image: npt.NDArray[np.uint8], source: Source) -> bool:
        """Expect the result of a frame, which is pushed into the pipeline next; false for a frame
        that is left out."""
        try:
            if self.pipeline is None or not self._admit(image, source):
                return False
        except Exception:
            self._inside.append(source)  # lost with those that were to be finished before it
            raise
        self._inside.append(source)
        return True

    def emit(self, results: list[FrameResult]) -> None:
        """Publish what the pipeline returned."""
        if results and self.pipeline is not None:
            self._on_window(self.pipeline.stage_ms)
        for result in results:
            if self._abandoned:
                return
            epoch = result.epoch + self._epochs_before
            self._publish(self._inside[0], dataclasses.replace(result, epoch=epoch))
            self._inside.popleft()  # not before: a frame that cannot be published is lost

    def abandon(self) -> int:
        """Publish nothing any more, whatever comes of a pipeline that hangs; how many frames got
        no result. From any thread."""
        self._abandoned = True
        return len(self._inside)

    def clock_jumped(self, now_ns: int) -> None:
        """The clock of the node was set to ``now_ns``: a new epoch, unless the stream is there
        already (or has not begun)."""
        newest = self._order.newest
        if newest is not None and abs(newest - now_ns) > LATE_NS:
            self._begin_epoch("the clock of the node jumped")

    def flush(self) -> int:
        """Finish the frames inside the window and publish them; how many they were."""
        pending = len(self._inside)
        if self.pipeline is not None and pending:
            self.emit(self.pipeline.flush())
        return pending

    def reset(self) -> int:
        """Forget all tracks and the frames inside the window; how many frames got no result."""
        dropped = len(self._inside)
        self._forget()
        if self.pipeline is not None:
            self.pipeline.reset()
        return dropped

    def update(self, config: Config) -> None:
        """Take over changed settings from the next window on."""
        self._max_gap_ns = round(config.node.max_gap * 1e9)
        if self.pipeline is not None:
            self.pipeline.update(config)

    def _admit(self, image: npt.NDArray[np.uint8], source: Source) -> bool:
        """Whether the frame is one to process; starts a new epoch where it needs one."""
        before, stamp = self._order.newest, stamp_ns(source)
        step = self._order.step(stamp, self._max_gap_ns)
        seconds = f"{abs(stamp - (before or 0)) / 1e9:.3f} s"
        if step == "duplicate":
            self._on_event("frames_duplicate", "a frame has the stamp of the one before: dropped")
            return False
        if step == "late":
            self._on_event("frames_out_of_order", f"a frame is {seconds} out of order: dropped")
            return False
        if step == "next":
            reason = self._new_size(image.shape)
        else:
            reason = f"the stamps jumped {step.removeprefix('jump ')} by {seconds}"
        if reason:
            self._begin_epoch(reason)
        elif self._encoding not in (None, source.encoding):
            change = f"from '{self._encoding}' to '{source.encoding}'"
            self._on_event("encoding", f"the encoding changed {change}; tracking goes on")
        self._order.newest = stamp  # which a new epoch forgets
        self._shape, self._encoding = image.shape, source.encoding
        return True

    def _new_size(self, shape: tuple[int, ...]) -> str:
        """What to say where the image size changed."""
        if self._shape in (None, shape):
            return ""
        (height, width), (h, w) = self._shape[:2], shape[:2]
        return f"the image size changed from {width}x{height} to {w}x{h}"

    def _begin_epoch(self, reason: str) -> None:
        """Finish what is pending, and forget all tracks."""
        self.flush()
        self.reset()
        self._on_event("epoch", f"{reason}: tracking starts anew, epoch {self.epoch}")

    def _forget(self) -> None:
        self._inside.clear()
        self._order.forget()
        self._shape = self._encoding = None


def push_frames(frames: Sequence[tuple[Stream, npt.NDArray[np.uint8], Source]]) -> list[Failure]:
    """One frame into each of several streams, together where they share a network; publishes what
    that completes, and returns what failed in which of them."""
    failures: list[Failure] = []

    def attempt(stream: Stream, step: Callable[[], T]) -> T | None:
        try:
            return step()
        except Exception as error:  # of this stream alone
            failures.append((stream, error))
            return None

    begun: list[tuple[Stream, StreamingPipeline, Frame]] = []
    for stream, image, source in frames:
        if attempt(stream, partial(stream.begin, image, source)) and stream.pipeline is not None:
            begun.append((stream, stream.pipeline, (image, stamp_ns(source))))
    outcomes = push_together(
        [pipeline for _, pipeline, _ in begun], [frame for *_, frame in begun]
    )
    for (stream, *_), outcome in zip(begun, outcomes, strict=True):
        if isinstance(outcome, Exception):
            failures.append((stream, outcome))
        else:
            attempt(stream, partial(stream.emit, outcome))
    return failures
