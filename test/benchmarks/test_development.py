"""Held-out measures on hand-made label images."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.development import (
    SequenceResult,
    failures,
    ignore_small,
    mask_quality,
    semantic_iou,
    tracking,
)
from stemseg_ros.datasets.sequence import IGNORE_LABEL

SHAPE = (20, 40)


def image(**boxes: tuple[int, int, int, int]) -> np.ndarray:
    """Boxes (top, bottom, left, right) by label, as in image(_1001=(0, 10, 0, 10))."""
    labels = np.zeros(SHAPE, np.int32)
    for label, (top, bottom, left, right) in boxes.items():
        labels[top:bottom, left:right] = int(label.removeprefix("_"))
    return labels


def result(truth: list[np.ndarray], predicted: list[np.ndarray]) -> SequenceResult:
    ids = {int(i) for labels in predicted for i in np.unique(labels) if i}
    return SequenceResult("hand-made", truth, predicted, dict.fromkeys(ids, 1))


LEFT, RIGHT, SMALL = (0, 10, 0, 10), (0, 10, 20, 30), (15, 17, 35, 37)


@pytest.mark.parametrize(
    ("truth", "predicted", "expected", "why"),
    [
        ({"_1001": LEFT}, {"_7": LEFT}, (1, 1, 1, 1), "a perfect mask"),
        ({"_1001": LEFT}, {"_7": (0, 10, 0, 6)}, (1, 1, 1, 1), "IoU 0.6 is found"),
        (
            {"_1001": LEFT},
            {"_7": (0, 10, 0, 4)},
            (1, 0, 0, 0),
            "IoU 0.4 is not, and 40 px are below the size",
        ),
        ({"_1001": LEFT}, {"_7": RIGHT}, (1, 0, 1, 0), "nothing in common"),
        (
            {"_1001": LEFT, "_1002": SMALL},
            {"_7": LEFT},
            (1, 1, 1, 1),
            "a small truth is not asked for",
        ),
        ({"_2001": LEFT}, {"_7": LEFT}, (0, 0, 1, 0), "another class"),
        (
            {"_10000": RIGHT, "_1001": LEFT},
            {"_7": LEFT, "_8": RIGHT},
            (1, 1, 1, 1),
            "one mask is ignored",
        ),
        (
            {"_10000": (0, 10, 5, 10), "_1001": (0, 10, 0, 5)},
            {"_7": (0, 10, 0, 9)},
            (1, 1, 1, 1),
            "ignored pixels do not lower the IoU",
        ),
    ],
)
def test_masks_from_fifty_pixels(
    truth: dict[str, tuple[int, int, int, int]],
    predicted: dict[str, tuple[int, int, int, int]],
    expected: tuple[int, int, int, int],
    why: str,
) -> None:
    quality = mask_quality(
        [result([image(**truth)], [image(**predicted)])], class_id=1, min_area=50
    )
    assert (quality.truths, quality.found, quality.predictions, quality.correct) == expected, why


def test_semantic_iou_ignores_identities_and_ignored_pixels() -> None:
    truth = image(_1001=LEFT, _1002=RIGHT, _10000=(10, 20, 0, 40))
    predicted = image(_1=(0, 20, 0, 10))  # one of two boxes, and much of the ignored part
    assert semantic_iou([result([truth], [predicted])], 1) == pytest.approx(0.5)


def test_an_identity_switch_counts_once() -> None:
    pytest.importorskip("trackeval")
    truth = [image(_1001=LEFT, _1002=RIGHT)] * 4
    steady, swapped = image(_1=LEFT, _2=RIGHT), image(_1=LEFT, _3=RIGHT)
    scores = tracking(result(truth, [steady, steady, swapped, swapped]), 1)
    assert scores["IDS"] == 1
    assert scores["MOTSP"] == pytest.approx(1.0)
    assert scores["sMOTSA"] == pytest.approx(1 - 1 / 8)  # eight true masks, one switch


def test_small_truth_can_be_ignored() -> None:
    pytest.importorskip("trackeval")
    whole = result([image(_1001=LEFT, _1002=SMALL)], [image(_1=LEFT, _2=(15, 17, 35, 36))])
    cut = ignore_small(whole, 50)
    assert (cut.truth[0] == IGNORE_LABEL).sum() == 4
    assert tracking(whole, 1)["sMOTSA"] < 1
    assert tracking(cut, 1)["sMOTSA"] == pytest.approx(1.0)


def test_masks_are_counted_by_size() -> None:
    large, small = {"_1001": LEFT}, {"_1002": SMALL}
    found = [result([image(**large, **small)], [image(_7=LEFT)])]
    bins = [mask_quality(found, 1, low, below) for low, below in ((0, 5), (5, 100), (100, 101))]
    assert [(q.truths, q.found, q.predictions) for q in bins] == [(1, 0, 0), (0, 0, 0), (1, 1, 1)]


def test_failures_are_listed_by_frame_and_kind_the_largest_first() -> None:
    truth = [image(_1001=LEFT), image(_1001=LEFT, _1002=SMALL)]
    predicted = [image(_7=LEFT, _8=RIGHT), image(_7=(0, 10, 0, 4))]
    found = failures(result(truth, predicted), 1, min_area=5)
    assert sorted(found) == [(0, 100, False), (1, 40, False), (1, 100, True)]
    assert [area for _, area, _ in found] == [100, 100, 40]
