"""The worker: order, drops, idleness, errors, and its end."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from stemseg_ros.ros.worker import Worker, WorkerClosed


class Log:
    """A worker that notes what it does, and a gate that holds it up."""

    def __init__(self, queue_size: int = 100, idle_after: float = 0.0) -> None:
        self.done: list[object] = []
        self.errors: list[Exception] = []
        self.gate = threading.Event()
        self.worker = Worker(
            queue_size, idle_after, lambda: self.done.append("idle"), self.errors.append
        )

    def hold(self) -> None:
        """Nothing runs from here to the opening of the gate."""
        held = threading.Event()
        self.worker.submit(lambda: (held.set(), self.gate.wait(10)))
        assert held.wait(10)

    def frame(self, number: int) -> bool:
        return self.worker.offer(lambda: self.done.append(number))

    def finish(self) -> None:
        self.gate.set()
        self.worker.call(lambda: None)


@contextmanager
def log(queue_size: int = 100, idle_after: float = 0.0) -> Iterator[Log]:
    made = Log(queue_size, idle_after)
    yield made
    made.gate.set()
    assert made.worker.close(10)


def test_frames_and_calls_keep_their_order() -> None:
    with log() as it:
        it.hold()
        it.frame(1)
        called = it.worker.submit(lambda: list(it.done))
        it.frame(2)
        it.finish()
        assert called.result() == [1]
        assert it.done == [1, 2]


def test_a_full_queue_drops_the_oldest_frame_but_no_call() -> None:
    with log(queue_size=2) as it:
        it.hold()
        taken = [it.frame(1)]
        called = it.worker.submit(lambda: "called")
        taken += [it.frame(number) for number in (2, 3, 4)]
        it.finish()
        assert taken == [True, True, False, False]
        assert it.done == [3, 4]
        assert called.result() == "called"


def test_room_is_made_by_work() -> None:
    with log(queue_size=1) as it:
        for number in range(5):
            assert it.frame(number)
            it.worker.call(lambda: None)
        assert it.done == [0, 1, 2, 3, 4]


def test_clear_forgets_frames_only() -> None:
    with log() as it:
        it.hold()
        it.frame(1)
        called = it.worker.submit(lambda: "called")
        it.frame(2)
        assert it.worker.clear() == 2
        it.frame(3)
        it.finish()
        assert (it.done, called.result()) == ([3], "called")


def test_a_pause_after_a_frame_is_noticed_once() -> None:
    with log(idle_after=0.05) as it:
        time.sleep(0.15)
        assert it.done == []  # no frame, no pause
        it.frame(1)
        time.sleep(0.3)
        assert it.done == [1, "idle"]


def test_slow_work_is_no_pause() -> None:
    with log(idle_after=0.2) as it:
        for number in range(3):
            it.worker.offer(lambda: time.sleep(0.3))
            it.frame(number)
        it.worker.call(lambda: None)
        assert it.done == [0, 1, 2]


def test_errors_are_handed_on_and_the_worker_goes_on() -> None:
    with log() as it:
        it.worker.offer(lambda: 1 / 0)
        with pytest.raises(KeyError):
            it.worker.call(lambda: {}["missing"])
        it.frame(1)
        it.finish()
        assert it.done == [1]
        assert [type(error) for error in it.errors] == [ZeroDivisionError]


def test_a_failing_handler_of_errors_does_not_end_the_worker(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(_: Exception) -> None:
        raise RuntimeError("handler")

    worker = Worker(1, 0.0, lambda: None, fail)
    worker.offer(lambda: 1 / 0)
    assert worker.call(lambda: 5) == 5
    assert "division by zero" in caplog.text
    assert worker.close(10)


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
