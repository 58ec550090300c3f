"""Quality on the held-out part of the driving pack: masks by size, semantics, tracking.

Everything is measured on full-size masks as the model reports them; ignored pixels are left out
of both sides first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stemseg_ros.datasets.driving import load_driving
from stemseg_ros.datasets.sequence import (
    IGNORE_LABEL,
    LabelledFrame,
    LabelledSequence,
    class_of,
    is_group,
)
from stemseg_ros.errors import needs_extra
from stemseg_ros.masks import decode
from stemseg_ros.records import Frame, FrameResult
from stemseg_ros.stream import Stream

FOUND_IOU = 0.5
"""IoU from which a mask counts as found."""
FRAME_NS = 60_000_000
"""Time between frames of a clip, nanoseconds; results do not depend on it."""

Labels = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class MaskQuality:
    """Counts of masks of one class from some size on."""

    min_area: int
    """Masks of at least so many pixels of the source image are counted, on either side."""
    truths: int
    found: int
    """True masks that some predicted mask of any size overlaps with IoU >= 0.5."""
    predictions: int
    correct: int
    """Predicted masks that overlap some true mask of any size with IoU >= 0.5."""

    @property
    def recall(self) -> float:
        """Share of true masks that were found; nan without any."""
        return self.found / self.truths if self.truths else float("nan")

    @property
    def precision(self) -> float:
        """Share of predicted masks that are right; nan without any."""
        return self.correct / self.predictions if self.predictions else float("nan")


@dataclass(frozen=True, slots=True)
class SequenceResult:
    """Truth and prediction of one sequence as label images."""

    name: str
    truth: list[Labels]
    """int32 (H, W) per frame: class * 1000 + id, IGNORE_LABEL."""
    predicted: list[Labels]
    """int32 (H, W) per frame: track id, 0 background."""
    predicted_classes: dict[int, int]
    """Class of each predicted id."""


def run_sequence(
    stream: Stream,
    sequence: LabelledSequence,
    progress: Callable[[], None] = lambda: None,
    change: Callable[[LabelledFrame], LabelledFrame] = lambda frame: frame,
) -> SequenceResult:
    """Run a labelled sequence through a stream that starts anew. Raises DataError for a bad
    file.

    change: what is done to each frame and its labels before.
    """
    stream.reset()
    classes = len(stream.config.classes)
    truth: list[Labels] = []
    results: list[FrameResult] = []
    for index in range(len(sequence)):
        frame = change(sequence.read(index, classes))
        truth.append(frame.labels)
        results += stream.push(Frame(frame.image, index * FRAME_NS))
        progress()
    results += stream.flush()
    class_ids = {i.track_id: i.class_id for result in results for i in result.instances}
    return SequenceResult(sequence.name, truth, [_labels(result) for result in results], class_ids)


def mask_quality(
    results: Sequence[SequenceResult], class_id: int, min_area: int, below: float = float("inf")
) -> MaskQuality:
    """How many masks of a class are found and how many predicted ones are right, frame by frame.

    below: masks of so many pixels and more are not counted.
    """
    counts = np.zeros(4, int)
    for result in results:
        for pair in _pairs(result, class_id):
            truths, predictions = (
                (areas >= min_area) & (areas < below) for areas in (pair.true_areas, pair.areas)
            )
            counts += [
                truths.sum(),
                (truths & (pair.iou.max(1, initial=0.0) >= FOUND_IOU)).sum(),
                predictions.sum(),
                (predictions & (pair.iou.max(0, initial=0.0) >= FOUND_IOU)).sum(),
            ]
    return MaskQuality(min_area, *(int(count) for count in counts))


def failures(result: SequenceResult, class_id: int, min_area: int) -> list[tuple[int, int, bool]]:
    """What is wrong in a sequence, as (frame index, pixels, missed): true masks that are missed,
    and predicted ones that are not right, from ``min_area`` pixels on; the largest first."""
    found = []
    for index, pair in enumerate(_pairs(result, class_id)):
        for areas, best, missed in (
            (pair.true_areas, pair.iou.max(1, initial=0.0), True),
            (pair.areas, pair.iou.max(0, initial=0.0), False),
        ):
            wrong = areas[(best < FOUND_IOU) & (areas >= min_area)]
            found += [(index, int(area), missed) for area in wrong]
    return sorted(found, key=lambda failure: -failure[1])


def tracking(result: SequenceResult, class_id: int) -> dict[str, float]:
    """sMOTSA, MOTSA, MOTSP, HOTA, DetA (all 0..1) and IDS of one class, by TrackEval. Raises
    MissingExtraError."""
    with needs_extra("eval"):
        from trackeval.metrics import CLEAR, HOTA
    pairs = _pairs(result, class_id)
    true_ids = _numbering([pair.true_ids for pair in pairs])
    ids = _numbering([pair.ids for pair in pairs])
    data = {
        "num_timesteps": len(pairs),
        "num_gt_ids": len(true_ids),
        "num_tracker_ids": len(ids),
        "num_gt_dets": sum(len(pair.true_ids) for pair in pairs),
        "num_tracker_dets": sum(len(pair.ids) for pair in pairs),
        "gt_ids": [np.array([true_ids[i] for i in pair.true_ids], int) for pair in pairs],
        "tracker_ids": [np.array([ids[i] for i in pair.ids], int) for pair in pairs],
        "similarity_scores": [pair.iou for pair in pairs],
    }
    scores: dict[str, Any] = CLEAR({"PRINT_CONFIG": False}).eval_sequence(data)
    hota: dict[str, Any] = HOTA().eval_sequence(data)
    return {
        "sMOTSA": float(scores["sMOTA"]),
        "MOTSA": float(scores["MOTA"]),
        "MOTSP": float(scores["MOTP"]),
        "IDS": float(scores["IDSW"]),
        "HOTA": float(np.mean(hota["HOTA"])),
        "DetA": float(np.mean(hota["DetA"])),
    }


def ignore_small(result: SequenceResult, min_area: int) -> SequenceResult:
    """The same result with true masks below ``min_area`` pixels turned into ignored pixels."""
    truth = []
    for labels in result.truth:
        ids, areas = np.unique(labels, return_counts=True)
        small = [i for i, area in zip(ids, areas, strict=True) if i and area < min_area]
        truth.append(np.where(np.isin(labels, small), IGNORE_LABEL, labels))
    return replace(result, truth=truth)


def semantic_iou(results: Sequence[SequenceResult], class_id: int) -> float:
    """IoU of the union of all masks of a class, over all pixels of all frames; nan without any."""
    both = either = 0
    for result in results:
        members = [i for i, c in result.predicted_classes.items() if c == class_id]
        for truth, predicted in zip(result.truth, result.predicted, strict=True):
            a = class_of(truth) == class_id
            b = np.isin(predicted, members) & (truth != IGNORE_LABEL)
            both += int((a & b).sum())
            either += int((a | b).sum())
    return both / either if either else float("nan")


def evaluate_development(
    stream: Stream, data: Path, progress: Callable[[], None] = lambda: None
) -> dict[str, float]:
    """All measures of the first class on the held-out clips, by name, in per cent (IDS: a count).

    found_N and precision_N: masks from N pixels on; sMOTSA_large: true masks below 1,000 pixels
    ignored. progress: called after every frame. Raises DataError, MissingExtraError.
    """
    clips, _ = held_out(data)
    return measures([run_sequence(stream, sequence, progress) for sequence in clips])


def measures(results: Sequence[SequenceResult]) -> dict[str, float]:
    """Measure these sequences as evaluate_development does; tracking on the first one."""
    report = {"semantic_iou": 100 * semantic_iou(results, 1)}
    for area in (1000, 300):
        quality = mask_quality(results, 1, area)
        report |= {
            f"found_{area}": 100 * quality.recall,
            f"precision_{area}": 100 * quality.precision,
        }
    for name, result in [("", results[0]), ("_large", ignore_small(results[0], 1000))]:
        scores = tracking(result, 1)
        report |= {
            f"{key}{name}": value * (1 if key == "IDS" else 100) for key, value in scores.items()
        }
    return report


def held_out(data: Path) -> tuple[list[LabelledSequence], list[LabelledSequence]]:
    """The development split: clips, and stills."""
    sequences = load_driving(data, "development")
    return [s for s in sequences if len(s) > 1], [s for s in sequences if len(s) == 1]


@dataclass(frozen=True, slots=True)
class _Pair:
    """Masks of one class in one frame, ignored pixels left out."""

    true_ids: list[int]
    ids: list[int]
    true_areas: npt.NDArray[np.int64]
    areas: npt.NDArray[np.int64]
    iou: npt.NDArray[np.float64]
    """(len(true_ids), len(ids))."""


def _pairs(result: SequenceResult, class_id: int) -> list[_Pair]:
    members = np.array([i for i, c in result.predicted_classes.items() if c == class_id], int)
    return [
        _pair(truth, predicted, class_id, members)
        for truth, predicted in zip(result.truth, result.predicted, strict=True)
    ]


def _pair(truth: Labels, predicted: Labels, class_id: int, members: npt.NDArray[np.int_]) -> _Pair:
    ignored = (truth == IGNORE_LABEL) | is_group(truth)
    wanted = (class_of(truth) == class_id) & ~ignored
    true_ids, true_areas = np.unique(truth[wanted], return_counts=True)
    ids, whole = np.unique(predicted[np.isin(predicted, members)], return_counts=True)
    areas = np.array([np.count_nonzero((predicted == i) & ~ignored) for i in ids], int)
    # As in KITTI-MOTS: a prediction mostly in an ignored region is neither right nor wrong.
    keep = 2 * areas > whole
    ids, areas = ids[keep], areas[keep]
    shared = np.array(
        [[np.count_nonzero((truth == a) & (predicted == b)) for b in ids] for a in true_ids], float
    ).reshape(len(true_ids), len(ids))
    iou = shared / (true_areas[:, None] + areas - shared)
    return _Pair(true_ids.tolist(), ids.tolist(), true_areas, areas, iou)


def _numbering(frames: list[list[int]]) -> dict[int, int]:
    """Ids of all frames to 0, 1, 2, ..."""
    return {i: n for n, i in enumerate(sorted({i for ids in frames for i in ids}))}


def _labels(result: FrameResult) -> Labels:
    image = np.zeros((result.height, result.width), np.int32)
    for instance in result.instances:
        image[decode(instance.rle)] = instance.track_id
    return image
