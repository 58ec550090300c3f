"""History of a track: classes, scores, and the id under which it is published."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class TrackHistory:
    """Statistics of the detections of one track."""

    number: int | None = None
    """Id under which it is reported; None until then."""
    _counts: Counter[int] = field(default_factory=Counter)
    _sums: dict[int, float] = field(default_factory=dict)

    def add(self, label: int, score: float) -> None:
        """Add the detection of one frame."""
        self._counts[label] += 1
        self._sums[label] = self._sums.get(label, 0.0) + score

    @property
    def frames(self) -> int:
        """Number of frames in which the track was detected."""
        return sum(self._counts.values())

    @property
    def score(self) -> float:
        """Mean score of its detections so far."""
        return sum(self._sums.values()) / self.frames

    @property
    def label(self) -> int:
        """Most frequent class; ties go to the larger sum of scores."""
        return max(self._counts, key=lambda label: (self._counts[label], self._sums[label]))
