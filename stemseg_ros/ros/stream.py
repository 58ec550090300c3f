"""The pipeline together with the headers of the frames inside it."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
from std_msgs.msg import Header

from stemseg_ros.config import Config
from stemseg_ros.media.messages import stamp_ns
from stemseg_ros.records import FrameResult
from stemseg_ros.ros.stamps import LATE_NS, StampOrder

Event = Literal["epoch", "encoding", "frames_duplicate", "frames_out_of_order"]
"""What a stream tells: tracking starts anew, the encoding changed, a frame was dropped because of
its stamp."""


class StreamingPipeline(Protocol):
    """What the node needs of stemseg_ros.pipeline.Pipeline."""

    epoch: int
    stage_ms: dict[str, float]

    def push(self, frame: npt.NDArray[np.uint8], stamp_ns: int) -> list[FrameResult]: ...
    def flush(self) -> list[FrameResult]: ...
    def reset(self) -> None: ...
    def update(self, config: Config) -> None: ...


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """What a result needs of the message that its frame came in."""

    header: Header
    image: npt.NDArray[np.uint8] | None
    """uint8 (H, W, 3), BGR; kept only while somebody looks at the overlay."""
    encoding: str = ""
    """As the message names it."""


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
    ) -> None:
        """max_gap: seconds; see the setting node.max_gap."""
        self._publish = publish
        self._on_window = on_window
        self._on_event = on_event
        self._max_gap_ns = round(max_gap * 1e9)
        self._pipeline: StreamingPipeline | None = None
        self._inside: deque[Source] = deque()
        self._epochs_before = 0
        self._order = StampOrder()
        self._shape: tuple[int, ...] | None = None
        self._encoding: str | None = None

    def open(self, make_pipeline: Callable[[], StreamingPipeline], warm_up_frames: int) -> None:
        """Build the pipeline and run it once, so that the first real frame meets a warm device."""
        pipeline = make_pipeline()
        grey = np.full((36, 64, 3), 128, np.uint8)  # 16:9, scaled to the size of the input
        for index in range(warm_up_frames):
            pipeline.push(grey, index)
        pipeline.reset()
        self._epochs_before -= pipeline.epoch
        self._pipeline = pipeline

    def close(self) -> None:
        """Let go of the pipeline and what it holds on the device."""
        if self._pipeline is not None:
            self._epochs_before += self._pipeline.epoch + 1
        self._pipeline = None
        self._forget()

    @property
    def epoch(self) -> int:
        """Of the next result."""
        return self._epochs_before + (0 if self._pipeline is None else self._pipeline.epoch)

    def push(self, image: npt.NDArray[np.uint8], source: Source) -> None:
        """One frame; publishes the results that it completes."""
        if self._pipeline is not None and self._admit(image, source):
            self._inside.append(source)
            self._emit(self._pipeline, self._pipeline.push(image, stamp_ns(source)))

    def clock_jumped(self, now_ns: int) -> None:
        """The clock of the node was set to ``now_ns``: a new epoch, unless the stream is there
        already (or has not begun)."""
        newest = self._order.newest
        if newest is not None and abs(newest - now_ns) > LATE_NS:
            self._begin_epoch("the clock of the node jumped")

    def flush(self) -> int:
        """Finish the frames inside the window and publish them; how many they were."""
        pending = len(self._inside)
        if self._pipeline is not None and pending:
            self._emit(self._pipeline, self._pipeline.flush())
        return pending

    def reset(self) -> int:
        """Forget all tracks and the frames inside the window; how many frames got no result."""
        dropped = len(self._inside)
        self._forget()
        if self._pipeline is not None:
            self._pipeline.reset()
        return dropped

    def update(self, config: Config) -> None:
        """Take over changed settings from the next window on."""
        self._max_gap_ns = round(config.node.max_gap * 1e9)
        if self._pipeline is not None:
            self._pipeline.update(config)

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

    def _emit(self, pipeline: StreamingPipeline, results: list[FrameResult]) -> None:
        if results:
            self._on_window(pipeline.stage_ms)
        for result in results:
            epoch = result.epoch + self._epochs_before
            self._publish(self._inside.popleft(), dataclasses.replace(result, epoch=epoch))
