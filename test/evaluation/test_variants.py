"""What is done to results before they are scored."""

from __future__ import annotations

from dataclasses import replace

import pytest
from mask_strips import row, sequence, strip, two_cars

from stemseg_ros.evaluation.variants import (
    STORED,
    LinkingVariant,
    largest_tracks,
    match_classes,
    post_filtered,
    prepare,
)
from stemseg_ros.formats.sequence_masks import EvaluationError


@pytest.mark.parametrize(
    ("classes", "open_classes", "expected"),
    [
        ({1: "pedestrian", 2: "car"}, False, {1: "car", 2: "pedestrian"}),
        ({1: "car", 3: "truck"}, False, {1: "car", 2: "pedestrian"}),
        ({1: "car", 3: "truck"}, True, {1: "car", 2: "pedestrian", 3: "truck"}),
    ],
)
def test_classes_are_matched_by_name(
    classes: dict[int, str], open_classes: bool, expected: dict[int, str]
) -> None:
    result = sequence([row(0, 1, 0, 5, class_id) for class_id in classes], 1, classes=classes)
    truth, matched = match_classes(two_cars(1), result, open_classes=open_classes)
    assert truth.classes == matched.classes == expected
    known = [name for name in classes.values() if name in expected.values()]
    assert [expected[r.class_id] for r in matched.rows] == known


def test_no_common_class() -> None:
    result = sequence([row(0, 1, 0, 5)], 1, classes={1: "duck"})
    with pytest.raises(
        EvaluationError, match="results, duck, and of the ground truth, car/pedestrian"
    ):
        match_classes(two_cars(1), result, open_classes=False)


def test_davis_keeps_the_largest_objects() -> None:
    rows = [row(t, n, 2 * n, 2 * n + 2) for t in range(2) for n in range(25)]
    many = sequence([*rows, row(2, 3, 0, 40)], 3)
    kept = largest_tracks(many, 20)
    assert len(kept.by_track()) == 20 and 1003 in kept.by_track()
    _, result = prepare(
        LinkingVariant("offline"), "davis", sequence([], 3, classes={1: "object"}), many
    )
    assert len(result.by_track()) == 20 and set(result.classes.values()) == {"object"}
    _, stored = prepare(
        LinkingVariant(STORED), "davis", sequence([], 3, classes={1: "object"}), many
    )
    assert stored.by_track().keys() == many.by_track().keys()


def test_scores_by_pixels() -> None:
    result = sequence([row(t, n, 20 * n, 20 * n + 5 * n) for t in range(2) for n in (1, 2)], 2)
    variant = LinkingVariant("offline", pixel_scores=True)
    assert variant.name == "offline + scores by pixels"
    assert prepare(variant, "youtube_vis", two_cars(2), result)[1].scores == {1001: 0.5, 1002: 1.0}


def test_scores_by_pixels_of_empty_masks() -> None:
    variant = LinkingVariant(STORED, pixel_scores=True)
    for rows, scores in (([], {}), ([row(0, 1, 0, 0)], {1001: 0.0})):
        result = prepare(variant, "youtube_vis", two_cars(2), sequence(rows, 2))[1]
        assert result.scores == scores


def test_post_filter_drops_small_masks_and_short_tracks() -> None:
    """Cars need 150 px and 3 frames: columns of 20 px, so 8 are enough and 7 are not."""
    rows = [
        row(t, n, first, last) for t in range(3) for n, first, last in ((1, 0, 8), (2, 10, 17))
    ]
    rows += [row(t, 3, 20, 30) for t in range(2)]
    assert {r.id for r in post_filtered(sequence(rows, 3)).rows} == {1001}


@pytest.mark.parametrize(
    ("ignored", "kept"),
    [
        ([(10, 16)], False),  # 6 of 10 columns
        ([(10, 15)], True),  # half is not more than half
        ([(10, 14), (14, 18)], True),  # 8 of 10, but no object covers more than 4
        ([], True),
    ],
)
def test_bdd100k_leaves_out_what_one_ignored_object_covers(
    ignored: list[tuple[int, int]], kept: bool
) -> None:
    apart = {0: tuple(strip(*columns) for columns in ignored)}
    truth = replace(sequence([row(0, 1, 30, 40)], 1), ignored_apart=apart)
    claimed = replace(truth, rows=(row(0, 1, 10, 19),))
    result = sequence([row(0, 7, 10, 20)], 1)
    variant = LinkingVariant("stored results")
    for given, expected in ((truth, kept), (claimed, True)):
        scored_truth, scored = prepare(variant, "bdd100k", given, result)
        assert (scored.rows, scored_truth.ignored) == (result.rows if expected else (), {})
