"""The pipeline together with the headers of the frames inside it."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
from std_msgs.msg import Header

from stemseg_ros.config import Config
from stemseg_ros.media.messages import stamp_ns
from stemseg_ros.records import FrameResult


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


class Stream:
    """Frames with headers in, results with headers out, one for one and in order.

    Lives on the worker thread. Epochs go on counting over successive pipelines, so that a
    subscriber never sees a number twice while the node lives.
    """

    def __init__(
        self,
        publish: Callable[[Source, FrameResult], None],
        on_window: Callable[[Mapping[str, float]], None],
    ) -> None:
        self._publish = publish
        self._on_window = on_window
        self._pipeline: StreamingPipeline | None = None
        self._inside: deque[Source] = deque()
        self._epochs_before = 0

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
        self._inside.clear()

    def push(self, image: npt.NDArray[np.uint8], source: Source) -> None:
        """One frame; publishes the results that it completes."""
        if self._pipeline is not None:
            self._inside.append(source)
            self._emit(self._pipeline, self._pipeline.push(image, stamp_ns(source)))

    def flush(self) -> int:
        """Finish the frames inside the window and publish them; how many they were."""
        pending = len(self._inside)
        if self._pipeline is not None and pending:
            self._emit(self._pipeline, self._pipeline.flush())
        return pending

    def reset(self) -> int:
        """Forget all tracks and the frames inside the window; how many frames got no result."""
        dropped = len(self._inside)
        self._inside.clear()
        if self._pipeline is not None:
            self._pipeline.reset()
        return dropped

    def update(self, config: Config) -> None:
        """Take over changed settings from the next window on."""
        if self._pipeline is not None:
            self._pipeline.update(config)

    def _emit(self, pipeline: StreamingPipeline, results: list[FrameResult]) -> None:
        if results:
            self._on_window(pipeline.stage_ms)
        for result in results:
            epoch = result.epoch + self._epochs_before
            self._publish(self._inside.popleft(), dataclasses.replace(result, epoch=epoch))
