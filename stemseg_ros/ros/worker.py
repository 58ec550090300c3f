"""The one thread that owns the device."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Any, TypeVar

T = TypeVar("T")


class WorkerClosed(RuntimeError):
    """The worker ended before the job was done."""


class Worker:
    """Runs jobs one after the other, in the order of submission, on a thread of its own.

    Frames are offered: only ``queue_size`` of them wait, a further one pushes out the oldest.
    Everything else is submitted, is never dropped, and keeps its place between the frames. When
    ``idle_after`` seconds pass without a job after a frame, ``on_idle`` runs once; 0 means never.
    The pause counts from the end of the last job, so that a slow device is no pause. ``on_error``
    receives what an offered job or ``on_idle`` raises.
    """

    def __init__(
        self,
        queue_size: int,
        idle_after: float,
        on_idle: Callable[[], object],
        on_error: Callable[[Exception], object],
    ) -> None:
        self._queue_size = queue_size
        self._idle_after = idle_after
        self._on_idle = on_idle
        self._on_error = on_error
        self._frames = 0
        self._jobs: deque[tuple[Callable[[], Any], Future[Any] | None]] = deque()
        self._changed = threading.Condition()
        self._closed = False
        # A daemon, because a window can take longer than anyone is ready to wait for the end.
        self._thread = threading.Thread(target=self._run, name="stemseg-worker", daemon=True)
        self._thread.start()

    def offer(self, job: Callable[[], object]) -> bool:
        """Queue the work of one frame; False where the oldest waiting frame made room for it."""
        with self._changed:
            full = self._frames >= self._queue_size
            if full:
                self._jobs.remove(next(item for item in self._jobs if item[1] is None))
            else:
                self._frames += 1
            self._jobs.append((job, None))
            self._changed.notify()
        return not full

    def submit(self, job: Callable[[], T]) -> Future[T]:
        """Queue work that is never dropped; its result or exception is that of the future."""
        future: Future[T] = Future()
        with self._changed:
            if self._closed:
                future.set_exception(WorkerClosed("the worker has ended"))
            else:
                self._jobs.append((job, future))
                self._changed.notify()
        return future

    def call(self, job: Callable[[], T], give_up: Callable[[], bool] = lambda: False) -> T:
        """Submit and wait. Raises what the job raises, or WorkerClosed when ``give_up`` holds."""
        future = self.submit(job)
        while not wait([future], timeout=0.1).done:
            if give_up():
                raise WorkerClosed("stopped while the worker was busy")
        return future.result()

    def clear(self) -> int:
        """Forget the frames that wait; how many they were."""
        with self._changed:
            dropped, self._frames = self._frames, 0
            self._jobs = deque(item for item in self._jobs if item[1] is not None)
        return dropped

    def close(self, timeout: float) -> bool:
        """End after the present job, without those that wait; whether it did in time."""
        with self._changed:
            self._closed = True
            abandoned = [future for _, future in self._jobs if future is not None]
            self._jobs.clear()
            self._frames = 0
            self._changed.notify()
        for future in abandoned:
            future.set_exception(WorkerClosed("the worker has ended"))
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        frame_since_idle = False
        while not self._closed:
            timeout = self._idle_after if frame_since_idle and self._idle_after > 0 else None
            item = self._next(timeout)
            if item is not None:
                job, future = item
                frame_since_idle = frame_since_idle or future is None
                self._execute(job, future)
            elif not self._closed:
                frame_since_idle = False
                self._execute(self._on_idle, None)

    def _next(self, timeout: float | None) -> tuple[Callable[[], Any], Future[Any] | None] | None:
        """The next job; None after timeout seconds without one, or at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._jobs or self._closed, timeout)
            if not self._jobs:
                return None
            item = self._jobs.popleft()
            self._frames -= item[1] is None
            return item

    def _report(self, error: Exception) -> None:
        try:
            self._on_error(error)
        except Exception:
            logging.getLogger(__name__).exception("the handler of an error failed: %s", error)

    def _execute(self, job: Callable[[], Any], future: Future[Any] | None) -> None:
        # Whatever goes wrong is handed on: the thread has to outlive every single job.
        try:
            result = job()
        except Exception as error:
            if future is not None:
                future.set_exception(error)
            elif not self._closed:
                self._report(error)
        else:
            if future is not None:
                future.set_result(result)
