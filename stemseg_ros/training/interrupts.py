"""SIGTERM and SIGINT as a request to stop after the running step."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import resource_tracker
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT)


@dataclass(slots=True)
class StopRequest:
    """The signal that requested the stop; 0 if there was none."""

    signum: int = 0


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Catch the signals; a second one has its default effect.

    Python delivers signals to the main thread alone: in another one nothing is caught.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    previous = {number: signal.getsignal(number) for number in SIGNALS}

    def ask(signum: int, frame: FrameType | None) -> None:
        request.signum = signum
        for number, handler in previous.items():
            signal.signal(number, handler)

    for number in SIGNALS:
        signal.signal(number, ask)
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def signals_held() -> Iterator[None]:
    """Let signals wait. Processes started meanwhile inherit that: one that dies before it has read
    what it is to do would leave its parent waiting for ever."""
    resource_tracker.ensure_running()  # it would be started on the way, and end the waiting
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def leave_signals_to_the_parent() -> None:
    """For worker processes: a signal to the whole group must not take the clips away from the
    step that is running."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
