"""Log lines for troubles that come in bursts."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(slots=True)
class _Burst:
    first: float
    last: float
    summary: str
    count: int


class ThrottledLog:
    """Says once that something goes wrong, and in the end how often it did.

    The first event of a kind is logged at once. Later ones are counted until ``quiet`` seconds
    pass without one; if there were any, the total is logged then. Kinds are told apart without
    their numbers. Events may come from any thread; ``poll`` has to be called now and then.
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

    def add(self, kind: str, message: str, summary: str, count: int = 1) -> None:
        """Events. ``message`` is logged if they open a burst; ``summary`` names its total."""
        kind = re.sub(r"\d+", "#", kind)  # a message that tells sizes would be new every time
        now = self._clock()
        with self._lock:
            burst = self._bursts.get(kind)
            if burst is not None:
                burst.last, burst.count = now, burst.count + count
                return
            self._bursts[kind] = _Burst(now, now, summary, count)
        self._log(message)

    def poll(self, finish: bool = False) -> None:
        """Log the totals of the bursts that are over, or, to finish, of all."""
        now = self._clock()
        with self._lock:
            over = {
                kind: burst
                for kind, burst in self._bursts.items()
                if finish or now - burst.last >= self._quiet
            }
            for kind in over:
                del self._bursts[kind]
        for burst in over.values():
            if burst.count > 1:
                self._log(f"{burst.summary}: {burst.count} in {burst.last - burst.first:.1f} s")
