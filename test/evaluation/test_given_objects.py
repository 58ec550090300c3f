"""The measures of YouTube-VOS against values computed by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
from mask_strips import row, sequence

pytest.importorskip("trackeval")

from stemseg_ros.evaluation.measures import (
    ALL_CLASSES,
    DAVIS_SEMI,
    MEAN_CLASSES,
    YOUTUBE_VOS,
    Measures,
    combine,
    score_sequence,
)
from stemseg_ros.formats.kitti_lines import ResultRow
from stemseg_ros.formats.sequence_masks import EvaluationError, GivenObject, SequenceMasks

FRAMES = range(10)
ALL = tuple(FRAMES)
TRACTOR = GivenObject("tractor", ALL)


def strip(frame: int, number: int, first: int = 0, last: int = 10) -> ResultRow:
    return replace(row(frame, number, first, last), id=number)


def truth_of(*rows: ResultRow, **objects: GivenObject) -> SequenceMasks:
    """objects: by "o" and their number."""
    given = {int(name[1:]): one for name, one in objects.items()}
    return replace(sequence(rows), given=given)


def measures(*pairs: tuple[SequenceMasks, SequenceMasks]) -> dict[str, Measures]:
    scores = {str(n): score_sequence(YOUTUBE_VOS, *pair) for n, pair in enumerate(pairs)}
    return combine(YOUTUBE_VOS, scores)


def test_objects_of_seen_and_unseen_categories_count_apart() -> None:
    """Of two persons one is found in 6 of the 9 frames behind its mask, the other never; the
    tractor, which begins at frame 4, in 4 of 5. The score is the mean of the four numbers."""
    truth = truth_of(
        *(strip(t, 1, 0, 10) for t in FRAMES),
        *(strip(t, 2, 20, 30) for t in FRAMES),
        *(strip(t, 3, 40, 50) for t in range(4, 10)),
        o1=GivenObject("person", ALL),
        o2=GivenObject("person", ALL),
        o3=GivenObject("tractor", tuple(range(4, 10))),
    )
    result = sequence(
        [
            *(strip(t, 1, 0, 10) for t in range(7)),
            strip(0, 2, 20, 30),
            *(strip(t, 3, 40, 50) for t in range(4, 9)),
        ]
    )
    found = measures((truth, result))
    seen, unseen = 100 * (6 / 9 + 0) / 2, 100 * 4 / 5
    for group, value in (("seen", seen), ("unseen", unseen)):
        assert found[group]["J-Mean"] == pytest.approx(value, abs=1e-3)
        assert found[group]["F-Mean"] == pytest.approx(value, abs=1e-3)
    assert found[MEAN_CLASSES]["J&F"] == pytest.approx((seen + unseen) / 2, abs=1e-3)
    assert found[ALL_CLASSES]["J&F"] == pytest.approx((2 * seen + unseen) / 3, abs=1e-3)


@pytest.mark.parametrize(
    ("listed", "expected"),
    [
        (ALL, 4 / 9),
        (tuple(range(5)), 4 / 4),
        (tuple(range(0, 10, 3)), 1 / 3),
        ((0, 9), 0),
    ],
)
def test_the_frames_that_are_listed_for_an_object_count(
    listed: tuple[int, ...], expected: float
) -> None:
    truth = truth_of(*(strip(t, 1) for t in FRAMES), o1=GivenObject("tractor", listed))
    found = measures((truth, sequence([strip(t, 1) for t in range(5)])))
    assert list(found) == ["unseen"]
    assert found["unseen"]["J-Mean"] == pytest.approx(100 * expected, abs=1e-3)


def test_no_mask_is_right_where_the_object_is_hidden() -> None:
    """It is there in frames 0 to 3; a mask in frames 3 and 4 is right once of nine."""
    truth = truth_of(*(strip(t, 1) for t in range(4)), o1=TRACTOR)
    found = measures((truth, sequence([strip(t, 1) for t in (3, 4)])))
    assert found["unseen"]["J&F"] == pytest.approx(100 * (1 + 5) / 9, abs=1e-3)
    gone = truth_of(strip(0, 1), o1=TRACTOR)
    found = measures((gone, sequence([strip(0, 1), strip(4, 1)])))
    assert found["unseen"]["J&F"] == pytest.approx(100 * 8 / 9, abs=1e-3)


def test_what_is_not_listed_behind_its_first_mask_does_not_count() -> None:
    late = truth_of(strip(9, 1), o1=TRACTOR)
    never = truth_of(o1=TRACTOR)
    whole = truth_of(*(strip(t, 1) for t in FRAMES), o1=GivenObject("person", ALL))
    wrong = sequence([strip(t, 1, 30, 40) for t in FRAMES])
    assert measures((late, wrong), (never, wrong)) == {}
    found = measures((late, wrong), (whole, sequence(whole.rows)))
    assert list(found) == ["seen"] and found["seen"]["J&F"] == 100


def test_davis_takes_three_frames() -> None:
    short = sequence([strip(0, 1), strip(1, 1)], 2)
    with pytest.raises(EvaluationError, match="2 frames; DAVIS 2017 leaves out the first and the"):
        score_sequence(DAVIS_SEMI, short, short)
