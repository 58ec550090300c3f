"""The stream side of a camera: from its queue through the model to its topics."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from stemseg_ros.config import Config
from stemseg_ros.masks import decode
from stemseg_ros.media.messages import stamp_ns
from stemseg_ros.records import Frame, FrameResult, Image, Instance
from stemseg_ros.ros.health.camera_health import CameraHealth
from stemseg_ros.ros.input.frame_queue import FrameQueue, Waiting
from stemseg_ros.ros.input.image_messages import ImageMessageError, bgr_image
from stemseg_ros.ros.input.prompt_requests import read_prompts
from stemseg_ros.ros.output.publishers import ResultPublishers, Source
from stemseg_ros.stamps import LATE_NS
from stemseg_ros.stream import Stream


class CameraStream:
    """Frames of one camera in, results with headers out, one for one and in order.

    Lives on the worker's thread, as long as the model is loaded.
    """

    def __init__(
        self,
        stream: Stream,
        queue: FrameQueue,
        results: ResultPublishers,
        health: CameraHealth,
        first_epoch: int,
    ) -> None:
        """first_epoch: epochs go on counting over successive models, so that a subscriber never
        sees a number twice while the node lives."""
        self.stream = stream
        self._queue = queue
        self._results = results
        self._health = health
        self._first_epoch = first_epoch
        self._encoding: str | None = None
        """Encoding of the last frame; None before the first."""
        self._last_done = time.monotonic()

    @property
    def epoch(self) -> int:
        """Epoch of the next result."""
        return self._first_epoch + self.stream.epoch

    @property
    def pending(self) -> int:
        """Frames that have no result yet."""
        return self.stream.pending

    @property
    def held(self) -> int:
        """Frames whose stamps do not follow; the next ones decide on them."""
        return self.stream.held

    @property
    def oldest_waiting(self) -> float | None:
        """Arrival of the frame that has waited longest for this stream; monotonic seconds."""
        return self._queue.oldest

    # A frame

    def take(self) -> Frame | None:
        """Take and decode the next frame; None if there is none, or if it cannot be decoded."""
        waiting, drops = self._queue.take()
        self._health.dropped(drops, self._queue.size, self._queue.every)
        if waiting is None:
            return None
        begin = time.monotonic()
        try:
            image = bgr_image(waiting.message, self.stream.config.node)
        except ImageMessageError as error:
            self.done()
            self._health.refused(error.fault, error)
            return None
        self._health.statistics.times(
            {"wait": 1e3 * (begin - waiting.arrived), "unpack": 1e3 * (time.monotonic() - begin)}
        )
        kept = image if self._results.overlay_wanted else None
        return Frame(image, stamp_ns(waiting.message), source=_source(waiting, kept))

    def finish(self, frame: Frame, results: Sequence[FrameResult]) -> None:
        """Publish the results of a push, and report its events."""
        source = frame.source
        assert isinstance(source, Source)
        self._emit(results)
        if results:
            self._health.statistics.delayed(1e3 * (time.monotonic() - source.arrived))
        if self._encoding not in (None, source.encoding):
            self._health.encoding_changed(str(self._encoding), source.encoding)
        self._encoding = source.encoding

    def done(self) -> None:
        """Mark the taken frame as done, whatever its outcome."""
        self._queue.done()
        self._last_done = time.monotonic()

    # Between frames

    def seconds_to_pause(self) -> float | None:
        """Seconds until pending frames have waited stream.flush_after for further ones; None if
        none are pending, or if they wait for ever."""
        after = self.stream.config.stream.flush_after
        if after <= 0 or not self.pending or len(self._queue):
            return None
        return self._last_done + after - time.monotonic()

    def flush(self) -> int:
        """Finish the pending frames and publish them; returns their number."""
        pending = self.pending
        if pending:
            self._emit(self.stream.flush())
        return pending - self.pending

    def clock_jumped(self, now_ns: int) -> None:
        """Start a new epoch after a jump of the node's clock to ``now_ns``, unless the stream is
        already there (or has not begun)."""
        newest = self.stream.newest_ns
        if newest is not None and abs(newest - now_ns) > LATE_NS:
            self._encoding = None
            self._emit(self.stream.restart("the clock of the node jumped"))

    def reset(self) -> int:
        """Forget all tracks and pending frames; returns how many frames have no result."""
        self._encoding = None
        dropped = self.stream.reset()
        self._health.discarded(dropped)
        return dropped

    def failed(self, error: Exception) -> None:
        """Handle a failure of the model: pending frames are lost, and tracking starts anew."""
        self._encoding = None
        self._health.failed(error, self.stream.reset())

    # Prompts

    def track(self, request: Any) -> tuple[int, tuple[int, ...]]:
        """Follow the objects of a stemseg/srv/TrackMasks request, and publish them as they were
        given; the epoch and their ids.

        Raises PromptError for what cannot be followed, which changes nothing.
        """
        tracker = self.stream.prompt_tracker
        stamp = stamp_ns(request)
        size = tracker.kept_image(stamp).shape[:2]
        classes = self.stream.config.classes
        prompts = read_prompts(request, (size[0], size[1]), classes, tracker.free_ids)
        self.stream.track(stamp, prompts)
        instances = tuple(
            Instance.from_mask(
                decode(prompt.rle), prompt.track_id, prompt.class_id, classes[prompt.class_id - 1]
            )
            for prompt in prompts
        )
        given = FrameResult(0, stamp, size[0], size[1], self.epoch, instances)
        self._results.publish_prompts(request.header, given)
        return self.epoch, tuple(prompt.track_id for prompt in prompts)

    def untrack(self, ids: Sequence[int]) -> int:
        """Follow objects no longer, all of them without ids; how many. Raises PromptError."""
        tracker = self.stream.prompt_tracker
        leaving = ids or tracker.followed
        tracker.untrack(leaving)
        return len(set(leaving))

    def update(self, config: Config) -> None:
        """Apply changed settings from the next frame on."""
        self.stream.update(config)
        self._results.update(config)

    def _emit(self, results: Sequence[FrameResult]) -> None:
        self._health.statistics.times(self.stream.timings)
        unpublished = len(results)
        try:
            for result in results:
                self._publish(result)
                unpublished -= 1
        finally:
            self._health.statistics.count("frames_failed", unpublished)
        for event in self.stream.events:
            epoch_text = f", epoch {self.epoch}" if event.kind == "epoch" else ""
            self._health.reported(event._replace(text=f"{event.text}{epoch_text}"))

    def _publish(self, result: FrameResult) -> None:
        source = result.source
        assert isinstance(source, Source)
        begin = time.monotonic()
        epoch = self._first_epoch + result.epoch
        self._results.publish(source, replace(result, epoch=epoch))
        self._health.published(source.arrived, begin)


def _source(waiting: Waiting, image: Image | None) -> Source:
    message = waiting.message
    encoding = message.format if hasattr(message, "format") else message.encoding
    return Source(message.header, image, encoding, waiting.arrived)
