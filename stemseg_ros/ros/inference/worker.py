"""The one thread that owns the device."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, InvalidStateError, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class WorkerClosed(RuntimeError):
    """The worker ended, or was abandoned, before the job was done."""


class Service(Protocol):
    """What a worker serves between its jobs."""

    def oldest(self) -> float | None:
        """Arrival of the frame that has waited longest (monotonic seconds); None if none waits."""
        ...

    def turn(self) -> None:
        """Process some of the waiting frames."""
        ...

    def pause(self) -> float | None:
        """Do what is due while no frame waits; returns the seconds until the next call is due,
        None for not before the next frame."""
        ...

    def failed(self, error: Exception) -> None:
        """Handle an exception that a batch or a pause raised."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class _Job:
    work: Callable[[], Any]
    future: Future[Any]
    submitted: float = field(default_factory=time.monotonic)


class Worker:
    """Runs batches of a service, and jobs between them, on a thread of its own.

    A submitted job runs once the frames that arrived before it are processed.
    """

    def __init__(self, changed: threading.Condition) -> None:
        """changed: notified when a frame waits that did not before."""
        self.service: Service | None = None
        """The service; None for jobs alone. Set by jobs, on the worker's thread."""
        self.turns = 0
        """Number of finished batches."""
        self._jobs: deque[_Job] = deque()
        self._changed = changed
        self._closed = False
        self._running: _Job | None = None
        self._busy_since: float | None = None
        self._granted = 0.0
        # A daemon, because a batch can take longer than the end of the process may wait.
        self._thread = threading.Thread(target=self._run, name="stemseg-worker", daemon=True)
        self._thread.start()

    @property
    def busy_seconds(self) -> float:
        """Seconds since the current batch or job started; 0 between them."""
        since = self._busy_since
        return 0.0 if since is None else time.monotonic() - since

    @property
    def overdue_seconds(self) -> float:
        """The same, less the extra time that was allowed."""
        return self.busy_seconds - self._granted

    @contextmanager
    def granted(self, seconds: float) -> Iterator[None]:
        """Allow the code inside to take longer by so many seconds. On the worker's thread."""
        self._granted = seconds
        try:
            yield
        finally:
            self._granted = 0.0

    def check(self) -> None:
        """Raise WorkerClosed if the worker has been abandoned; to be called on its thread after
        everything that may hang."""
        if self._closed:
            raise WorkerClosed("the worker was abandoned")

    def submit(self, work: Callable[[], T]) -> Future[T]:
        """Queue a job; the future gets its result or exception."""
        future: Future[T] = Future()
        with self._changed:
            if self._closed:
                future.set_exception(WorkerClosed("the worker has ended"))
            else:
                self._jobs.append(_Job(work, future))
                self._changed.notify_all()
        return future

    def call(self, work: Callable[[], T], give_up: Callable[[], bool] = lambda: False) -> T:
        """Submit a job and wait. Raises what the job raises, or WorkerClosed when ``give_up``
        holds."""
        future = self.submit(work)
        while not wait([future], timeout=0.1).done:
            if give_up():
                raise WorkerClosed("gave up waiting for the worker")
        return future.result()

    def close(self, timeout: float) -> bool:
        """End after the current batch or job, without the waiting ones; returns whether that took
        at most ``timeout`` seconds."""
        with self._changed:
            self._closed = True
            abandoned = list(self._jobs)
            self._jobs.clear()
            self._changed.notify_all()
        for job in abandoned:
            job.future.set_exception(WorkerClosed("the worker has ended"))
        self._thread.join(timeout)
        running = self._running
        if running is not None:
            _settle(running.future, error=WorkerClosed("the worker hangs and was abandoned"))
        return not self._thread.is_alive()

    def _run(self) -> None:
        timeout: float | None = None
        while not self._closed:
            job, service = self._next(timeout)
            with self._busy():
                if job is not None:
                    self._execute(job)
                elif service is not None:
                    self._guarded(service, service.turn)
                    self.turns += 1
                timeout = self._pause()

    @contextmanager
    def _busy(self) -> Iterator[None]:
        self._busy_since = time.monotonic()
        try:
            yield
        finally:
            self._busy_since = None

    def _next(self, timeout: float | None) -> tuple[_Job | None, Service | None]:
        """Wait for a job that is due, or for frames of the service; neither after ``timeout``
        seconds."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._closed or self._jobs or self._oldest() is not None, timeout
            )
            oldest = None if self._closed else self._oldest()
            if self._jobs and (oldest is None or self._jobs[0].submitted < oldest):
                return self._jobs.popleft(), None
            return None, self.service if oldest is not None else None

    def _oldest(self) -> float | None:
        return None if self.service is None else self.service.oldest()

    def _execute(self, job: _Job) -> None:
        self._running = job
        try:
            result = job.work()
        except Exception as error:
            _settle(job.future, error=error)
        else:
            _settle(job.future, result)
        self._running = None

    def _pause(self) -> float | None:
        service = self.service
        if self._closed or service is None:
            return None
        return self._guarded(service, service.pause)

    def _guarded(self, service: Service, step: Callable[[], T]) -> T | None:
        # Every exception is passed on: the thread must survive every step.
        try:
            return step()
        except Exception as error:
            if not self._closed:
                _hand_on(service, error)
            return None


def _hand_on(service: Service, error: Exception) -> None:
    try:
        service.failed(error)
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
