"""The waiting frames of one camera, and the policies that drop them under load."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any, NamedTuple

from stemseg_ros.ros.health.statistics import DropCause
from stemseg_ros.ros.settings import NodeConfig

MEASURED = 8
"""Fewest arrivals over which the load is measured."""
PAUSE = 5.0
"""A frame that arrives after this many usual intervals ends a pause: the rate is measured anew."""
SLACK = 0.9
"""The load has to fall this far below a smaller stride before that is taken, so that it does not
swing."""
Drops = Mapping[DropCause, int]
"""Number of dropped frames by cause; only causes that occurred."""


@dataclass(frozen=True, slots=True, eq=False)
class Waiting:
    """A waiting message; undecoded, so that dropped frames cost no decoding."""

    message: Any
    arrived: float
    """Monotonic time in seconds."""


class Taken(NamedTuple):
    """The frame that the worker takes, and those dropped before it."""

    frame: Waiting | None
    """None if no frame waits."""
    drops: Drops


class FrameQueue:
    """Holds at most ``queue_size`` frames between the input side of a camera and its stream.

    The input puts, the worker takes one frame at a time in order of arrival, and says when it is
    done with it. Which frames give way under load is up to the policy:

    - drop_oldest: a frame that finds the queue full pushes out the oldest.
    - drop_newest: a frame that finds the queue full is dropped itself.
    - stride: every n-th frame is kept, n being the smallest that the worker keeps up with. (Until
      that is measured, and after a stall, a full queue drops its oldest frame.)

    With ``max_latency_ms`` a frame is dropped as well when it has waited so long that its result
    would be late even if it were served next. The newest frame is never dropped for that, so that
    a bound below the time of one pass costs the stream its rate, not its life.

    Frames are dropped here alone, before they reach the model, and no policy makes tracking start
    anew.
    """

    def __init__(
        self,
        settings: NodeConfig,
        stride: int,
        changed: threading.Condition | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """stride: frames per pass of the heavy part of the network; times are taken over whole
        passes, because the frame that completes one takes longest. changed: notified when a frame
        was put; queues that one worker serves share it."""
        self._settings = settings
        self._changed = changed or threading.Condition()
        self._clock = clock
        self._waiting: deque[Waiting] = deque()
        measured = stride * max(3, math.ceil(MEASURED / stride))
        self._turns: deque[float] = deque(maxlen=measured)
        self._pass = stride
        self._arrivals: deque[float] = deque(maxlen=measured)
        self._begun: float | None = None
        self._every = 1
        self._skipped = 0

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def oldest(self) -> float | None:
        """Arrival of the frame that has waited longest; None if no frame waits."""
        with self._changed:
            return self._waiting[0].arrived if self._waiting else None

    @property
    def every(self) -> int:
        """n: under the policy stride, every n-th frame is kept."""
        return self._every if self._settings.load_policy == "stride" else 1

    @property
    def size(self) -> int:
        """Largest number of waiting frames."""
        return self._settings.queue_size

    @property
    def serving(self) -> bool:
        """Whether a taken frame is not done yet."""
        return self._begun is not None

    def update(self, settings: NodeConfig) -> None:
        """Apply changed settings."""
        with self._changed:
            if settings.load_policy != self._settings.load_policy:
                self._every, self._skipped = 1, 0
            self._settings = settings

    def put(self, frame: Waiting) -> Drops:
        """Add a frame and wake the worker; returns what was dropped for it."""
        with self._changed:
            self._note_arrival(frame.arrived)
            late = self._drop_late(frame.arrived)
            cause, number = self._admit(frame)
            self._changed.notify_all()
        return _occurred({"late": late, cause: number})

    def take(self) -> Taken:
        """Take the next frame, and drop those before it whose results would be late."""
        with self._changed:
            now = self._clock()
            late = self._drop_late(now)
            frame = self._waiting.popleft() if self._waiting else None
            self._begun = now if frame is not None else None
        return Taken(frame, _occurred({"late": late}))

    def done(self) -> None:
        """Mark the taken frame as done."""
        with self._changed:
            if self._begun is not None:
                self._turns.append(self._clock() - self._begun)
                self._begun = None

    def give_up(self) -> None:
        """Forget the taken frame, which is lost with its worker."""
        with self._changed:
            self._begun = None

    def clear(self) -> int:
        """Drop the waiting frames; returns their number."""
        with self._changed:
            number = len(self._waiting)
            self._waiting.clear()
            self._arrivals.clear()
            self._skipped = 0
        return number

    def _admit(self, frame: Waiting) -> tuple[DropCause, int]:
        """Queue the frame, unless the policy drops it; returns cause and number of the drops."""
        policy = self._settings.load_policy
        if policy == "stride" and not self._its_turn():
            return "stride", 1
        excess = max(0, len(self._waiting) + 1 - self._settings.queue_size)
        if excess and policy == "drop_newest":
            return "drop_newest", 1
        for _ in range(excess):  # more than one where the size was lowered
            self._waiting.popleft()
        self._waiting.append(frame)
        return "drop_oldest", excess

    def _its_turn(self) -> bool:
        """Whether the stride keeps the frame that arrived."""
        load = self._load()
        if load > self._every:
            self._every = math.ceil(load)
        elif load < SLACK * (self._every - 1):
            self._every = max(1, math.ceil(load / SLACK))
        self._skipped += 1
        if self._skipped < self._every:
            return False
        self._skipped = 0
        return True

    def _load(self) -> float:
        """Frames that arrive while one is served; 0 while that is not known."""
        if len(self._turns) < self._pass or len(self._arrivals) < MEASURED:
            return 0.0
        span = self._arrivals[-1] - self._arrivals[0]
        if span <= 0:
            return 0.0
        # Whole passes, because one batch of each bears a window's work; their median, because a
        # single stall says nothing about the load.
        turns = list(self._turns)
        ends = range(len(turns), self._pass - 1, -self._pass)
        turn = median(sum(turns[end - self._pass : end]) for end in ends) / self._pass
        return turn * (len(self._arrivals) - 1) / span

    def _note_arrival(self, now: float) -> None:
        if len(self._arrivals) >= MEASURED:
            usual = (self._arrivals[-1] - self._arrivals[0]) / (len(self._arrivals) - 1)
            if now - self._arrivals[-1] > PAUSE * usual:
                self._arrivals.clear()
        self._arrivals.append(now)

    def _drop_late(self, now: float) -> int:
        """Drop the frames whose results would be late even if they were next; returns their
        number."""
        limit = self._settings.max_latency_ms / 1e3
        if limit <= 0:
            return 0
        # The result comes with the batch that completes a pass, the longest one.
        turn = max(list(self._turns)[-self._pass :], default=0.0)
        number = 0
        while len(self._waiting) > 1 and now + turn - self._waiting[0].arrived > limit:
            self._waiting.popleft()
            number += 1
        return number


def _occurred(drops: Drops) -> Drops:
    return {cause: number for cause, number in drops.items() if number}
