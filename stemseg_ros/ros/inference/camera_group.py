"""The streams of all cameras through one model, served by one worker."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

from stemseg_ros.errors import PromptError
from stemseg_ros.ros.inference.camera_stream import CameraStream
from stemseg_ros.ros.inference.fallbacks import is_memory_error
from stemseg_ros.stream import Model

T = TypeVar("T")
Failure = tuple[CameraStream, Exception]


class CameraGroup:
    """Pushes one frame of each camera at a time, in one batch; a failure affects its camera alone.

    Lives on the worker's thread, but for ``oldest``. After each step that may hang, ``check`` is
    called, which raises if the worker has been replaced meanwhile: its streams have successors
    then.
    """

    def __init__(
        self,
        model: Model,
        streams: Sequence[CameraStream],
        check: Callable[[], None],
        on_memory: Callable[[str], None],
    ) -> None:
        """on_memory: called with the reason, once per batch, when the device runs out of
        memory."""
        self._model = model
        self.streams = streams
        self._check = check
        self._on_memory = on_memory

    def oldest(self) -> float | None:
        """Arrival of the frame that has waited longest; monotonic seconds. From any thread."""
        waiting = (stream.oldest_waiting for stream in self.streams)
        return min((arrived for arrived in waiting if arrived is not None), default=None)

    def turn(self) -> None:
        """Process the next frame of every camera that has one."""
        taken = []
        for stream in self.streams:
            frame = stream.take()
            self._check()
            if frame is not None:
                taken.append((stream, frame))
        outcomes = self._model.push_all([(stream.stream, frame) for stream, frame in taken])
        self._check()
        failures: list[Failure] = []
        for (stream, frame), outcome in zip(taken, outcomes, strict=True):
            if isinstance(outcome, Exception):
                failures.append((stream, outcome))
            else:
                failures += self._attempt(stream, partial(stream.finish, frame, outcome))
            stream.done()
        self._report(failures)

    def pause(self) -> float | None:
        """Finish the pending frames of cameras that pause; returns the seconds until another one
        may."""
        waits = []
        for stream in self.streams:
            seconds = stream.seconds_to_pause()
            if seconds is not None and seconds <= 0:
                self._report(self._attempt(stream, stream.flush))
            elif seconds is not None:
                waits.append(seconds)
        return min(waits, default=None)

    def flush(self, streams: Sequence[CameraStream]) -> int:
        """Finish all pending frames; returns their number. Raises what fails."""
        before = sum(stream.pending for stream in streams)
        failures = [f for stream in streams for f in self._attempt(stream, stream.flush)]
        self._report(failures)
        for _, error in failures:
            raise error
        return before - sum(stream.pending for stream in streams)

    def prompt(self, stream: CameraStream, work: Callable[[], T]) -> T:
        """Do what was asked for with prompts. Raises PromptError, which leaves the stream as it
        was, or what fails, after which tracking starts anew."""
        try:
            return work()
        except PromptError:
            raise
        except Exception as error:
            self._check()
            self._report([(stream, error)])
            raise

    def clock_jumped(self, now_ns: int) -> None:
        """Handle a jump of the node's clock to ``now_ns``."""
        for stream in self.streams:
            self._report(self._attempt(stream, partial(stream.clock_jumped, now_ns)))

    def failed(self, error: Exception) -> None:
        """A failure that no single camera caused."""
        self._report([(stream, error) for stream in self.streams])

    def _attempt(self, stream: CameraStream, step: Callable[[], object]) -> list[Failure]:
        try:
            step()
        except Exception as error:  # of this camera alone
            self._check()
            return [(stream, error)]
        self._check()
        return []

    def _report(self, failures: Sequence[Failure]) -> None:
        memory = ""
        for stream, error in failures:
            error.__traceback__ = None  # it holds tensors
            stream.failed(error)
            if is_memory_error(error):
                memory = f"{type(error).__name__}: {error}"
        if memory:
            self._on_memory(memory)
