"""Identities for masks that were found frame by frame: two baselines of the paper (supplement III)
and the association of STC, all on the same masks, none of which is dropped.

OF-Tracker: masks are warped to the next frame by optical flow and assigned by overlap.
RI-Tracker: masks are assigned by the Euclidean distance of re-identification vectors. Both papers'
settings are unknown; ours are in docs/parity.md.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

import cv2
import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from stemseg_ros.evaluation.inputs import Images
from stemseg_ros.evaluation.lost_frames import LostFrames
from stemseg_ros.formats.kitti_lines import IDS_PER_CLASS, ResultRow
from stemseg_ros.formats.sequence_masks import EvaluationError, SequenceMasks
from stemseg_ros.masks import decode
from stemseg_ros.media.damage import Damage
from stemseg_ros.media.sources import numbered_frames
from stemseg_ros.models.stc.association import Associator, Observations
from stemseg_ros.models.stc.settings import AssociationConfig
from stemseg_ros.records import Image

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]

MAX_AGE = 10
"""A track is forgotten this number of frames after its last mask; that of STC."""
MIN_OVERLAP = 0.2
"""Least IoU of a mask with a warped one that it continues."""
MAX_DISTANCE = 1.0
"""Largest distance of unit vectors of one object: 60 degrees."""


@dataclass(frozen=True, slots=True, eq=False)
class FrameMasks:
    """The K masks of one frame."""

    image: Image
    masks: Bools
    """(K, H, W)."""
    labels: npt.NDArray[np.int64]
    """(K,) class ids."""
    scores: Floats
    """(K,)."""


Embedder = Callable[[FrameMasks], Floats]
"""The appearance (K, E) of the masks of a frame."""


class Linker(Protocol):
    """Identities over the frames of one sequence."""

    def link(self, frame: FrameMasks) -> list[int]:
        """The track of each mask of the next frame, from 1."""
        ...


@dataclass(slots=True)
class _Track:
    id: int
    label: int
    seen: npt.NDArray[Any]
    """What the next masks are compared with: its mask in the newest frame, or its vector."""
    age: int = 0
    """Frames since its last mask."""


class _Tracks(list[_Track]):
    """The tracks that are not forgotten."""

    born = 0

    def go_on(
        self, seen: Iterable[npt.NDArray[Any]], labels: npt.NDArray[np.int64], found: list[int]
    ) -> list[int]:
        """The ids of the masks of a frame, each the continuation of track ``found``, or a new one
        at -1."""
        for track in self:
            track.age += 1
        ids = []
        for what, label, index in zip(seen, labels, found, strict=True):
            if index < 0:
                self.born += 1
                self.append(_Track(self.born, int(label), what))
            track = self[index]
            track.seen, track.age = what, 0
            ids.append(track.id)
        self[:] = [track for track in self if track.age < MAX_AGE]
        return ids


class FlowLinker:
    """OF-Tracker with the DIS flow of OpenCV (Kroeger et al., ECCV 2016)."""

    def __init__(self) -> None:
        self._flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        self._tracks = _Tracks()
        self._grey: npt.NDArray[np.uint8] | None = None

    def link(self, frame: FrameMasks) -> list[int]:
        """See ``Linker``."""
        grey = np.asarray(cv2.cvtColor(frame.image, cv2.COLOR_BGR2GRAY), np.uint8)
        if self._grey is not None:
            still = np.zeros((*grey.shape, 2), np.float32)
            back = np.asarray(self._flow.calc(grey, self._grey, still), np.float32)
            for track in self._tracks:
                track.seen = warp_mask(track.seen, back)
        self._grey = grey
        overlap = np.array(
            [
                [mask_iou(m, t.seen) * (label == t.label) for t in self._tracks]
                for m, label in zip(frame.masks, frame.labels, strict=True)
            ]
        ).reshape(len(frame.masks), len(self._tracks))
        found = assign(-overlap, overlap >= MIN_OVERLAP)
        return self._tracks.go_on(frame.masks, frame.labels, found)


class AppearanceLinker:
    """RI-Tracker: the newest vector of a track stands for it."""

    def __init__(self, embed: Embedder) -> None:
        self._embed = embed
        self._tracks = _Tracks()

    def link(self, frame: FrameMasks) -> list[int]:
        """See ``Linker``."""
        vectors = self._embed(frame)
        vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True).clip(min=1e-12)
        known = np.array([t.seen for t in self._tracks]).reshape(-1, vectors.shape[1])
        distance = np.linalg.norm(vectors[:, None] - known[None], axis=2)
        same = frame.labels[:, None] == np.array([t.label for t in self._tracks], np.int64)
        found = assign(distance, same & (distance <= MAX_DISTANCE))
        return self._tracks.go_on(vectors, frame.labels, found)


class AssociationLinker:
    """STC's association, with thresholds that drop no mask."""

    def __init__(self, embed: Embedder, config: AssociationConfig) -> None:
        self._embed = embed
        keep_all = {"min_score": 0.0, "new_score": 0.0, "duplicate_iou": 1.0}
        self._associator = Associator(config.model_copy(update=keep_all))

    def link(self, frame: FrameMasks) -> list[int]:
        """See ``Linker``."""
        boxes = np.array([mask_corners(mask) for mask in frame.masks], np.float64).reshape(-1, 4)
        scores = frame.scores.clip(min=1e-6)  # a new track needs more than 0
        seen = Observations(boxes, scores, frame.labels, self._embed(frame))
        return [int(i) for i in self._associator.update(seen).ids]


def relink(
    sequence: SequenceMasks, images: Images, linker: Linker
) -> tuple[SequenceMasks, LostFrames]:
    """Give masks the ids of a linker; returns them with the frames that cannot be read, whose
    masks are left out. The score of a track is the mean of those of its masks. Raises
    EvaluationError, MediaError."""
    damage = Damage()
    numbers: dict[tuple[int, int], int] = {}
    counts: Counter[int] = Counter()
    scores: dict[int, list[float]] = defaultdict(list)
    rows = []
    for frame, found in _frames(sequence, images, damage):
        for row, track in zip(found, linker.link(frame), strict=True):
            key = row.class_id, track
            if key not in numbers:
                counts[row.class_id] += 1
                numbers[key] = row.class_id * IDS_PER_CLASS + counts[row.class_id]
            rows.append(replace(row, id=numbers[key]))
            scores[numbers[key]].append(sequence.scores.get(row.id, 1.0))
    if counts and max(counts.values()) >= IDS_PER_CLASS:
        raise EvaluationError(
            f"sequence {sequence.name}: a linker made {max(counts.values())} tracks of a class; "
            f"results hold at most {IDS_PER_CLASS - 1}"
        )
    means = {id_: float(np.mean(values)) for id_, values in scores.items()}
    return replace(sequence, rows=tuple(rows), scores=means), images.lost(damage)


def _frames(
    sequence: SequenceMasks, images: Images, damage: Damage
) -> Iterator[tuple[FrameMasks, list[ResultRow]]]:
    """Yield frames in order, also those without masks; appends what cannot be read to
    ``damage``."""
    by_frame = sequence.by_frame()
    with images.open() as source:
        read = 0
        for position, _, image in numbered_frames(source):
            number = images.frame(position)
            if not 0 <= number < len(by_frame):
                continue
            rows = by_frame[number]
            if rows and tuple(rows[0].rle["size"]) != image.shape[:2]:
                raise EvaluationError(
                    f"sequence {sequence.name}, frame {number}: masks of another size than the "
                    f"image ({image.shape[1]}x{image.shape[0]} pixels)"
                )
            masks = np.array([decode(row.rle) for row in rows], np.bool_)
            labels = np.array([row.class_id for row in rows], np.int64)
            scores = np.array([sequence.scores.get(row.id, 1.0) for row in rows], np.float64)
            shape = (len(rows), *image.shape[:2])
            yield FrameMasks(image, masks.reshape(shape), labels, scores), rows
            read = number + 1
        damage.skipped += source.damage.skipped
        damage.losses += source.damage.losses
    if any(by_frame[read:]) and not damage:
        raise EvaluationError(
            f"sequence {sequence.name}: {read} images in {images.path}, but masks of "
            f"{len(by_frame)} frames"
        )


def warp_mask(mask: Bools, back: npt.NDArray[np.float32]) -> Bools:
    """A mask (H, W) moved to the frame whose pixels came from where ``back`` (H, W, 2) points."""
    rows, columns = np.indices(mask.shape, dtype=np.float32)
    moved = cv2.remap(
        mask.astype(np.float32),
        columns + back[..., 0],
        rows + back[..., 1],
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=0,
    )
    return np.asarray(moved > 0.5)


def mask_iou(first: Bools, second: Bools) -> float:
    """Compute the IoU of two masks; 0 if both are empty."""
    either = np.count_nonzero(first | second)
    return np.count_nonzero(first & second) / either if either else 0.0


def mask_corners(mask: Bools) -> tuple[int, int, int, int]:
    """x1, y1, x2, y2 around the pixels of a mask; zeros if it is empty."""
    x, y, width, height = cv2.boundingRect(mask.astype(np.uint8))
    return x, y, x + width, y + height


def assign(cost: Floats, allowed: Bools) -> list[int]:
    """The column of each row (K, M), or -1: as many allowed pairs as possible, of the least total
    cost."""
    found = [-1] * len(cost)
    if cost.size:
        refused = 1e3 * (1.0 + np.abs(cost).max())
        rows, columns = linear_sum_assignment(np.where(allowed, cost, refused))
        for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
            if allowed[row, column]:
                found[row] = column
    return found
