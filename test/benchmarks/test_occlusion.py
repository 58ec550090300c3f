"""Gaps of the benchmark of bridging, and how they are scored."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from benchmarks.occlusion import (
    MARGIN,
    NEW_IDS,
    Score,
    blind,
    count_gap,
    covered,
    gaps,
    longest_run,
    losing,
)
from stemseg_ros.datasets.sequence import LabelledFrame
from stemseg_ros.masks import Bools
from stemseg_ros.records import FrameResult, Instance

SIZE = (64, 128)
LENGTH = 20
FIRST, SECOND = 1001, 1002


def box(left: int) -> Bools:
    """An object of 1,600 pixels."""
    mask = np.zeros(SIZE, bool)
    mask[10:50, left : left + 40] = True
    return mask


def video(seen: dict[int, range]) -> list[LabelledFrame]:
    """Frames in which each object is there."""
    frames = []
    for t in range(LENGTH):
        labels = np.zeros(SIZE, np.int32)
        for label, left in ((FIRST, 0), (SECOND, 64)):
            if t in seen.get(label, ()):
                labels[box(left)] = label
        frames.append(LabelledFrame(np.zeros((*SIZE, 3), np.uint8), labels))
    return frames


def found(ids: Sequence[tuple[int, ...]]) -> list[FrameResult]:
    """Results in which 1 lies on the first object, 2 on the second, and so on in turn."""
    return [
        FrameResult(
            t,
            t,
            *SIZE,
            0,
            tuple(Instance.from_mask(box(64 * (1 - i % 2)), i, 1, "car") for i in here),
        )
        for t, here in enumerate(ids)
    ]


def ids_of(results: Sequence[FrameResult]) -> list[list[int]]:
    return [[one.track_id for one in result.instances] for result in results]


def test_gaps_lie_in_the_middle_of_what_is_long_enough() -> None:
    seen = {FIRST: range(2, 2 + 4 + 2 * MARGIN), SECOND: range(3 + 2 * MARGIN)}
    assert gaps(video(seen), 4) == {FIRST: range(2 + MARGIN, 6 + MARGIN)}


@pytest.mark.parametrize(
    ("flags", "run"), [("", (0, 0)), ("..", (0, 0)), ("x.xx.x", (2, 4)), (".xxx", (1, 4))]
)
def test_longest_run(flags: str, run: tuple[int, int]) -> None:
    assert longest_run([flag == "x" for flag in flags]) == run


def test_an_interrupted_detector_has_new_ids() -> None:
    results = blind(found([(1, 2)] * 5), range(2, 4))
    assert ids_of(results) == [[1, 2], [1, 2], [], [], [1 + NEW_IDS, 2 + NEW_IDS]]


def test_objects_are_lost_in_their_gaps_under_any_id() -> None:
    scene = video({FIRST: range(LENGTH), SECOND: range(LENGTH)})[:5]
    results = losing(found([(1, 2), (1, 2), (3, 2), (3, 2), (3, 2)]), scene, {FIRST: range(2, 4)})
    assert ids_of(results) == [[1, 2], [1, 2], [2], [2], [3 + NEW_IDS, 2]]


def test_panel_covers_image_and_labels() -> None:
    frame = video({FIRST: range(1), SECOND: range(1)})[0]
    hidden = covered(frame, (64, 10, 40, 40), shift=0.0)
    assert (np.unique(hidden.labels) == [0, FIRST]).all()
    assert hidden.image[box(64)].min() > 0 and not hidden.image[box(0)].any()
    half = covered(frame, (64, 10, 40, 40), shift=0.5)
    assert (half.labels == SECOND).sum() == 0.4 * box(64).sum()  # its left edge sticks out


@pytest.mark.parametrize(
    ("ids", "kept", "found_masks"),
    [
        ([(1,), (), (), (1,)], 1, 0),
        ([(1,), (1,), (1,), (1,)], 1, 2),
        ([(1,), (3,), (), (3,)], 0, 1),
        ([(1,), (), (), (2,)], 0, 0),
        ([(), (), (), ()], 0, 0),
    ],
)
def test_score_of_a_gap(ids: list[tuple[int, ...]], kept: int, found_masks: int) -> None:
    total = Score()
    count_gap(total, [box(0)] * 4, range(1, 3), found(ids))
    assert (total.gaps, total.kept) == (1, kept)
    assert (total.lost_masks, total.found_masks) == (2, found_masks)
