"""State of linking: the masks of a window's clusters, and the tracks so far."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

HISTORY = 6
"""Frames of a track from which its velocity is estimated."""

LabelGrid = npt.NDArray[np.integer]
Cells = npt.NDArray[np.int64]
"""A mask: flat indices of its cells in the (h, w) grid, ascending."""


@dataclass(slots=True)
class Track:
    """One object over time."""

    track_id: int
    """>= 1, never reused."""
    number: int | None = None
    """Id under which the track is reported; None before."""
    frame: int = -1
    """Index of the last frame with a mask."""
    cells: Cells = field(default_factory=lambda: np.empty(0, np.int64))
    """That mask."""
    box: tuple[int, int, int, int] = (0, 0, 0, 0)
    """Its first and last row and column: y0, y1, x0, x1."""
    path: deque[tuple[int, float, float]] = field(default_factory=lambda: deque(maxlen=HISTORY))
    """(frame, y, x): centroids of the last masks, in cells."""
    age: int = 0
    """Number of published frames that contain it."""
    reported: bool = False
    """Whether its score has been high enough in some frame so far."""
    class_logits: npt.NDArray[np.float64] | None = None
    """(1 + C,) sum over the windows so far of the mean logits of background and classes times the
    cells behind them (Sec. 3.6)."""
    cells_seen: float = 0.0
    """Number of those cells."""
    heat: float = 1.0
    """Heat map value at the centre of the newest cluster, [0, 1]."""
    center: npt.NDArray[np.float32] | None = None
    """(E,) embedding of that centre."""

    @property
    def class_index(self) -> int | None:
        """Index of the most probable class, if classes are known."""
        return None if self.class_logits is None else int(self.class_logits[1:].argmax())

    @property
    def class_probability(self) -> float:
        """Probability of that class, against the other ones and the background; 1 if classes are
        not known."""
        if self.class_logits is None:
            return 1.0
        logits = self.class_logits / max(self.cells_seen, 1)
        weights = np.exp(logits - logits.max())
        return float(weights[1:].max() / weights.sum())

    def motion(self, frame: int) -> tuple[int, int]:
        """Predict the shift (dy, dx) in whole cells from the last mask to ``frame``, at constant
        velocity."""
        (first, y0, x0), (last, y1, x1) = self.path[0], self.path[-1]
        steps = (frame - last) / max(last - first, 1)
        return round((y1 - y0) * steps), round((x1 - x0) * steps)

    def see_class(self, logits: npt.NDArray[np.float32], cells: int) -> None:
        """Add the mean logits (1 + C,) of a number of cells."""
        total = cells * logits.astype(np.float64)
        self.class_logits = total if self.class_logits is None else self.class_logits + total
        self.cells_seen += cells


@dataclass(frozen=True, slots=True, eq=False)
class ClusterMasks:
    """The masks of a window's clusters, sorted by slot and cluster, so that each is one slice."""

    labels: LabelGrid
    """(S, h, w) labels of the S real slots."""
    counts: npt.NDArray[np.int64]
    """(S, K + 1) cells of each cluster in each slot; column 0, the background, is empty."""
    starts: npt.NDArray[np.int64]
    """(S, K + 1) where each mask starts in ``order``."""
    order: Cells
    """Masks of all slots and clusters, one after the other."""
    centroids: npt.NDArray[np.float64]
    """(2, S, K + 1) mean y and x of each mask, in cells; 0 for empty ones."""

    @classmethod
    def of(cls, labels: LabelGrid, clusters: int) -> ClusterMasks:
        """labels: (S, h, w) with clusters 1 .. K."""
        slots, height, width = labels.shape
        flat = np.flatnonzero(labels.ravel() > 0)
        slot, cell = np.divmod(flat, height * width)
        key = slot * (clusters + 1) + labels.ravel()[flat]
        groups = slots * (clusters + 1)
        if groups <= np.iinfo(np.uint16).max:
            key = key.astype(np.uint16)  # 16-bit keys are sorted by radix, several times faster
        counts = np.bincount(key, minlength=groups)
        sums = [
            np.bincount(key, weights=axis, minlength=groups) for axis in np.divmod(cell, width)
        ]
        shape = (slots, clusters + 1)
        return cls(
            labels,
            counts.reshape(shape),
            (np.cumsum(counts) - counts).reshape(shape),
            cell[np.argsort(key, kind="stable")],
            np.stack([(total / np.maximum(counts, 1)).reshape(shape) for total in sums]),
        )

    @property
    def clusters(self) -> int:
        """K, number of clusters."""
        return int(self.counts.shape[1]) - 1

    def cells(self, slot: int, cluster: int) -> Cells:
        """One mask."""
        start = self.starts[slot, cluster]
        return self.order[start : start + self.counts[slot, cluster]]

    def box(self, slot: int, cluster: int) -> tuple[int, int, int, int]:
        """First and last row and column of one mask that is not empty: y0, y1, x0, x1."""
        y, x = np.divmod(self.cells(slot, cluster), self.labels.shape[2])
        return int(y[0]), int(y[-1]), int(x.min()), int(x.max())


class MotionModel:
    """Compares masks of an (h, w) grid with the last masks of tracks, propagated at constant
    velocity."""

    def __init__(self, height: int, width: int) -> None:
        self._size = (height, width)
        self._scratch = np.zeros(height * width, bool)

    def iou(self, track: Track, frame: int, mask: Cells, box: tuple[int, int, int, int]) -> float:
        """Compute the IoU of a mask in ``frame`` with the track's last one, propagated at its
        velocity or left in place."""
        motions = {(0, 0), track.motion(frame)}
        return max(self._shifted_iou(track, motion, mask, box) for motion in motions)

    def _shifted_iou(
        self, track: Track, motion: tuple[int, int], mask: Cells, box: tuple[int, int, int, int]
    ) -> float:
        dy, dx = motion
        y0, y1, x0, x1 = track.box
        if y1 + dy < box[0] or y0 + dy > box[1] or x1 + dx < box[2] or x0 + dx > box[3]:
            return 0.0
        moved = self._shift(track.cells, dy, dx)
        self._scratch[moved] = True
        both = int(np.count_nonzero(self._scratch[mask]))
        self._scratch[moved] = False
        return both / max(len(moved) + len(mask) - both, 1)

    def _shift(self, cells: Cells, dy: int, dx: int) -> Cells:
        """Shift a mask by whole cells; cells outside the grid are dropped."""
        height, width = self._size
        y, x = np.divmod(cells, width)
        y, x = y + dy, x + dx
        inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
        return y[inside] * width + x[inside]
