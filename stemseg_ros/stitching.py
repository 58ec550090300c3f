"""Joining the clusters of successive windows to tracks (Sec. 3.3, "Video clip stitching").

Clusters are matched to tracks by the IoU of their masks over the frames that the windows share. ``reference``
does just that, as the released code. ``corrected`` also asks for a minimum IoU and equal classes, finds tracks
again that missed a few windows, and fills holes of a frame from later windows while it is still at hand.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import linear_sum_assignment

from stemseg_ros.clustering import cluster_window
from stemseg_ros.config import Config, StitchingConfig
from stemseg_ros.records import BACKGROUND, OUTLIER, NetworkOutput, WindowClusters
from stemseg_ros.window import real_slots

HISTORY = 6
"""Frames of a track from which its velocity is estimated."""

Labels = npt.NDArray[np.integer]
Grid = npt.NDArray[np.int32]


@dataclass(slots=True)
class Track:
    """One object over time."""

    track_id: int
    """>= 1, never reused."""
    frame: int = -1
    """Index of the last frame with a mask."""
    pixels: npt.NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    """Flat grid indices of that mask."""
    path: deque[tuple[int, float, float]] = field(default_factory=lambda: deque(maxlen=HISTORY))
    """(frame, y, x): centroids of the last masks, in cells."""
    age: int = 0
    """Number of frames that came out with it."""
    class_logits: npt.NDArray[np.float64] | None = None
    """(C,) sum over the windows so far of the mean class logits times the pixels behind them (Sec. 3.6)."""
    pixels_seen: float = 0.0
    """Number of those pixels, cells of all frames."""
    heat: float = 1.0
    """Heat of the centre of the newest cluster, [0, 1]."""
    center: npt.NDArray[np.float32] | None = None
    """(E,) embedding of that centre."""

    @property
    def class_index(self) -> int | None:
        """Index of the most probable class, if classes are known."""
        return None if self.class_logits is None else int(self.class_logits.argmax())

    def motion(self, frame: int) -> tuple[int, int]:
        """Whole cells (dy, dx) from the last mask to ``frame`` at constant velocity."""
        (first, y0, x0), (last, y1, x1) = self.path[0], self.path[-1]
        steps = (frame - last) / max(last - first, 1)
        return round((y1 - y0) * steps), round((x1 - x0) * steps)


class Stitcher:
    """Gives the clusters of each window global track ids, window by window."""

    def __init__(self, config: StitchingConfig, mixing: str = "") -> None:
        self._config = config
        self._corrected = config.variant == "corrected"
        self._timeless = slice(1 if "t" in mixing else 0, None)
        self._grids: dict[int, Grid] = {}
        self._next_id = 1
        self.tracks: dict[int, Track] = {}
        """Tracks that can still go on, by id."""

    def update(self, config: StitchingConfig) -> None:
        """Change thresholds between windows."""
        self._config = config
        self._corrected = config.variant == "corrected"

    def grid(self, index: int) -> Grid:
        """Labels (h, w) of a frame as far as they are known: > 0 track id, 0 background, -1 outlier."""
        return self._grids[index]

    def forget(self, before: int) -> None:
        """Drop frames with smaller indices, and tracks that are lost for good."""
        for index in [index for index in self._grids if index < before]:
            del self._grids[index]
        # Reference tracks are no more than the ids in the grids; they need no memory of their own.
        gap = self._config.max_gap
        for track_id in [i for i, track in self.tracks.items() if track.frame < before - gap]:
            del self.tracks[track_id]

    def link(self, indices: Sequence[int], clusters: WindowClusters) -> None:
        """Label the new frames of a window; its old ones keep their labels (corrected: but for holes)."""
        slots = real_slots(tuple(int(index) for index in indices))
        frames = [int(indices[slot]) for slot in slots]
        cells = _Cells.of(np.asarray(clusters.labels)[slots], len(clusters.centers))
        shared = [slot for slot, frame in enumerate(frames) if frame in self._grids]
        ids = self._match(cells, frames, shared, clusters)
        self._write(cells, frames, ids)
        self._next_id = max(self._next_id, 1 + max((int(self._grids[f].max()) for f in frames), default=0))
        self._remember(cells, frames, ids, clusters)

    def _match(self, cells: _Cells, frames: list[int], shared: list[int], clusters: WindowClusters) -> Grid:
        """Global id of every cluster, at its number (ids[0] is unused)."""
        ids = np.arange(self._next_id - 1, self._next_id + cells.clusters, dtype=np.int32)
        known, iou = self._overlaps(cells, frames, shared)
        here = np.flatnonzero(cells.counts[shared].sum(axis=0)[1:])  # clusters with a mask in a shared frame
        if self._corrected:
            iou = np.where(self._compatible(known, clusters), iou, 0.0)
        rows, columns = linear_sum_assignment(iou[:, here], maximize=True)
        columns = here[columns]
        # The released code accepts every pair of the assignment, even one without any overlap.
        least = max(self._config.min_iou, 1e-9) if self._corrected else 0.0
        for row, column in zip(rows, columns, strict=True):
            if iou[row, column] >= least:
                ids[1 + column] = known[row]
        if self._corrected:
            self._recover(cells, frames, ids, clusters)
        return ids

    def _overlaps(self, cells: _Cells, frames: list[int], shared: list[int]) -> tuple[Grid, npt.NDArray[np.float64]]:
        """Ids written in the shared frames, ascending, and their IoU (R, K) with the clusters there."""
        if not shared:
            return np.empty(0, np.int32), np.zeros((0, cells.clusters))
        written = np.stack([self._grids[frames[slot]] for slot in shared])
        labels = cells.labels[shared]
        alive: npt.NDArray[np.bool_] = np.greater(np.maximum(written, labels), 0)
        old, new = np.maximum(written[alive], 0), np.maximum(labels[alive], 0).astype(np.int64)
        known, row = np.unique(old, return_inverse=True)
        columns = cells.clusters + 1
        table = np.bincount(row * columns + new, minlength=len(known) * columns).reshape(len(known), columns)
        first = int(np.searchsorted(known, 1))
        both = table[first:, 1:]
        union = table.sum(1)[first:, None] + table.sum(0)[None, 1:] - both
        return known[first:].astype(np.int32), both / np.maximum(union, 1)

    def _compatible(self, known: Grid, clusters: WindowClusters) -> npt.NDArray[np.bool_]:
        """(R, K): whether class of track and cluster agree, as far as they are known."""
        if clusters.class_logits is None:
            return np.ones((len(known), len(clusters.centers)), bool)
        old = np.array([self.tracks[i].class_index for i in known.tolist()])
        agree: npt.NDArray[np.bool_] = np.equal(old[:, None], clusters.class_logits.argmax(1)[None])
        return agree

    def _recover(self, cells: _Cells, frames: list[int], ids: Grid, clusters: WindowClusters) -> None:
        """Give unmatched clusters the ids of lost tracks whose last mask, carried along, they cover."""
        matched = set(ids[1:].tolist())
        fresh = [k for k in range(1, cells.clusters + 1) if ids[k] >= self._next_id and cells.counts[:, k].any()]
        lost = [track for i, track in self.tracks.items() if i not in matched]
        score = np.zeros((len(lost), len(fresh)))
        for column, k in enumerate(fresh):
            slot = int(cells.counts[:, k].nonzero()[0][0])
            for row, track in enumerate(lost):
                gap = frames[slot] - track.frame
                if 0 < gap <= self._config.max_gap and self._same_kind(track, k, clusters):
                    score[row, column] = cells.carried_iou(track, frames[slot], slot, k)
        for row, column in zip(*linear_sum_assignment(score, maximize=True), strict=True):
            if score[row, column] >= self._config.recover_iou > 0:
                ids[fresh[column]] = lost[row].track_id

    def _same_kind(self, track: Track, cluster: int, clusters: WindowClusters) -> bool:
        """Whether class and embedding allow that a cluster is a lost track."""
        if clusters.class_logits is not None and track.class_index is not None and (
                track.class_index != int(clusters.class_logits[cluster - 1].argmax())):
            return False
        if track.center is None:
            return True
        offset = clusters.centers[cluster - 1][self._timeless] - track.center[self._timeless]
        return float(np.linalg.norm(offset)) <= self._config.recover_distance

    def _write(self, cells: _Cells, frames: list[int], ids: Grid) -> None:
        table = np.concatenate((ids, [OUTLIER])).astype(np.int32)  # label -1 picks the last entry
        table[BACKGROUND] = BACKGROUND
        for slot, frame in enumerate(frames):
            labels = cells.labels[slot]
            if frame not in self._grids:
                self._grids[frame] = table[labels]
            elif self._corrected:
                hole = (self._grids[frame] == OUTLIER) & (labels > 0)
                self._grids[frame] = np.where(hole, table[labels], self._grids[frame])

    def _remember(self, cells: _Cells, frames: list[int], ids: Grid, clusters: WindowClusters) -> None:
        """Bring the tracks up to date with the window's clusters."""
        for k in range(1, cells.clusters + 1):
            slots = cells.counts[:, k].nonzero()[0]
            if not len(slots):
                continue
            track = self.tracks.setdefault(int(ids[k]), Track(int(ids[k])))
            fresh = [int(slot) for slot in slots if frames[slot] > track.frame]
            for slot in fresh:
                track.path.append((frames[slot], *cells.centroid(slot, k)))
            if fresh:
                track.frame, track.pixels = frames[fresh[-1]], cells.pixels(fresh[-1], k)
            track.heat, track.center = float(clusters.scores[k - 1]), clusters.centers[k - 1]
            if clusters.class_logits is not None:
                weight = float(sum(cells.counts[slot, k] for slot in fresh))
                total = weight * clusters.class_logits[k - 1].astype(np.float64)
                track.class_logits = total if track.class_logits is None else track.class_logits + total
                track.pixels_seen += weight


@dataclass(frozen=True, slots=True, eq=False)
class _Cells:
    """The labelled cells of a window, sorted by slot and cluster, so that each mask is one slice."""

    labels: Labels
    """(S, h, w), padding slots left out."""
    counts: npt.NDArray[np.int64]
    """(S, K + 1) cells of each cluster in each slot; column 0 unused."""
    order: npt.NDArray[np.int64]
    """Flat grid indices (within a slot) of all labelled cells, sorted by slot, then cluster."""
    starts: npt.NDArray[np.int64]
    """(S, K + 1) where each mask starts in ``order``."""

    @classmethod
    def of(cls, labels: Labels, clusters: int) -> _Cells:
        slots, height, width = labels.shape
        flat = np.flatnonzero(labels.ravel() > 0)
        slot, cell = np.divmod(flat, height * width)
        key = slot * (clusters + 1) + labels.ravel()[flat]
        if slots * (clusters + 1) <= np.iinfo(np.uint16).max:
            key = key.astype(np.uint16)  # 16-bit keys are sorted by radix, several times faster
        counts = np.bincount(key, minlength=slots * (clusters + 1))
        starts = np.cumsum(counts) - counts
        shape = (slots, clusters + 1)
        return cls(labels, counts.reshape(shape), cell[np.argsort(key, kind="stable")], starts.reshape(shape))

    @property
    def clusters(self) -> int:
        """K, number of clusters."""
        return int(self.counts.shape[1]) - 1

    def pixels(self, slot: int, cluster: int) -> npt.NDArray[np.int64]:
        """Flat grid indices of one mask, ascending."""
        start = self.starts[slot, cluster]
        return self.order[start : start + self.counts[slot, cluster]]

    def centroid(self, slot: int, cluster: int) -> tuple[float, float]:
        """Mean (y, x) of one mask, in cells."""
        y, x = np.divmod(self.pixels(slot, cluster), self.labels.shape[2])
        return float(y.mean()), float(x.mean())

    def carried_iou(self, track: Track, frame: int, slot: int, cluster: int) -> float:
        """IoU of a mask with a track's last one, moved on at the track's velocity or left where it was."""
        mask = self.pixels(slot, cluster)
        y, x = np.divmod(track.pixels, self.labels.shape[2])
        best = 0.0
        for dy, dx in {(0, 0), track.motion(frame)}:
            moved_y, moved_x = y + dy, x + dx
            inside = (moved_y >= 0) & (moved_y < self.labels.shape[1]) & (moved_x >= 0) & (
                moved_x < self.labels.shape[2])
            moved = moved_y[inside] * self.labels.shape[2] + moved_x[inside]
            both = len(np.intersect1d(moved, mask, assume_unique=True))
            best = max(best, both / max(len(moved) + len(mask) - both, 1))
        return best


def link_windows(windows: Sequence[tuple[Sequence[int], npt.ArrayLike]], config: Config) -> Grid:
    """Join window-local clusters to tracks.

    windows: in temporal order, (frame indices, int labels (T, h, w): 0 background, -1 outlier, > 0 cluster);
    together they cover the frames 0 .. N - 1. Returns int32 (N, h, w) global ids, 0 background, -1 outlier.
    """
    stitcher = Stitcher(config.stitching)
    frames = 0
    for indices, labels in windows:
        volume = np.asarray(labels)
        count = max(int(volume.max(initial=0)), 0)
        stitcher.link(indices, WindowClusters(
            volume, np.zeros((count, 0), np.float32), np.ones(count, np.float32)))
        frames = max(frames, 1 + max(int(index) for index in indices))
    return np.stack([stitcher.grid(index) for index in range(frames)])


def track_labels(
    windows: Sequence[tuple[Sequence[int], NetworkOutput]], foreground: npt.ArrayLike, config: Config
) -> Grid:
    """Cluster every window and join the clusters to tracks.

    windows: in temporal order, (frame indices, output); foreground: bool (N, h, w). Returns int32 (N, h, w):
    > 0 track id, 0 background, -1 outlier.
    """
    mask = torch.as_tensor(np.asarray(foreground), dtype=torch.bool)
    stitcher = Stitcher(config.stitching, config.network.mixing)
    for indices, output in windows:
        slots = [int(index) for index in indices]
        clusters = cluster_window(output, mask[slots].to(output.heatmap.device), config)
        stitcher.link(slots, clusters)
    return np.stack([stitcher.grid(index) for index in range(len(mask))])
