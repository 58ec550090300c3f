"""TrackEval's measures where they differ from the benchmarks' own code, put right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask
from scipy.optimize import linear_sum_assignment

from stemseg_ros.errors import needs_extra
from stemseg_ros.formats.sequence_masks import SequenceMasks
from stemseg_ros.masks import encode
from stemseg_ros.records import Rle

with needs_extra("eval"):
    from trackeval import datasets, metrics

EPSILON = np.finfo(float).eps


class DavisDataset(datasets.DAVIS):  # type: ignore[misc]  # TrackEval is untyped
    """Also counts the objects without a mask, whose values are below the largest one:
    davis2017-evaluation takes an empty mask of a result for right where there is nothing in the
    truth. TrackEval does not know them."""

    def __init__(
        self, config: dict[str, Any], truth: SequenceMasks, result: SequenceMasks
    ) -> None:
        super().__init__(config)
        self._empty = {"gt": _without_mask(truth), "tracker": _without_mask(result)}
        self._mask = encode(np.zeros(truth.size, bool))

    def get_preprocessed_seq_data(self, raw: dict[str, Any], cls: str) -> dict[str, Any]:
        """See TrackEval."""
        data: dict[str, Any] = super().get_preprocessed_seq_data(raw, cls)
        for kind, number in self._empty.items():
            ids = data[f"num_{kind}_ids"] + np.arange(number)
            data[f"{kind}_ids"][0] = np.append(data[f"{kind}_ids"][0], ids).astype(int)
            data[f"{kind}_dets"][0] = [*data[f"{kind}_dets"][0], *[self._mask] * number]
            data[f"num_{kind}_ids"] += number
        return data


def _without_mask(sequence: SequenceMasks) -> int:
    return max(0, sequence.objects - len({row.id for row in sequence.rows}))


class DavisJAndF(metrics.JAndF):  # type: ignore[misc]  # TrackEval is untyped
    """Assigns results to objects by (J + F) / 2, as davis2017-evaluation does; TrackEval: by J
    alone."""

    def __init__(self) -> None:
        super().__init__()
        self.optim_type = "J&F"

    def eval_sequence(self, data: dict[str, Any]) -> dict[str, Any]:
        """See TrackEval, which fails where there is no object."""
        if not data["num_gt_ids"]:
            return {**dict.fromkeys(self.float_fields, 0.0), "num_gt_tracks": 0}
        measured: dict[str, Any] = super().eval_sequence(data)
        return measured

    def combine_classes_class_averaged(
        self, all_res: dict[str, dict[str, Any]], ignore_empty_classes: bool = False
    ) -> dict[str, Any]:
        """See TrackEval, which counts a class without objects as 0."""
        filled = {
            n: r for n, r in all_res.items() if r["num_gt_tracks"] or not ignore_empty_classes
        }
        measured: dict[str, Any] = super().combine_classes_class_averaged(filled)
        return measured

    def combine_classes_det_averaged(self, all_res: dict[str, dict[str, Any]]) -> dict[str, Any]:
        """The mean over objects; TrackEval: over classes."""
        measured: dict[str, Any] = self.combine_sequences(all_res)
        return measured


def without_ignored(truth: SequenceMasks, result: SequenceMasks) -> SequenceMasks:
    """Results without those that BDD100K does not count: no true object of the class claims them
    (IoU of 0.5 or more), and one ignored object alone covers more than half of them. KITTI-MOTS,
    whose rules TrackEval applies, takes all ignored pixels together."""
    objects, rows = truth.by_frame(), []
    for row in result.rows:
        ignored = truth.ignored_apart.get(row.frame, ())
        here = objects[row.frame] if row.frame < truth.frames else []
        own = [other.rle for other in here if other.class_id == row.class_id]
        if not _largest(row.rle, ignored, alone=True) > 0.5 or _largest(row.rle, own) >= 0.5:
            rows.append(row)
    return replace(result, rows=tuple(rows))


def _largest(mask: Rle, others: Sequence[Rle], *, alone: bool = False) -> float:
    """Largest IoU of a mask with others; alone: largest share of the mask that one covers."""
    if not others:
        return 0.0
    return float(coco_mask.iou([mask], list(others), [int(alone)] * len(others)).max())


class Bdd100kClear(metrics.CLEAR):  # type: ignore[misc]  # TrackEval is untyped
    """Counts as BDD100K's own code does. An object keeps the result that it matched last, however
    long ago that was (TrackEval: in the frame before); one that is found in 80 % of its frames is
    mostly tracked (TrackEval: in more); a gap is one of the matches alone, also where a frame has
    no result at all, not where the object is out of sight. Without true masks there is no MOTSA,
    and without matches no MOTSP: NaN, and 0 in the mean of classes, which all classes enter."""

    def eval_sequence(self, data: dict[str, Any]) -> dict[str, Any]:
        """See TrackEval."""
        matched = _lasting_matches(data, self.threshold - EPSILON)
        found = _found(data, matched)
        res: dict[str, Any] = super().eval_sequence({**data, "similarity_scores": matched})
        shares = np.array([np.mean(frames) for frames in found])
        res["MT"] = int(np.sum(shares >= 0.8))
        res["ML"] = int(np.sum(shares < 0.2))
        res["PT"] = len(found) - res["MT"] - res["ML"]
        res["Frag"] = sum(map(_gaps, found))
        return self._compute_final_fields(res)

    @staticmethod
    def _compute_final_fields(res: dict[str, Any]) -> dict[str, Any]:
        res = metrics.CLEAR._compute_final_fields(res)
        if not res["CLR_TP"] + res["CLR_FN"]:
            res["MOTA"] = res["sMOTA"] = np.nan
        if not res["CLR_TP"]:
            res["MOTP"] = np.nan
        return res

    def combine_classes_class_averaged(
        self, all_res: dict[str, dict[str, Any]], ignore_empty_classes: bool = False
    ) -> dict[str, Any]:
        """See TrackEval."""
        classes = {
            name: {field: np.nan_to_num(value) for field, value in res.items()}
            for name, res in all_res.items()
        }
        mean: dict[str, Any] = super().combine_classes_class_averaged(
            classes, ignore_empty_classes
        )
        return mean


def _lasting_matches(data: dict[str, Any], threshold: float) -> list[npt.NDArray[np.float64]]:
    """IoUs of the matches of each frame (true masks, results); 0 elsewhere."""
    last: dict[int, int] = {}
    frames = []
    for ids, results, iou in zip(
        data["gt_ids"], data["tracker_ids"], data["similarity_scores"], strict=True
    ):
        before = np.array([last.get(id_, -1) for id_ in ids])
        score = np.where(iou >= threshold, iou + 1000 * (before[:, None] == results[None]), 0)
        matches = np.zeros(iou.shape)
        for i, j in zip(*linear_sum_assignment(score, maximize=True), strict=True):
            if score[i, j]:
                matches[i, j] = iou[i, j]
                last[ids[i]] = results[j]
        frames.append(matches)
    return frames


def _found(data: dict[str, Any], matched: list[npt.NDArray[np.float64]]) -> list[list[bool]]:
    """Whether each object was found, in every frame that shows it."""
    found: dict[int, list[bool]] = {}
    for ids, matches in zip(data["gt_ids"], matched, strict=True):
        for id_, row in zip(ids, matches, strict=True):
            found.setdefault(id_, []).append(bool(row.any()))
    return list(found.values())


def _gaps(found: list[bool]) -> int:
    """Number of gaps between the first and the last match."""
    starts = sum(now and not before for before, now in pairwise([False, *found]))
    return max(starts - 1, 0)


class YouTubeVisMAP(metrics.TrackMAP):  # type: ignore[misc]  # TrackEval is untyped
    """Lets any number of results match one crowd object, as the cocoapi of YouTube-VIS does;
    TrackEval counts all but the first as false."""

    def eval_sequence(self, data: dict[str, Any]) -> dict[Any, Any]:
        """See TrackEval: beside other things the matches by number of the range of sizes."""
        found: dict[Any, Any] = super().eval_sequence(data)
        crowds = np.flatnonzero(data["gt_track_iscrowd"])
        if not len(crowds) or not data["dt_tracks"]:
            return found
        ious = self._compute_track_ious(
            data["dt_tracks"], [data["gt_tracks"][i] for i in crowds], iou_function="mask"
        )
        best = np.asarray(ious).max(axis=1)
        thresholds = np.minimum(self.array_labels, 1 - 1e-10)[:, None]
        for matches in (found[number] for number in range(self.num_ig_masks)):
            left = (matches["dt_matches"] == -1) & (best >= thresholds - EPSILON)
            matches["dt_ignore"] = matches["dt_ignore"] | left
        return found
