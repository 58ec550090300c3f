"""Association of detections with tracks by appearance and box, after QDTrack (Pang et al., CVPR
2021).

Box term, thresholds and removal of duplicates are our reconstruction (docs/parity.md). Computed
with numpy in float64: the arrays are small, and ids are the same on every device.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from stemseg_ros.models.stc.settings import AssociationConfig

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

DROPPED = -1
"""In place of a track id: score below the minimum, or a duplicate."""
NO_TRACK = 0
"""In place of a track id: the detection neither continues a track nor starts one."""


@dataclass(frozen=True, slots=True, eq=False)
class Observations:
    """K detections, as far as association uses them."""

    boxes: Floats
    """(K, 4) x1, y1, x2, y2 in pixels."""
    scores: Floats
    """(K,) in [0, 1]."""
    labels: Integers
    """(K,) class index from 0."""
    embeddings: Floats
    """(K, E); E = 0 if boxes alone decide."""

    def __len__(self) -> int:
        return len(self.scores)

    def take(self, chosen: Integers | npt.NDArray[np.bool_]) -> Observations:
        """Select by index or mask."""
        return Observations(
            self.boxes[chosen], self.scores[chosen], self.labels[chosen], self.embeddings[chosen]
        )

    @classmethod
    def concatenate(cls, parts: list[Observations]) -> Observations:
        """Concatenate in order."""
        return cls(
            np.concatenate([part.boxes for part in parts]),
            np.concatenate([part.scores for part in parts]),
            np.concatenate([part.labels for part in parts]),
            np.concatenate([part.embeddings for part in parts]),
        )


@dataclass(slots=True)
class TrackMemory:
    """Memory of a track."""

    id: int
    last: Observations
    """Newest observation (K = 1)."""
    embedding: Floats
    """(E,) exponential moving average."""
    last_frame: int


@dataclass(frozen=True, slots=True, eq=False)
class Association:
    """Result of associating one frame."""

    ids: Integers
    """(K,) by detection, in the order of the input: track id, NO_TRACK or DROPPED."""
    kept: Integers
    """Indices of the detections that were not dropped, best score first."""
    affinity: Floats
    """(kept, columns) before assignment; columns: tracks in order of creation, then backdrops."""


@dataclass(slots=True)
class Associator:
    """Tracks of one stream; ids count from 1 in order of creation and are never reused."""

    config: AssociationConfig
    tracks: list[TrackMemory] = field(default_factory=list)
    frame: int = 0
    _next_id: int = 1
    _backdrops: deque[Observations] = field(default_factory=deque)

    def update(self, detections: Observations) -> Association:
        """Associate the detections of the next frame."""
        kept = select_detections(detections, self.config)
        observed = detections.take(kept)
        columns = self._columns()
        size = 0 if columns is None else len(columns)
        affinity = np.zeros((len(observed), size))
        if columns is not None and len(observed):
            affinity = compute_affinities(observed, columns, self.config)
        matches = assign_tracks(affinity, len(self.tracks), self.config.match)
        ids = self._store(observed, matches)
        self.frame += 1
        all_ids = np.full(len(detections), DROPPED, np.int64)
        all_ids[kept] = ids
        return Association(all_ids, kept, affinity)

    def _columns(self) -> Observations | None:
        """Return what detections are compared with: tracks, then backdrops; None without a
        track."""
        if not self.tracks:
            return None
        remembered = [replace(t.last, embeddings=t.embedding[None]) for t in self.tracks]
        return Observations.concatenate([*remembered, *self._backdrops])

    def _store(self, observed: Observations, matches: Integers) -> Integers:
        """Update memory and backdrops; returns ids. matches: track index of each detection, or
        -1."""
        ids = np.full(len(observed), NO_TRACK, np.int64)
        for number, track in enumerate(matches):
            one = observed.take(np.array([number]))
            if track >= 0:
                ids[number] = self.tracks[track].id
                self._continue(self.tracks[track], one)
            elif observed.scores[number] > self.config.new_score:
                ids[number] = self._next_id
                self._next_id += 1
                memory = TrackMemory(int(ids[number]), one, one.embeddings[0].copy(), self.frame)
                self.tracks.append(memory)
        self._backdrops.appendleft(
            observed.take(select_backdrops(observed, ids == NO_TRACK, self.config.backdrop_iou))
        )
        while len(self._backdrops) > self.config.backdrop_frames:
            self._backdrops.pop()
        self.tracks = [t for t in self.tracks if self.frame - t.last_frame < self.config.max_age]
        return ids

    def _continue(self, track: TrackMemory, observed: Observations) -> None:
        momentum = self.config.momentum
        track.embedding = (1 - momentum) * track.embedding + momentum * observed.embeddings[0]
        track.last, track.last_frame = observed, self.frame


def select_detections(detections: Observations, config: AssociationConfig) -> Integers:
    """Select detections above the minimum score that are not duplicates of better ones, of
    whichever class; returns indices, best score first."""
    order = np.argsort(-detections.scores, kind="stable")
    order = order[detections.scores[order] >= config.min_score]
    overlaps = box_iou(detections.boxes[order], detections.boxes[order])
    kept: list[int] = []
    for number in range(len(order)):
        if not (overlaps[number, kept] > config.duplicate_iou).any():
            kept.append(number)
    chosen: Integers = order[kept].astype(np.int64)
    return chosen


def compute_affinities(
    observed: Observations, columns: Observations, config: AssociationConfig
) -> Floats:
    """Compute affinities (K, M): the average of the bi-directional softmax over the dot products
    of embeddings, plus the weighted box IoU; 0 across classes. Without embeddings: the box IoU."""
    overlap = box_iou(observed.boxes, columns.boxes)
    if observed.embeddings.shape[1]:
        products = observed.embeddings @ columns.embeddings.T
        appearance = (_softmax(products, 1) + _softmax(products, 0)) / 2
        affinity = appearance + config.iou_weight * overlap
    else:
        affinity = overlap
    if config.class_gate:
        affinity = affinity * (observed.labels[:, None] == columns.labels)
    return affinity


def assign_tracks(affinity: Floats, tracks: int, match: float) -> Integers:
    """Assign each detection the track (column) that it continues, or -1, greedily by score.

    A detection whose best match is a backdrop continues no track.
    """
    free = affinity.copy()
    matches = np.full(len(affinity), -1, np.int64)
    if not affinity.shape[1]:
        return matches
    for number in range(len(free)):
        best = int(free[number].argmax())
        if free[number, best] > match and best < tracks:
            matches[number] = best
            free[:, best] = 0.0
    return matches


def select_backdrops(
    observed: Observations, unmatched: npt.NDArray[np.bool_], limit: float
) -> npt.NDArray[np.bool_]:
    """Select unmatched detections that do not overlap a better detection of the frame."""
    overlaps = np.tril(box_iou(observed.boxes, observed.boxes), -1)
    chosen: npt.NDArray[np.bool_] = unmatched & ~(overlaps > limit).any(1)
    return chosen


def box_iou(first: Floats, second: Floats) -> Floats:
    """Compute the IoU (K, M) of boxes (K, 4) and (M, 4); 0 for empty boxes."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    intersection = (high - low).clip(min=0.0).prod(2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(1) for boxes in (first, second)]
    union = areas[0][:, None] + areas[1][None] - intersection
    iou: Floats = np.divide(intersection, union, out=np.zeros_like(intersection), where=union > 0)
    return iou


def _softmax(products: Floats, axis: int) -> Floats:
    exponentials = np.exp(products - products.max(axis, keepdims=True))
    result: Floats = exponentials / exponentials.sum(axis, keepdims=True)
    return result
