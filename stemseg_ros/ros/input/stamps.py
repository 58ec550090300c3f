"""The order of the stamps of one camera: what follows, what comes late, and where time jumps."""

from __future__ import annotations

from typing import Literal

Step = Literal["next", "duplicate", "late", "jump back", "jump ahead"]

LATE_NS = 1_000_000_000
"""A frame at most so far behind the newest one is late; farther behind, time has jumped."""
LATE_IN_A_ROW = 3
"""So many late frames one after the other are no exchanged ones: time has jumped by a little, as
at the end of a very short bag that is played in a loop."""


class StampOrder:
    """Judges the stamps of a stream, one after the other.

    A frame that is dropped does not count as the newest one. Stamps of zero say nothing (a driver
    that sets none), so that they are no duplicates of each other.
    """

    def __init__(self) -> None:
        self.newest: int | None = None
        """Stamp of the last frame that was let through, in ns; none: there was none."""
        self._late = 0

    def step(self, stamp_ns: int, max_gap_ns: int) -> Step:
        """What the next stamp means; ``max_gap_ns``: farther ahead, time has jumped (0: never)."""
        before = self.newest
        found = self._compare(stamp_ns, max_gap_ns)
        if found == "late":
            self._late += 1
            if self._late == LATE_IN_A_ROW:
                found = "jump back"
        if found in ("duplicate", "late"):
            return found
        self._late, self.newest = 0, stamp_ns
        return "next" if before is None else found

    def forget(self) -> None:
        """The next stamp may be any."""
        self.newest, self._late = None, 0

    def _compare(self, stamp_ns: int, max_gap_ns: int) -> Step:
        if self.newest is None:
            return "next"
        ahead = stamp_ns - self.newest
        if ahead == 0:
            return "duplicate" if stamp_ns else "next"
        if ahead < 0:
            return "late" if -ahead <= LATE_NS else "jump back"
        return "jump ahead" if 0 < max_gap_ns < ahead else "next"
