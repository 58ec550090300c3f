"""What a track has been over its life: classes, scores, the id that subscribers know."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class TrackHistory:
    """Detections of one track, summed up."""

    number: int | None = None
    """Id under which it is reported; None before it is reported first."""
    _counts: Counter[int] = field(default_factory=Counter)
    _sums: dict[int, float] = field(default_factory=dict)

    def add(self, label: int, score: float) -> None:
        """Take in the detection of one frame."""
        self._counts[label] += 1
        self._sums[label] = self._sums.get(label, 0.0) + score

    @property
    def frames(self) -> int:
        """Frames in which the track was detected."""
        return sum(self._counts.values())

    @property
    def score(self) -> float:
        """Mean score of its detections so far."""
        return sum(self._sums.values()) / self.frames

    @property
    def label(self) -> int:
        """Most frequent class; at a tie the one with the larger summed score."""
        return max(self._counts, key=lambda label: (self._counts[label], self._sums[label]))
