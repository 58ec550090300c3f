"""Measures of BDD100K where its own code and TrackEval differ. The expected numbers are those of
bdd100k 1.0.1 (motmetrics 1.4.0) for the same bitmasks."""

from __future__ import annotations

from dataclasses import replace
from math import nan

import pytest
from mask_strips import row, sequence

pytest.importorskip("trackeval")

from stemseg_ros.evaluation.measures import (
    ALL_CLASSES,
    BDD100K,
    MEAN_CLASSES,
    Measures,
    score_sequence,
    sequence_measures,
)
from stemseg_ros.formats.bdd100k_bitmasks import CLASSES
from stemseg_ros.formats.kitti_lines import ResultRow

CAR, TRUCK = 3, 4


def car(frame: int, track: int, first: int = 0, last: int = 12) -> ResultRow:
    return row(frame, track, first, last, CAR)


def measure(truth: list[ResultRow], result: list[ResultRow]) -> dict[str, Measures]:
    pair = [sequence(rows, 5, classes=CLASSES) for rows in (truth, result)]
    return sequence_measures(BDD100K, score_sequence(BDD100K, *pair))


@pytest.mark.parametrize(
    ("shown", "found", "expected"),
    [
        ((0, 1, 2, 3, 4), (0, 1, 2, 3), {"MT": 1, "ML": 0, "Frag": 0}),
        ((0, 1, 2, 3, 4), (0,), {"MT": 0, "ML": 0, "Frag": 0}),
        ((0, 1, 2, 3, 4), (0, 2, 3, 4), {"MT": 1, "ML": 0, "Frag": 1}),
        ((0, 1, 3, 4), (0, 1, 3, 4), {"MT": 1, "ML": 0, "Frag": 0}),
        ((0, 1, 2, 3, 4), (), {"MT": 0, "ML": 1, "Frag": 0}),
    ],
    ids=["four of five frames", "one of five", "a missed frame", "out of sight", "never"],
)
def test_mostly_tracked_and_fragments(
    shown: tuple[int, ...], found: tuple[int, ...], expected: Measures
) -> None:
    table = measure([car(t, 1) for t in shown], [car(t, 7) for t in found])
    assert {name: table["car"][name] for name in expected} == expected


def test_an_object_keeps_its_result_beyond_a_gap() -> None:
    """Each half of the car has an IoU of 0.5 with it."""
    result = [car(0, 8), car(2, 7, 0, 6), car(2, 8, 6, 12)]
    table = measure([car(t, 1) for t in range(3)], result)
    assert {name: table["car"][name] for name in ("IDS", "FP", "FN")} == {
        "IDS": 0,
        "FP": 1,
        "FN": 1,
    }


def test_every_class_enters_the_mean() -> None:
    """A false truck has no MOTSA, since there is no true one; 7 of 8 classes are 0."""
    truth = [car(t, 1) for t in range(5)]
    table = measure(truth, [*truth, replace(row(0, 9, 20, 30), class_id=TRUCK)])
    assert list(table) == ["car", "truck", ALL_CLASSES, MEAN_CLASSES]
    values = {name: [table[name][m] for m in ("MOTSA", "MOTSP", "IDF1", "FP")] for name in table}
    assert values == {
        "car": [100, 100, 100, 0],
        "truck": pytest.approx([nan, nan, 0, 1], nan_ok=True),
        ALL_CLASSES: pytest.approx([80, 100, 100 * 10 / 11, 1], abs=0.001),
        MEAN_CLASSES: [12.5, 12.5, 12.5, 1],
    }
