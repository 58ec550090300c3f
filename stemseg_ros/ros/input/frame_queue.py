"""The frames of one camera that wait for the worker, and which of them give way under load."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

from stemseg_ros.ros.settings import NodeConfig

MEASURED = 8
"""Fewest arrivals that the load is measured over."""
PAUSE = 5.0
"""A frame that comes after so many of the usual intervals ends a pause: the rate is measured
anew."""
SLACK = 0.9
"""The load has to fall this far below a smaller stride before that is taken, so that it does not
swing."""
DROPS = ("drop_oldest", "drop_newest", "stride", "late")
"""Causes for which a waiting frame is dropped."""


@dataclass(frozen=True, slots=True, eq=False)
class Waiting:
    """A message that waits; undecoded, so that nothing is spent on frames that are dropped."""

    message: Any
    arrived: float
    """Monotonic time in seconds."""


class FrameQueue:
    """Holds at most ``queue_size`` frames between the callback and the worker.

    The callback puts, the worker takes one frame at a time in order of arrival, and says when it
    is done with it. Who gives way under load is the policy's matter:

    - drop_oldest: a frame that finds the queue full pushes out the oldest.
    - drop_newest: a frame that finds the queue full is dropped itself.
    - stride: every n-th frame is kept, n being the smallest that the worker keeps up with. (Until
      that is measured, and after a stall, a full queue drops its oldest frame.)

    With ``max_latency_ms`` a frame is dropped as well when it has waited so long that even the
    next turn could only answer it late. The newest frame is never dropped for that, so that a
    bound below the time of one window costs the stream its rate, not its life.

    Frames are dropped here alone, before they reach a window: windows always consist of frames
    that were processed one after the other, and no policy makes tracking start anew.
    """

    def __init__(
        self,
        settings: NodeConfig,
        stride: int,
        on_drop: Callable[[str, int], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """stride: frames per window pass; times are taken over whole passes, because the frame
        that completes a window takes longest. on_drop gets one of DROPS and a number, on the
        thread that put or took."""
        self._settings = settings
        self._on_drop = on_drop
        self._clock = clock
        self._lock = threading.Lock()
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
        """When the frame arrived that waits longest; none: no frame waits."""
        with self._lock:
            return self._waiting[0].arrived if self._waiting else None

    @property
    def every(self) -> int:
        """n: under the policy stride, every n-th frame is kept."""
        return self._every if self._settings.load_policy == "stride" else 1

    def update(self, settings: NodeConfig) -> None:
        """Take over changed settings."""
        with self._lock:
            if settings.load_policy != self._settings.load_policy:
                self._every, self._skipped = 1, 0
            self._settings = settings

    def put(self, frame: Waiting) -> None:
        """Add a frame; drops what has to give way for it."""
        with self._lock:
            self._note_arrival(frame.arrived)
            late = self._drop_late(frame.arrived)
            cause, number = self._admit(frame)
        self._tell("late", late)
        self._tell(cause, number)

    def take(self) -> Waiting | None:
        """The frame whose turn it is; none: no frame waits. Drops what could only be late."""
        with self._lock:
            now = self._clock()
            late = self._drop_late(now)
            frame = self._waiting.popleft() if self._waiting else None
            self._begun = now if frame is not None else None
        self._tell("late", late)
        return frame

    def done(self) -> None:
        """The worker is through with the frame it took."""
        with self._lock:
            if self._begun is not None:
                self._turns.append(self._clock() - self._begun)
                self._begun = None

    def clear(self) -> int:
        """Forget the frames that wait; how many they were."""
        with self._lock:
            number = len(self._waiting)
            self._waiting.clear()
            self._arrivals.clear()
            self._skipped = 0
        return number

    def _tell(self, cause: str, number: int) -> None:
        if number:
            self._on_drop(cause, number)

    def _admit(self, frame: Waiting) -> tuple[str, int]:
        """Let the frame wait, where the policy does not drop it; cause and number of the drops."""
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
        # Whole passes, because a window's work lies in one turn of each; their median, because a
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
        """Drop the frames that even the next turn would answer late; how many."""
        limit = self._settings.max_latency_ms / 1e3
        if limit <= 0:
            return 0
        # The answer comes with the turn that completes a window, the longest of a pass.
        turn = max(list(self._turns)[-self._pass :], default=0.0)
        number = 0
        while len(self._waiting) > 1 and now + turn - self._waiting[0].arrived > limit:
            self._waiting.popleft()
            number += 1
        return number
