"""The one thread that owns the device."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError, wait
from dataclasses import dataclass, field
from typing import Any, TypeVar

T = TypeVar("T")


class WorkerClosed(RuntimeError):
    """The worker ended before the job was done."""


@dataclass(frozen=True, slots=True, eq=False)
class _Job:
    work: Callable[[], Any]
    future: Future[Any]
    submitted: float = field(default_factory=time.monotonic)


class Worker:
    """Takes turns at the frames that wait elsewhere, and runs jobs between them, on a thread of
    its own.

    ``oldest`` says when the frame arrived that waits longest (monotonic seconds), and ``turn``
    serves one of each camera. A submitted job runs when the frames that arrived before it are
    gone. When nothing waits any more, ``pause`` does what is due then, and returns the seconds
    until it wants to be called again (none: not before the next frame). ``on_error`` receives what
    ``turn`` and ``pause`` raise.
    """

    def __init__(
        self,
        oldest: Callable[[], float | None],
        turn: Callable[[], object],
        pause: Callable[[], float | None],
        on_error: Callable[[Exception], object],
    ) -> None:
        self._oldest = oldest
        self._turn = turn
        self._pause = pause
        self._on_error = on_error
        self.turns = 0
        """Turns that came to an end."""
        self._jobs: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._running: _Job | None = None
        self._busy_since: float | None = None
        # A daemon, because a window can take longer than anyone is ready to wait for the end.
        self._thread = threading.Thread(target=self._run, name="stemseg-worker", daemon=True)
        self._thread.start()

    @property
    def busy_seconds(self) -> float:
        """How long the present turn or job has been running; 0 between them."""
        since = self._busy_since
        return 0.0 if since is None else time.monotonic() - since

    def wake(self) -> None:
        """To be called after a frame has come."""
        with self._changed:
            self._changed.notify()

    def submit(self, work: Callable[[], T]) -> Future[T]:
        """Queue a job; its result or exception is that of the future."""
        future: Future[T] = Future()
        with self._changed:
            if self._closed:
                future.set_exception(WorkerClosed("the worker has ended"))
            else:
                self._jobs.append(_Job(work, future))
                self._changed.notify()
        return future

    def call(self, work: Callable[[], T], give_up: Callable[[], bool] = lambda: False) -> T:
        """Submit and wait. Raises what the job raises, or WorkerClosed when ``give_up`` holds."""
        future = self.submit(work)
        while not wait([future], timeout=0.1).done:
            if give_up():
                raise WorkerClosed("gave up waiting for the worker")
        return future.result()

    def close(self, timeout: float) -> bool:
        """End after the present turn or job, without those that wait; whether it did in time."""
        with self._changed:
            self._closed = True
            abandoned = list(self._jobs)
            self._jobs.clear()
            self._changed.notify()
        for job in abandoned:
            job.future.set_exception(WorkerClosed("the worker has ended"))
        self._thread.join(timeout)
        running = self._running
        if running is not None:
            _settle(running.future, error=WorkerClosed("the worker hangs and was given up"))
        return not self._thread.is_alive()

    def _run(self) -> None:
        timeout: float | None = None
        while not self._closed:
            job, frames = self._next(timeout)
            if job is not None:
                self._busy(self._execute, job)
            elif frames:
                self._busy(self._guarded, self._turn)
                self.turns += 1
            timeout = None if self._closed else self._busy(self._guarded, self._pause)

    def _busy(self, step: Callable[[Any], T], argument: Any) -> T:
        self._busy_since = time.monotonic()
        try:
            return step(argument)
        finally:
            self._busy_since = None

    def _next(self, timeout: float | None) -> tuple[_Job | None, bool]:
        """A job whose turn it is, or whether frames wait; neither after ``timeout`` seconds."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._closed or self._jobs or self._oldest() is not None, timeout
            )
            oldest = None if self._closed else self._oldest()
            if self._jobs and (oldest is None or self._jobs[0].submitted < oldest):
                return self._jobs.popleft(), False
            return None, oldest is not None

    def _execute(self, job: _Job) -> None:
        self._running = job
        try:
            result = job.work()
        except Exception as error:
            _settle(job.future, error=error)
        else:
            _settle(job.future, result)
        self._running = None

    def _guarded(self, step: Callable[[], T]) -> T | None:
        # Whatever goes wrong is handed on: the thread has to outlive every single step.
        try:
            return step()
        except Exception as error:
            if not self._closed:
                self._report(error)
            return None

    def _report(self, error: Exception) -> None:
        try:
            self._on_error(error)
        except Exception:
            logging.getLogger(__name__).exception("the handler of an error failed: %s", error)


def _settle(future: Future[Any], result: Any = None, error: Exception | None = None) -> None:
    """Unless the other side, which gave up or came late, did."""
    try:
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)
    except InvalidStateError:
        pass
