"""The worker: order, pauses, errors, and its end."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from stemseg_ros.ros.inference.worker import Worker, WorkerClosed


class Log:
    """A worker that notes what it does, the frames that wait for it, and a gate that holds it
    up."""

    def __init__(self, pause: float = 0.0) -> None:
        self.done: list[object] = []
        self.errors: list[Exception] = []
        self.gate = threading.Event()
        self.waiting: deque[tuple[float, object]] = deque()
        self._pause = pause
        self._pending = False
        self.changed = threading.Condition()
        self.worker = Worker(self.changed)
        self.worker.service = self

    def oldest(self) -> float | None:
        return self.waiting[0][0] if self.waiting else None

    def failed(self, error: Exception) -> None:
        self.errors.append(error)

    def turn(self) -> None:
        frame = self.waiting.popleft()[1]
        self._pending = True
        if isinstance(frame, Exception):
            raise frame
        self.done.append(frame)

    def pause(self) -> float | None:
        """Once, so many seconds after the last frame."""
        if not self._pending or not self._pause:
            return None
        if self.done[-1] != "soon":
            self.done.append("soon")
            return self._pause
        self._pending = False
        self.done.append("paused")
        return None

    def hold(self) -> None:
        """Nothing runs from here to the opening of the gate."""
        held = threading.Event()
        self.worker.submit(lambda: (held.set(), self.gate.wait(10)))
        assert held.wait(10)

    def frame(self, frame: object) -> None:
        with self.changed:
            self.waiting.append((time.monotonic(), frame))
            self.changed.notify_all()

    def finish(self) -> None:
        self.gate.set()
        self.worker.call(lambda: None)


@contextmanager
def log(pause: float = 0.0) -> Iterator[Log]:
    made = Log(pause)
    yield made
    made.gate.set()
    assert made.worker.close(10)


def test_frames_and_jobs_keep_their_order() -> None:
    with log() as it:
        it.hold()
        it.frame(1)
        called = it.worker.submit(lambda: list(it.done))
        it.frame(2)
        it.finish()
        assert called.result() == [1]
        assert it.done == [1, 2]


def test_a_job_does_not_wait_for_frames_that_are_gone() -> None:
    with log() as it:
        it.hold()
        it.frame(1)
        called = it.worker.submit(lambda: "called")
        it.waiting.clear()
        it.finish()
        assert (it.done, called.result()) == ([], "called")


def test_pauses_are_asked_for_and_kept() -> None:
    with log(pause=0.2) as it:
        it.worker.call(lambda: None)
        assert it.done == []  # no frame, no pause
        begin = time.monotonic()
        it.frame(1)
        while len(it.done) < 3 and time.monotonic() < begin + 30:
            time.sleep(0.01)
        assert it.done == [1, "soon", "paused"]
        assert time.monotonic() - begin >= 0.2
        time.sleep(0.3)
        assert len(it.done) == 3


def test_errors_are_handed_on_and_the_worker_goes_on() -> None:
    with log() as it:
        it.frame(ZeroDivisionError())
        with pytest.raises(KeyError):
            it.worker.call(lambda: {}["missing"])
        it.frame(1)
        it.finish()
        assert it.done == [1]
        assert [type(error) for error in it.errors] == [ZeroDivisionError]
        assert it.worker.turns == 2


def test_a_failing_handler_of_errors_does_not_end_the_worker(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Exception) -> None:
        raise RuntimeError("handler")

    with log() as it:
        monkeypatch.setattr(it, "failed", fail)
        it.frame(ZeroDivisionError("division by zero"))
        it.finish()
    assert "division by zero" in caplog.text


def test_without_a_service_only_jobs_run() -> None:
    with log() as it:
        it.worker.call(lambda: setattr(it.worker, "service", None))
        it.frame(1)
        assert it.worker.call(lambda: 5) == 5
        assert it.done == []
        it.worker.call(lambda: setattr(it.worker, "service", it))
        it.finish()
        assert it.done == [1]


def test_granted_time_is_not_overdue() -> None:
    with log() as it:
        inside, leave = threading.Event(), threading.Event()

        def load() -> None:
            with it.worker.granted(1000.0):
                inside.set()
                leave.wait(10)

        loaded = it.worker.submit(load)
        assert inside.wait(10)
        assert it.worker.overdue_seconds < 0 < it.worker.busy_seconds
        leave.set()
        loaded.result(10)
        it.hold()
        assert it.worker.overdue_seconds == pytest.approx(it.worker.busy_seconds, abs=5)


def test_waiting_is_given_up() -> None:
    with log() as it:
        it.hold()
        with pytest.raises(WorkerClosed):
            it.worker.call(lambda: None, give_up=lambda: True)


def test_close_leaves_out_what_waits() -> None:
    with log() as it:
        it.hold()
        it.frame(1)
        called = it.worker.submit(lambda: None)
        assert not it.worker.close(0.05)  # still held
        with pytest.raises(WorkerClosed):
            called.result(1)
        it.gate.set()
        assert it.worker.close(10)
        assert it.done == []
        with pytest.raises(WorkerClosed):
            it.worker.call(lambda: None)
        with pytest.raises(WorkerClosed, match="abandoned"):
            it.worker.check()


def test_a_hanging_job_gets_its_exception_at_the_close() -> None:
    with log() as it:
        assert it.worker.busy_seconds == 0
        hanging = it.worker.submit(it.gate.wait)
        begin = time.monotonic()
        while it.worker.busy_seconds <= 0.05 and time.monotonic() < begin + 10:
            time.sleep(0.01)
        assert it.worker.busy_seconds > 0.05
        assert not it.worker.close(0.0)
        with pytest.raises(WorkerClosed, match="hangs"):
            hanging.result(1)
