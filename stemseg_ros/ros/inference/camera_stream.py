"""A stream together with what the node needs around it: headers, epochs that never repeat."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from std_msgs.msg import Header

from stemseg_ros.config import Config
from stemseg_ros.media.messages import stamp_ns
from stemseg_ros.records import Frame, FrameResult, Image
from stemseg_ros.stamps import LATE_NS
from stemseg_ros.stream import Event, Model, Stream

EventKind = Literal["epoch", "duplicate", "out_of_order", "encoding"]
"""What a stream reports (``stamps.py``), and a change of the images' encoding."""
Failure = tuple["CameraStream", Exception]


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """What a result needs of the message that its frame came in."""

    header: Header
    image: Image | None
    """uint8 (H, W, 3), BGR; kept only while somebody looks at the overlay."""
    encoding: str = ""
    """As the message names it."""
    arrived: float = 0.0
    """Monotonic time in seconds."""


class CameraStream:
    """Frames with headers in, results with headers out, one for one and in order.

    Lives on the worker thread. Epochs go on counting over successive streams, so that a subscriber
    never sees a number twice while the node lives.
    """

    def __init__(
        self,
        publish: Callable[[Source, FrameResult], None],
        on_timings: Callable[[Mapping[str, float]], None],
        on_event: Callable[[EventKind, str], None] = lambda kind, text: None,
        first_epoch: int = 0,
    ) -> None:
        self._publish = publish
        self._on_timings = on_timings
        self._on_event = on_event
        self.stream: Stream | None = None
        self._abandoned = False
        self._epochs_before = first_epoch
        self._encoding: str | None = None

    def open(self, stream: Stream) -> None:
        """Take a new stream into use."""
        self.stream = stream

    def close(self) -> None:
        """Let go of the stream and what it holds on the device."""
        if self.stream is not None:
            self._epochs_before += self.stream.epoch + 1
        self.stream = self._encoding = None

    @property
    def epoch(self) -> int:
        """Of the next result."""
        return self._epochs_before + (0 if self.stream is None else self.stream.epoch)

    @property
    def pending(self) -> int:
        """Frames that have no result yet."""
        return 0 if self.stream is None else self.stream.pending

    def finish(self, source: Source, results: Sequence[FrameResult]) -> None:
        """Publish what a push returned, and report what happened; source: of the frame pushed."""
        before = self._encoding
        self.emit(results)
        if before not in (None, source.encoding):
            change = f"from '{before}' to '{source.encoding}'"
            self._on_event("encoding", f"the encoding changed {change}; tracking goes on")
        self._encoding = source.encoding

    def emit(self, results: Sequence[FrameResult]) -> None:
        """Publish what the stream returned, and report what it did beside that."""
        if self.stream is None or self._abandoned:
            return
        self._on_timings(self.stream.timings)
        for result in results:
            if self._abandoned:
                return
            assert isinstance(result.source, Source)
            epoch = result.epoch + self._epochs_before
            self._publish(result.source, dataclasses.replace(result, epoch=epoch))
        for event in self.stream.events:
            self._report(event)

    def abandon(self) -> int:
        """Publish nothing any more, whatever comes of a stream that hangs; how many frames got no
        result. From any thread."""
        self._abandoned = True
        return self.pending

    def clock_jumped(self, now_ns: int) -> None:
        """The clock of the node was set to ``now_ns``: a new epoch, unless the stream is there
        already (or has not begun)."""
        newest = None if self.stream is None else self.stream.newest_ns
        if self.stream is not None and newest is not None and abs(newest - now_ns) > LATE_NS:
            self.emit(self.stream.restart("the clock of the node jumped"))

    def flush(self) -> int:
        """Finish the pending frames and publish them; how many they were."""
        pending = self.pending
        if self.stream is not None and pending:
            self.emit(self.stream.flush())
        return pending

    def reset(self) -> int:
        """Forget all tracks and the pending frames; how many frames got no result."""
        self._encoding = None
        return 0 if self.stream is None else self.stream.reset()

    def update(self, config: Config) -> None:
        """Take over changed settings from the next window on."""
        if self.stream is not None:
            self.stream.update(config)

    def _report(self, event: Event) -> None:
        text = event.text
        if event.kind == "epoch":
            text = f"{text}, epoch {self.epoch}"
            self._encoding = None
        self._on_event(event.kind, text)


def push_frames(
    model: Model, frames: Sequence[tuple[CameraStream, Image, Source]]
) -> list[Failure]:
    """One frame into each of several streams side by side; publishes what that completes, and
    returns what failed in which of them."""
    turns = [
        (camera, camera.stream, source, Frame(image, stamp_ns(source), source=source))
        for camera, image, source in frames
        if camera.stream is not None
    ]
    outcomes = model.push_all([(stream, frame) for _, stream, _, frame in turns])
    failures: list[Failure] = []
    for (camera, _, source, _), outcome in zip(turns, outcomes, strict=True):
        if isinstance(outcome, Exception):
            failures.append((camera, outcome))
            continue
        try:
            camera.finish(source, outcome)
        except Exception as error:  # of this stream alone
            failures.append((camera, error))
    return failures
