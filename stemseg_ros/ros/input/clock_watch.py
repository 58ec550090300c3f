"""Watches the node's clock: jumps, as when a bag played with its own time starts over, and a
missing /clock."""

from __future__ import annotations

import time
from collections.abc import Callable

from rclpy.clock import JumpThreshold, TimeJump
from rclpy.duration import Duration
from rclpy.node import Node

BACKWARD_SECONDS = 0.1
"""Smaller steps back are due to two sources of /clock, or to rounding."""
MISSING_SECONDS = 5.0
"""Seconds without /clock after which a simulated clock is reported as missing."""


class ClockWatch:
    """Calls ``on_jump`` with the new time in ns when the clock steps back, or far ahead, and warns
    if the node waits for a simulated clock that nobody publishes.

    Only a simulated clock (``use_sim_time``) reports jumps; the system's clock shows in the stamps
    alone. Lives on the executor's thread.
    """

    def __init__(self, node: Node, max_gap: float, on_jump: Callable[[int], None]) -> None:
        """max_gap: a longer step ahead is a jump, in seconds; 0: none is."""
        self._clock = node.get_clock()
        self._log = node.get_logger()
        self._on_jump = on_jump
        self._begun = time.monotonic()
        threshold = JumpThreshold(
            min_forward=Duration(seconds=max_gap) if max_gap > 0 else None,
            min_backward=Duration(seconds=-BACKWARD_SECONDS),
            on_clock_change=False,
        )
        self._handle = self._clock.create_jump_callback(threshold, post_callback=self._jumped)

    def close(self) -> None:
        """Stop watching."""
        self._handle.unregister()

    def poll(self) -> None:
        """Warn once if no time has arrived; to be called regularly."""
        # Only a simulated clock stands at 0, until the first message on /clock.
        missing = self._clock.now().nanoseconds == 0
        if missing and time.monotonic() - self._begun >= MISSING_SECONDS:
            self._log.warning(
                "use_sim_time is set, but nothing comes on /clock: play the bag with --clock, or "
                "start the node with use_sim_time:=false",
                once=True,
            )

    def _jumped(self, jump: TimeJump) -> None:
        now, step = self._clock.now().nanoseconds, jump.delta.nanoseconds
        if now - step <= 0:
            return  # the first time on /clock
        direction = "back" if step < 0 else "ahead"
        self._log.info(f"the clock jumped {direction} by {abs(step) / 1e9:.3f} s")
        self._on_jump(now)
