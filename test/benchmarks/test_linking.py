"""The linking benchmark itself: its problems have the noise they promise, and its scores the known
ends."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("trackeval", reason="the eval extra is not installed")

from benchmarks.linking import P_ABSENT, make_problem, rows_of, score, true_identities
from stemseg_ros.evaluation.measures import ALL_CLASSES, MOTS, combine
from stemseg_ros.formats.kitti_lines import ResultRow
from stemseg_ros.masks import encode

SIZE = (80, 240)


def cars(frames: int, count: int = 3) -> list[ResultRow]:
    """Squares of 24 px that drift to the right, one row each."""
    rows = []
    for frame in range(frames):
        for n in range(count):
            mask = np.zeros(SIZE, bool)
            mask[26 * n : 26 * n + 24, 4 * frame % 160 : 4 * frame % 160 + 24] = True
            rows.append(ResultRow(frame, 1001 + n, 1, encode(mask)))
    return rows


def test_clean_windows_are_a_renumbered_truth() -> None:
    problem = make_problem(cars(12), 8, 4, "clean", (0,))
    assert [frames.tolist() for frames, _ in problem.windows] == [
        list(range(8)),
        list(range(4, 12)),
    ]
    for (_, labels), names in zip(problem.windows, problem.identities, strict=True):
        assert sorted(names.tolist()) == [0, 1001, 1002, 1003] and labels.min() == 0
    measures = combine(MOTS, {"0": score(true_identities(problem), problem, "0")})
    assert (measures["car"]["IDS"], measures["car"]["IDF1"]) == (0, 100) and measures["car"][
        "HOTA"
    ] > 90, measures


def test_wrong_identities_cost_what_they_should() -> None:
    problem = make_problem(cars(8, count=1), 8, 4, "clean", (0,))
    labels = true_identities(problem)
    labels[4:][labels[4:] > 0] += 1  # a new id in the middle
    measures = combine(MOTS, {"0": score(labels, problem, "0")})
    car = measures.get("car") or measures[ALL_CLASSES]
    assert (car["IDS"], car["IDF1"]) == (1, 50.0)


def test_instances_are_absent_as_often_as_promised_and_show_as_outliers() -> None:
    problem = make_problem(cars(400), 8, 4, "noisy", (3,))
    shown = [np.isin((1001, 1002, 1003), names) for names in problem.identities]
    assert P_ABSENT / 2 < 1 - np.mean(shown) < 2.5 * P_ABSENT  # fused ones are missing, too
    assert any((labels == -1).any() for _, labels in problem.windows)


def test_hidden_tracks_are_hidden_in_the_truth_too() -> None:
    rows = cars(120, count=3)
    counts = [len(make_problem(rows, 8, 4, "occluded", (seed,)).truth) for seed in range(8)]
    missing = [len(rows) - count for count in counts]
    assert 0 < max(missing) <= 36 and all(m == 0 or m >= 6 for m in missing)


def test_same_seed_same_problem() -> None:
    one, two = (make_problem(cars(40), 8, 4, "noisy", (5, 1)) for _ in range(2))
    assert all((a[1] == b[1]).all() for a, b in zip(one.windows, two.windows, strict=True))


def test_rows_are_at_full_resolution() -> None:
    problem = make_problem(cars(8, count=1), 8, 4, "clean", (0,))
    row = rows_of(true_identities(problem), problem)[0]
    assert row.rle["size"] == list(SIZE) and row.class_id == 1
