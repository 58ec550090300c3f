"""Cutting a stream of frames into windows of T (Sec. 3.3)."""

from __future__ import annotations

from collections import deque

from stemseg_ros.models.stemseg.settings import WindowConfig
from stemseg_ros.models.stemseg.tensors import Features, Window


class WindowBuffer:
    """Collects the features of frames and says when a window is complete.

    It holds the last T frames and nothing else. Frames must come with successive indices.
    """

    def __init__(self, config: WindowConfig) -> None:
        self._length = config.length
        self._stride = config.stride
        self._pad_start = config.mode == "online"
        self._frames: deque[tuple[int, Features]] = deque(maxlen=config.length)
        self._emitted = -1  # index of the last frame that came out
        self._next_end = 0 if self._pad_start else config.length - 1

    def push(self, index: int, features: Features) -> Window | None:
        """Add a frame; the window that it completes, if any."""
        self._frames.append((index, features))
        return self._window() if index >= self._next_end else None

    def flush(self) -> Window | None:
        """A window aligned with the newest frame, if frames are pending; the stream may go on
        afterwards."""
        pending = self._frames and self._frames[-1][0] > self._emitted
        return self._window() if pending else None

    def _window(self) -> Window:
        first = self._frames[0]
        padding = self._length - len(self._frames)
        slots = [first] * padding + list(self._frames)
        newest = slots[-1][0]
        self._emitted = newest
        # After a flush of a short stream the next window still waits for T real frames.
        self._next_end = newest + self._stride
        if not self._pad_start:
            self._next_end = max(self._next_end, self._length - 1)
        return Window(tuple(index for index, _ in slots), tuple(frame for _, frame in slots))


def real_slots(indices: tuple[int, ...]) -> list[int]:
    """Slots of a window that are no padding: the last one of each index."""
    return [
        slot
        for slot, index in enumerate(indices)
        if slot + 1 == len(indices) or indices[slot + 1] != index
    ]
