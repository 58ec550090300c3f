"""Detections of a frame to tracks: appearance and boxes, with a memory (form after QDTrack).

Pang et al., CVPR 2021; box term, thresholds and removal of duplicates are our reconstruction
(docs/parity.md). All in numpy and float64: few numbers, and the same ids on every device.
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
"""Instead of a track id: below the lowest score, or a duplicate."""
NO_TRACK = 0
"""Instead of a track id: neither continues a track nor opens one."""


@dataclass(frozen=True, slots=True, eq=False)
class Observations:
    """What was seen of K objects."""

    boxes: Floats
    """(K, 4) x1, y1, x2, y2 in pixels."""
    scores: Floats
    """(K,) in [0, 1]."""
    labels: Integers
    """(K,) class from 0."""
    embeddings: Floats
    """(K, E); with E = 0 boxes alone decide."""

    def __len__(self) -> int:
        return len(self.scores)

    def take(self, chosen: Integers | npt.NDArray[np.bool_]) -> Observations:
        """Those that an index or a mask chooses."""
        return Observations(
            self.boxes[chosen], self.scores[chosen], self.labels[chosen], self.embeddings[chosen]
        )

    @classmethod
    def concatenate(cls, parts: list[Observations]) -> Observations:
        """All of several, in order."""
        return cls(
            np.concatenate([part.boxes for part in parts]),
            np.concatenate([part.scores for part in parts]),
            np.concatenate([part.labels for part in parts]),
            np.concatenate([part.embeddings for part in parts]),
        )


@dataclass(slots=True)
class TrackMemory:
    """What is kept of a track."""

    id: int
    last: Observations
    """Newest observation (K = 1)."""
    embedding: Floats
    """(E,) moving average."""
    last_frame: int


@dataclass(frozen=True, slots=True, eq=False)
class Association:
    """Outcome of one frame."""

    ids: Integers
    """(K,) for the detections as they were given: track id, NO_TRACK or DROPPED."""
    kept: Integers
    """Detections that took part, best score first."""
    affinity: Floats
    """(kept, columns) before any was taken: tracks in order of creation, then backdrops."""


@dataclass(slots=True)
class Associator:
    """Tracks of one stream; ids count from 1 in order of birth and are never reused."""

    config: AssociationConfig
    tracks: list[TrackMemory] = field(default_factory=list)
    frame: int = 0
    _next_id: int = 1
    _backdrops: deque[Observations] = field(default_factory=deque)

    def update(self, detections: Observations) -> Association:
        """Take in the detections of the next frame."""
        kept = select_detections(detections, self.config)
        seen = detections.take(kept)
        columns = self._columns()
        size = 0 if columns is None else len(columns)
        affinity = np.zeros((len(seen), size))
        if columns is not None and len(seen):
            affinity = affinities(seen, columns, self.config)
        found = assign_tracks(affinity, len(self.tracks), self.config.match)
        ids = self._store(seen, found)
        self.frame += 1
        every = np.full(len(detections), DROPPED, np.int64)
        every[kept] = ids
        return Association(every, kept, affinity)

    def _columns(self) -> Observations | None:
        """What detections are compared with; None without a track."""
        if not self.tracks:
            return None
        remembered = [replace(t.last, embeddings=t.embedding[None]) for t in self.tracks]
        return Observations.concatenate([*remembered, *self._backdrops])

    def _store(self, seen: Observations, found: Integers) -> Integers:
        """Update memory and backdrops; ``found`` has the track of each detection or -1."""
        ids = np.full(len(seen), NO_TRACK, np.int64)
        for number, track in enumerate(found):
            one = seen.take(np.array([number]))
            if track >= 0:
                ids[number] = self.tracks[track].id
                self._continue(self.tracks[track], one)
            elif seen.scores[number] > self.config.new_score:
                ids[number] = self._next_id
                self._next_id += 1
                memory = TrackMemory(int(ids[number]), one, one.embeddings[0].copy(), self.frame)
                self.tracks.append(memory)
        self._backdrops.appendleft(
            seen.take(select_backdrops(seen, ids == NO_TRACK, self.config.backdrop_iou))
        )
        while len(self._backdrops) > self.config.backdrop_frames:
            self._backdrops.pop()
        self.tracks = [t for t in self.tracks if self.frame - t.last_frame < self.config.max_age]
        return ids

    def _continue(self, track: TrackMemory, seen: Observations) -> None:
        share = self.config.momentum
        track.embedding = (1 - share) * track.embedding + share * seen.embeddings[0]
        track.last, track.last_frame = seen, self.frame


def select_detections(detections: Observations, config: AssociationConfig) -> Integers:
    """Indices, best score first, of detections that are good enough and no duplicates of better
    ones, whatever their class."""
    order = np.argsort(-detections.scores, kind="stable")
    order = order[detections.scores[order] >= config.min_score]
    overlaps = box_iou(detections.boxes[order], detections.boxes[order])
    kept: list[int] = []
    for number in range(len(order)):
        if not (overlaps[number, kept] > config.duplicate_iou).any():
            kept.append(number)
    chosen: Integers = order[kept].astype(np.int64)
    return chosen


def affinities(seen: Observations, columns: Observations, config: AssociationConfig) -> Floats:
    """(K, M): bi-directional softmax of the embeddings' products, averaged, plus the weighted box
    IoU; 0 across classes. Without embeddings the plain IoU."""
    overlap = box_iou(seen.boxes, columns.boxes)
    if seen.embeddings.shape[1]:
        products = seen.embeddings @ columns.embeddings.T
        appearance = (_softmax(products, 1) + _softmax(products, 0)) / 2
        affinity = appearance + config.iou_weight * overlap
    else:
        affinity = overlap
    if config.class_gate:
        affinity = affinity * (seen.labels[:, None] == columns.labels)
    return affinity


def assign_tracks(affinity: Floats, tracks: int, match: float) -> Integers:
    """The track (column) that each detection continues, or -1; better detections choose first.

    A detection that is most like a backdrop continues nothing.
    """
    free = affinity.copy()
    found = np.full(len(affinity), -1, np.int64)
    if not affinity.shape[1]:
        return found
    for number in range(len(free)):
        best = int(free[number].argmax())
        if free[number, best] > match and best < tracks:
            found[number] = best
            free[:, best] = 0.0
    return found


def select_backdrops(
    seen: Observations, homeless: npt.NDArray[np.bool_], limit: float
) -> npt.NDArray[np.bool_]:
    """Detections without a track that overlap no better detection of the frame."""
    overlaps = np.tril(box_iou(seen.boxes, seen.boxes), -1)
    clear: npt.NDArray[np.bool_] = homeless & ~(overlaps > limit).any(1)
    return clear


def box_iou(first: Floats, second: Floats) -> Floats:
    """(K, 4), (M, 4) -> (K, M); 0 for empty boxes."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = (high - low).clip(min=0.0).prod(2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(1) for boxes in (first, second)]
    union = areas[0][:, None] + areas[1][None] - shared
    ratio: Floats = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return ratio


def _softmax(products: Floats, axis: int) -> Floats:
    powers = np.exp(products - products.max(axis, keepdims=True))
    result: Floats = powers / powers.sum(axis, keepdims=True)
    return result
