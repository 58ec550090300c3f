"""Links the clusters of successive windows to tracks (Sec. 3.3, "Video clip stitching").

Clusters are matched to tracks by the IoU of their masks over the frames that the windows share.
``reference`` does just that, as the released code. ``corrected`` also asks for a minimum IoU and
equal classes, offers the clusters to tracks that missed a few windows, and fills holes of a frame
from later windows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import linear_sum_assignment

from stemseg_ros.models.stemseg.clustering import cluster_window
from stemseg_ros.models.stemseg.rules import LinkingRules
from stemseg_ros.models.stemseg.settings import Settings, StitchingConfig
from stemseg_ros.models.stemseg.tensors import BACKGROUND, OUTLIER, NetworkOutput, WindowClusters
from stemseg_ros.models.stemseg.tracks import ClusterMasks, MotionModel, Track
from stemseg_ros.models.stemseg.window import real_slots

Int32Array = npt.NDArray[np.int32]
Indices = Sequence[int] | npt.NDArray[np.integer]
"""Stream indices of the frames of a window, ascending."""
Scores = npt.NDArray[np.float64]
NEARLY_NOTHING = float(np.finfo(float).tiny)
"""Least score of a pair that thresholds have not set to 0."""


class Stitcher:
    """Gives the clusters of each window global track ids, window by window."""

    def __init__(self, config: StitchingConfig, mixing: str = "", *, single: bool = False) -> None:
        """mixing: of the embeddings. single: all clusters are one object, whose id is 1."""
        self.update(config)
        self._single = single
        self._timeless = slice(1 if "t" in mixing else 0, None)
        self._grids: dict[int, Int32Array] = {}
        self._next_id = 1
        self.tracks: dict[int, Track] = {}
        """Tracks that can still continue, by id."""

    @classmethod
    def of(cls, config: Settings) -> Stitcher:
        """Create the stitcher for the settings of a model."""
        network = config.network
        return cls(config.stitching, network.mixing, single=network.task == "saliency")

    def update(self, config: StitchingConfig) -> None:
        """Change thresholds between windows."""
        self._config = config
        self._rules = LinkingRules.of(config)

    def grid(self, index: int) -> Int32Array:
        """Labels (h, w) of a frame as far as they are known: > 0 track id, 0 background, -1
        outlier.

        Raises ValueError for a frame that no window contained, or that is forgotten.
        """
        if index not in self._grids:
            raise ValueError(f"no window contains frame {index}")
        return self._grids[index]

    def forget(self, before: int) -> None:
        """Drop frames with smaller indices, and tracks that can no longer be found again."""
        for index in [index for index in self._grids if index < before]:
            del self._grids[index]
        oldest = before - self._config.max_gap
        for track_id in [i for i, track in self.tracks.items() if track.frame < oldest]:
            del self.tracks[track_id]

    def link(self, indices: Indices, clusters: WindowClusters) -> None:
        """Label the new frames of a window; old ones keep their labels (filling: but for holes).

        Raises ValueError if there are not as many indices as frames of labels.
        """
        if len(indices) != len(clusters.labels):
            raise ValueError(
                f"{len(indices)} frame indices, {len(clusters.labels)} frames of labels"
            )
        slots = real_slots(tuple(int(index) for index in indices))
        frames = [int(indices[slot]) for slot in slots]
        padded = len(slots) < len(clusters.labels)  # else spare the copy
        labels = clusters.labels[slots] if padded else clusters.labels
        masks = ClusterMasks.of(labels, len(clusters.centers))
        ids = self._match(masks, frames, clusters)
        self._write(masks, frames, ids)
        last = int(ids.max())
        if self._rules.reuse_numbers:
            # The released code counts on from the highest id that it wrote: the number of a
            # cluster that lies in old frames only is given again, so it must leave no track.
            last = max(int(self._grids[frame].max()) for frame in frames)
        self._remember(masks, frames, np.where(ids > last, 0, ids), clusters)
        self._next_id = max(self._next_id, last + 1)

    def _match(
        self, masks: ClusterMasks, frames: list[int], clusters: WindowClusters
    ) -> Int32Array:
        """Global id of every cluster, at its number (ids[0] is unused)."""
        if self._single:
            return np.minimum(np.arange(1 + masks.clusters, dtype=np.int32), 1)
        ids = np.arange(self._next_id - 1, self._next_id + masks.clusters, dtype=np.int32)
        shared = [slot for slot, frame in enumerate(frames) if frame in self._grids]
        known, overlap = self._overlaps(masks, frames, shared)
        lost, carried = self._carry(masks, frames, set(known.tolist()), clusters)
        every = np.arange(masks.clusters)
        if self._rules.every_pair:
            # Even a pair without any overlap, as long as both masks have a cell in the shared
            # frames.
            here = every[masks.counts[shared].sum(axis=0)[1:] > 0]
            ids = _assign(ids, known, overlap[:, here], here, least=0.0)
            fresh = every[ids[1:] >= self._next_id]
            return _assign(ids, lost, carried[:, fresh], fresh, least=NEARLY_NOTHING)
        overlap = np.where(overlap >= self._config.min_iou, overlap, 0.0)
        overlap = np.where(self._same_class(known, clusters), overlap, 0.0)
        rows, score = np.concatenate((known, lost)), np.concatenate((overlap, carried))
        return _assign(ids, rows, score, every, least=NEARLY_NOTHING)

    def _overlaps(
        self, masks: ClusterMasks, frames: list[int], shared: list[int]
    ) -> tuple[Int32Array, Scores]:
        """Ids written in the shared frames, ascending, and their IoU (R, K) with the clusters
        there."""
        if not shared:
            return np.empty(0, np.int32), np.zeros((0, masks.clusters))
        pairs = [_labelled(self._grids[frames[slot]], masks.labels[slot]) for slot in shared]
        old, new = np.concatenate(pairs, axis=1)
        known, row = np.unique(old, return_inverse=True)
        columns = masks.clusters + 1
        table = np.bincount(row * columns + new, minlength=len(known) * columns).reshape(
            len(known), columns
        )
        first = int(np.searchsorted(known, 1))
        both = table[first:, 1:]
        union = table.sum(1)[first:, None] + table.sum(0)[None, 1:] - both
        return known[first:].astype(np.int32), both / np.maximum(union, 1)

    def _carry(
        self, masks: ClusterMasks, frames: list[int], known: set[int], clusters: WindowClusters
    ) -> tuple[Int32Array, Scores]:
        """Ids of lost tracks, and the IoU (L, K) of their last masks, propagated at constant
        velocity, with the clusters.

        A cluster is compared in its first frame, where the gap is shortest.
        """
        tracks = self.tracks.items() if self._rules.recovery else ()
        lost = [track for track_id, track in tracks if track_id not in known]
        score = np.zeros((len(lost), masks.clusters))
        motion = MotionModel(*masks.labels.shape[1:])
        first = (masks.counts > 0).argmax(axis=0)
        for k in np.flatnonzero(masks.counts.sum(axis=0)[1:]).tolist() if lost else ():
            slot = int(first[k + 1])
            mask, box = masks.cells(slot, k + 1), masks.box(slot, k + 1)
            for row, track in enumerate(lost):
                gap = frames[slot] - track.frame
                if 0 < gap <= self._config.max_gap and self._near(track, k, clusters):
                    score[row, k] = motion.iou(track, frames[slot], mask, box)
        score[score < self._config.recover_iou] = 0.0
        return np.array([track.track_id for track in lost], np.int32), score

    def _same_class(self, rows: Int32Array, clusters: WindowClusters) -> npt.NDArray[np.bool_]:
        """(R, K): whether the classes of track and cluster agree, where they are known."""
        if clusters.class_logits is None:
            return np.ones((len(rows), len(clusters.centers)), bool)
        old = np.array([self.tracks[track_id].class_index for track_id in rows.tolist()]).reshape(
            -1, 1
        )
        agree: npt.NDArray[np.bool_] = np.equal(old, clusters.class_logits[:, 1:].argmax(axis=1))
        return agree

    def _near(self, track: Track, cluster: int, clusters: WindowClusters) -> bool:
        """Whether the embedding centres of a lost track and a cluster (from 0) are close, time
        left out."""
        if track.center is None:
            return True
        offset = clusters.centers[cluster][self._timeless] - track.center[self._timeless]
        return float(np.linalg.norm(offset)) <= self._config.recover_distance

    def _write(self, masks: ClusterMasks, frames: list[int], ids: Int32Array) -> None:
        table = np.concatenate((ids, [OUTLIER])).astype(np.int32)  # label -1 picks the last entry
        table[BACKGROUND] = BACKGROUND
        for slot, frame in enumerate(frames):
            labels = masks.labels[slot]
            if frame not in self._grids:
                self._grids[frame] = table[labels]
            elif self._rules.filling:
                hole = (self._grids[frame] == OUTLIER) & (labels > 0)
                if hole.any():
                    self._grids[frame] = np.where(hole, table[labels], self._grids[frame])

    def _remember(
        self, masks: ClusterMasks, frames: list[int], ids: Int32Array, clusters: WindowClusters
    ) -> None:
        """Update the tracks with the window's clusters; id 0 leaves none."""
        for k in np.flatnonzero((ids > 0) & (masks.counts.sum(axis=0) > 0)).tolist():
            track = self.tracks.setdefault(int(ids[k]), Track(int(ids[k])))
            seen = masks.counts[:, k].nonzero()[0].tolist()
            fresh = [slot for slot in seen if frames[slot] > track.frame]
            for slot in fresh:
                track.path.append((frames[slot], *masks.centroids[:, slot, k].tolist()))
            if fresh:
                track.frame = frames[fresh[-1]]
                track.cells, track.box = masks.cells(fresh[-1], k), masks.box(fresh[-1], k)
            track.heat, track.center = float(clusters.scores[k - 1]), clusters.centers[k - 1]
            if clusters.class_logits is not None:
                track.see_class(clusters.class_logits[k - 1], int(masks.counts[fresh, k].sum()))


def _labelled(written: Int32Array, labels: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
    """(2, P): id and cluster, 0 for none, of the cells of one frame that have either."""
    alive = np.flatnonzero(np.maximum(written, labels) > 0)
    return np.maximum((written.ravel()[alive], labels.ravel()[alive]), 0).astype(np.int64)


def _assign(
    ids: Int32Array, rows: Int32Array, score: Scores, columns: npt.NDArray[np.intp], least: float
) -> Int32Array:
    """Hungarian assignment of rows (track ids) to columns (clusters from 0); below ``least`` they
    stay new."""
    for row, column in np.transpose(linear_sum_assignment(score, maximize=True)).tolist():
        if score[row, column] >= least:
            ids[1 + columns[column]] = rows[row]
    return ids


def link_windows(windows: Sequence[tuple[Indices, npt.ArrayLike]], config: Settings) -> Int32Array:
    """Join window-local clusters to tracks.

    windows: in temporal order, (frame indices, int labels (T, h, w): 0 background, -1 outlier, > 0
    cluster); together they cover the frames 0 .. N - 1. Returns int32 (N, h, w) global ids, 0
    background, -1 outlier. Raises ValueError if frames are missing or labels do not fit them.
    """
    return _link_all(
        ((indices, unscored(np.asarray(labels))) for indices, labels in windows),
        Stitcher(config.stitching),
    )


def track_labels(
    windows: Sequence[tuple[Indices, NetworkOutput]], foreground: npt.ArrayLike, config: Settings
) -> Int32Array:
    """Cluster every window and join the clusters to tracks.

    windows: in temporal order, (frame indices, output); foreground: bool (N, h, w). Returns int32
    (N, h, w): > 0 track id, 0 background, -1 outlier. Raises ValueError if frames are missing.
    """
    mask = torch.as_tensor(foreground).bool()

    def clusters(indices: Indices, output: NetworkOutput) -> WindowClusters:
        inside = mask[[int(index) for index in indices]].to(output.heatmap.device)
        return cluster_window(output, inside, config)

    return _link_all(
        ((indices, clusters(indices, output)) for indices, output in windows),
        Stitcher.of(config),
    )


def _link_all(windows: Iterable[tuple[Indices, WindowClusters]], stitcher: Stitcher) -> Int32Array:
    """Labels of all frames, each taken when no later window contains it any more."""
    done: list[Int32Array] = []
    end = 0
    for indices, clusters in windows:
        first, end = int(indices[0]), max(end, int(indices[-1]) + 1)
        stitcher.link(indices, clusters)
        done += [stitcher.grid(index) for index in range(len(done), first)]
        stitcher.forget(first)
    if not end:
        raise ValueError("no windows to link")
    return np.stack(done + [stitcher.grid(index) for index in range(len(done), end)])


def unscored(labels: npt.NDArray[np.integer]) -> WindowClusters:
    """Wrap labels as clusters without centres, scores and classes."""
    if labels.ndim != 3 or labels.dtype.kind not in "iu":
        raise ValueError(f"expected int labels (T, h, w), got {labels.dtype} {labels.shape}")
    if labels.max(initial=0) > np.iinfo(np.int16).max:  # numbered anew only then: sorting is slow
        names, dense = np.unique(labels, return_inverse=True)
        numbers = np.where(names > BACKGROUND, np.cumsum(names > BACKGROUND), names)
        labels = numbers[dense].reshape(labels.shape)
    count = int(labels.max(initial=0))
    return WindowClusters(
        labels.astype(np.int16, copy=False),
        np.zeros((count, 0), np.float32),
        np.ones(count, np.float32),
    )
