"""Counts and times of one camera."""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import Literal, get_args

PERIOD_SECONDS = 1.0
REMEMBERED = 100
"""Number of frames over which the median time of a stage is taken."""
FIRST, LAST = ("unpack", "wait"), ("publish",)
"""Stages of the node before and after those of the model."""
LOSSES = (
    "frames_lost",
    "frames_refused",
    "frames_duplicate",
    "frames_out_of_order",
    "frames_dropped",
    "frames_failed",
)
DropCause = Literal["drop_oldest", "drop_newest", "stride", "late"]
"""Causes for which the queue drops a waiting frame: its load policy, or a result that would be
late."""
DROPS: tuple[DropCause, ...] = get_args(DropCause)
CAUSES = tuple(f"dropped.{cause}" for cause in (*DROPS, "reset"))
COUNTS = ("frames_in", "messages_out", *LOSSES, *CAUSES)
"""Counts since the node was configured: images received; results; images lost in transit, refused,
with a repeated or glitched stamp, dropped by the queue or a reset, lost in a failed stream; and
the dropped ones by cause: those of the queue, and a reset or the end of the active state."""


@dataclass(frozen=True, slots=True)
class Period:
    """Counts of the last period, about a second."""

    rate_in_hz: float = 0.0
    rate_out_hz: float = 0.0
    lost_share: float = 0.0
    """Share of frames lost for any reason but the policy stride, of those received or expected,
    0..1."""
    delay_ms: float | None = None
    """Longest time from the arrival of a frame to the results that it completed."""


class StreamStatistics:
    """Counts and times of one camera since it was configured; from any thread.

    Times by stage are medians of milliseconds over the last frames that the stage was part of. On
    a GPU those of the network are times of the host: a call that only queues work looks short,
    and "track", which waits for it, long.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._stage_ms: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=REMEMBERED))
        self._latency_ms: deque[float] = deque(maxlen=REMEMBERED)
        self._before = time.monotonic(), Counter[str]()
        self._delay_ms: float | None = None
        self._period = Period()

    def count(self, name: str, number: int = 1) -> None:
        """Add to one of COUNTS."""
        with self._lock:
            self._counts[name] += number

    def times(self, stage_ms: Mapping[str, float]) -> None:
        """Add the milliseconds that each stage took for a frame."""
        with self._lock:
            for stage, milliseconds in stage_ms.items():
                self._stage_ms[stage].append(milliseconds)

    def add_latency(self, latency_ms: float) -> None:
        """Add the time from the arrival of a frame to its result."""
        with self._lock:
            self._latency_ms.append(latency_ms)

    def delayed(self, delay_ms: float) -> None:
        """Add the time from the arrival of a frame to the results that it completed."""
        with self._lock:
            self._delay_ms = max(delay_ms, self._delay_ms or 0.0)

    def period(self) -> Period:
        """Return the counts since the last call, if that was at least half a period ago."""
        with self._lock:
            now, (before, counts) = time.monotonic(), self._before
            seconds = now - before
            if seconds < PERIOD_SECONDS / 2:
                return self._period  # an extra message between two periods
            new = self._counts - counts
            self._before = now, self._counts.copy()
            lost = sum(new[name] for name in LOSSES) - new["dropped.stride"]
            self._period = Period(
                rate_in_hz=new["frames_in"] / seconds,
                rate_out_hz=new["messages_out"] / seconds,
                # Frames of an earlier period can be lost in this one.
                lost_share=min(1.0, lost / max(new["frames_in"] + new["frames_lost"], lost, 1)),
                delay_ms=self._delay_ms,
            )
            self._delay_ms = None
            return self._period

    def values(self, period: Period) -> dict[str, str]:
        """Format the counts for the diagnostics."""
        with self._lock:
            values = {name: str(self._counts[name]) for name in COUNTS}
            values["rate_in_hz"] = f"{period.rate_in_hz:.2f}"
            values["rate_out_hz"] = f"{period.rate_out_hz:.2f}"
            model = tuple(stage for stage in self._stage_ms if stage not in FIRST + LAST)
            values |= {
                f"stage_ms.{stage}": f"{median(self._stage_ms[stage]):.3f}"
                for stage in FIRST + model + LAST
                if stage in self._stage_ms
            }
            if self._latency_ms:
                values["latency_ms"] = f"{median(self._latency_ms):.1f}"
            if period.delay_ms is not None:
                values["delay_ms"] = f"{period.delay_ms:.1f}"
        return values
