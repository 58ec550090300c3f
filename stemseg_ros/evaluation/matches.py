"""Mistakes behind the measures: matches frame by frame, id switches, overlap by size.

IoUs, classes and ignored pixels are those of TrackEval's prepared data. A true mask is matched by
the result of IoU 0.5 or more; masks do not overlap, so only at exactly 0.5 could there be two; the
first counts.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from pycocotools import mask as coco_mask

from stemseg_ros.evaluation.measures import MOTS, Raw, class_data
from stemseg_ros.formats.sequence_masks import SequenceMasks

MATCH_IOU = 0.5
"""IoU from which a result counts as found, as in MOTS."""
SIZES = {"small": 0, "medium": 32**2, "large": 96**2}
"""Least area of a true mask in pixels, as COCO has it."""
IOU_BINS = 10


@dataclass(frozen=True, slots=True)
class IdSwitch:
    """A true object that is matched by another track than before."""

    frame: int
    previous_frame: int
    """When it was last matched."""
    truth_id: int
    previous_id: int
    id: int
    class_name: str


@dataclass(slots=True)
class FrameErrors:
    """Mistakes in one frame, all classes together."""

    matched: int = 0
    missed: int = 0
    false: int = 0
    switched: int = 0
    iou: float = 0.0
    """Sum over the matched masks."""

    @property
    def cost(self) -> float:
        """Mistakes plus the overlap that matched masks lack, as sMOTSA counts them."""
        return self.missed + self.false + self.switched + self.matched - self.iou


@dataclass(slots=True)
class MatchDiagnostics:
    """One sequence of one run."""

    frames: dict[int, FrameErrors] = field(default_factory=dict)
    """Frames with any mask."""
    switches: list[IdSwitch] = field(default_factory=list)
    overlaps: dict[str, list[int]] = field(
        default_factory=lambda: {size: [0] * IOU_BINS for size in SIZES}
    )
    """True masks by size and by the IoU of the result that overlaps them most, in tenths."""
    tracks: dict[int, list[tuple[int, int]]] = field(default_factory=dict)
    """(frame, id of the matching result or 0) of each true track."""


def diagnose(truth: SequenceMasks, result: SequenceMasks) -> MatchDiagnostics:
    """Compare results with the ground truth. Raises EvaluationError if they do not fit."""
    report = MatchDiagnostics()
    true_ids, ids = _ids(truth), _ids(result)
    for name, data in class_data(MOTS, truth, result):
        last: dict[int, tuple[int, int]] = {}
        for frame in range(data["num_timesteps"]):
            here = _Frame(
                frame,
                name,
                [true_ids[frame, _counts(mask)] for mask in data["gt_dets"][frame]],
                [ids[frame, _counts(mask)] for mask in data["tracker_dets"][frame]],
                data["similarity_scores"][frame],
            )
            _count(report, here, data)
            _follow(report, here, last)
    return report


@dataclass(frozen=True, slots=True)
class _Frame:
    """One class in one frame."""

    number: int
    class_name: str
    true_ids: list[int]
    ids: list[int]
    iou: np.ndarray[tuple[int, ...], np.dtype[np.float64]]
    """(true masks, results)."""

    def matches(self) -> dict[int, tuple[int, float]]:
        """(index of the result, IoU) by index of the true mask."""
        if not self.ids:
            return {}
        best = self.iou.argmax(axis=1)
        pairs: dict[int, tuple[int, float]] = {}
        for i, j in enumerate(best.tolist()):
            if self.iou[i, j] >= MATCH_IOU - np.finfo(float).eps and j not in {
                k for k, _ in pairs.values()
            }:
                pairs[i] = (j, float(self.iou[i, j]))
        return pairs


def _count(report: MatchDiagnostics, here: _Frame, data: Raw) -> None:
    matches = here.matches()
    if here.true_ids or here.ids:
        errors = report.frames.setdefault(here.number, FrameErrors())
        errors.matched += len(matches)
        errors.missed += len(here.true_ids) - len(matches)
        errors.false += len(here.ids) - len(matches)
        errors.iou += sum(iou for _, iou in matches.values())
    for i, mask in enumerate(data["gt_dets"][here.number]):
        best = float(here.iou[i].max(initial=0.0))
        report.overlaps[size_of(int(coco_mask.area(mask)))][
            min(int(best * IOU_BINS), IOU_BINS - 1)
        ] += 1


def _follow(report: MatchDiagnostics, here: _Frame, last: dict[int, tuple[int, int]]) -> None:
    """Record the result of each true object, and whether it differs from the one before."""
    matches = here.matches()
    for i, truth_id in enumerate(here.true_ids):
        id_ = here.ids[matches[i][0]] if i in matches else 0
        report.tracks.setdefault(truth_id, []).append((here.number, id_))
        if not id_:
            continue
        if truth_id in last and last[truth_id][1] != id_:
            report.switches.append(
                IdSwitch(
                    here.number,
                    *last[truth_id][:1],
                    truth_id,
                    last[truth_id][1],
                    id_,
                    here.class_name,
                )
            )
            report.frames[here.number].switched += 1
        last[truth_id] = (here.number, id_)


def size_of(area: int) -> str:
    """Name of the size class of a mask."""
    return [name for name, least in SIZES.items() if area >= least][-1]


def _ids(sequence: SequenceMasks) -> dict[tuple[int, bytes], int]:
    """Id by frame and run lengths: TrackEval renumbers ids, but passes masks on unchanged."""
    return {(row.frame, row.rle["counts"]): row.id for row in sequence.rows}


def _counts(mask: Raw) -> bytes:
    counts: bytes = mask["counts"]
    return counts
