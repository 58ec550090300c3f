"""Jumps of the node's clock, as where a bag that is played with its time begins anew."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rclpy.clock import JumpThreshold
from rclpy.duration import Duration
from rclpy.node import Node

BACKWARD_SECONDS = 0.1
"""Smaller steps back are the doing of two sources of /clock, or of rounding."""


class ClockJumps:
    """Calls ``on_jump`` with the new time in ns when the clock steps back, or far ahead.

    Only a simulated clock (``use_sim_time``) tells of jumps; the system's clock shows in the
    stamps alone. Runs on the executor's thread.
    """

    def __init__(self, node: Node, max_gap: float, on_jump: Callable[[int], None]) -> None:
        """max_gap: a longer step ahead is a jump, in seconds; 0: none is."""
        self._clock = node.get_clock()
        self._log = node.get_logger()
        self._on_jump = on_jump
        threshold = JumpThreshold(
            min_forward=Duration(seconds=max_gap) if max_gap > 0 else None,
            min_backward=Duration(seconds=-BACKWARD_SECONDS),
            on_clock_change=False,
        )
        self._handle = self._clock.create_jump_callback(threshold, post_callback=self._jumped)

    def close(self) -> None:
        """Listen no more."""
        self._handle.unregister()

    def _jumped(self, jump: Any) -> None:
        now, step = self._clock.now().nanoseconds, jump.delta.nanoseconds
        if now - step <= 0:
            return  # the first time that /clock tells
        direction = "back" if step < 0 else "ahead"
        self._log.info(f"the clock jumped {direction} by {abs(step) / 1e9:.3f} s")
        self._on_jump(now)
