"""Log lines for events that come in bursts."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(slots=True)
class _Burst:
    begin: float
    end: float
    summary: str
    count: int
    events: int


def counted(number: int, noun: str) -> str:
    """ "1 frame", "2 frames"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


class ThrottledLog:
    """Logs the first event of a kind at once, and the total when the burst is over.

    Later events are counted until ``quiet`` seconds pass without one; if there were any, the total
    is logged then. Kinds are compared without their numbers. Events may come from any thread;
    ``poll`` must be called regularly.
    """

    def __init__(
        self,
        log: Callable[[str], object],
        quiet: float = 2.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._log = log
        self._quiet = quiet
        self._clock = clock
        self._bursts: dict[str, _Burst] = {}
        self._lock = threading.Lock()

    def add(
        self, kind: str, message: str, summary: str, count: int = 1, seconds: float = 0.0
    ) -> None:
        """Add an event that concerns ``count`` things and took ``seconds`` until now.

        message: logged if the event opens a burst; summary: names the total at its end.
        """
        kind = re.sub(r"\d+", "#", kind)  # a message with sizes would be a new kind every time
        now = self._clock()
        with self._lock:
            burst = self._bursts.get(kind)
            if burst is not None:
                burst.end = now
                burst.count += count
                burst.events += 1
                return
            self._bursts[kind] = _Burst(now - seconds, now, summary, count, 1)
        self._log(message)

    def poll(self, finish: bool = False) -> None:
        """Log the totals of the bursts that have ended or, to finish, of all."""
        now = self._clock()
        with self._lock:
            over = {
                kind: burst
                for kind, burst in self._bursts.items()
                if finish or now - burst.end >= self._quiet
            }
            for kind in over:
                del self._bursts[kind]
        for burst in over.values():
            if burst.events > 1:
                self._log(f"{burst.summary}: {burst.count} in {burst.end - burst.begin:.1f} s")
