"""Measures against values computed by hand: what each kind of mistake costs."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from math import sqrt
from pathlib import Path

import pytest
from mask_strips import PEDESTRIAN, row, sequence, strip, two_cars

pytest.importorskip("trackeval")

from stemseg_ros.evaluation.measures import (
    ALL_CLASSES,
    DAVIS,
    DAVIS_BINARY,
    DAVIS_SEMI,
    MEAN_CLASSES,
    MOTS,
    YOUTUBE_VIS,
    Measures,
    combine,
    score_sequence,
    sequence_measures,
)
from stemseg_ros.formats import FORMATS
from stemseg_ros.formats.sequence_masks import EvaluationError, SequenceMasks

FRAMES = range(10)
GROUND_TRUTH = "STEMSEG_KITTI_MOTS_GT"
"""Environment variable with the folder of the KITTI-MOTS ground truth texts."""


def car(truth: SequenceMasks, result: SequenceMasks) -> Measures:
    return sequence_measures(MOTS, score_sequence(MOTS, truth, result))["car"]


def assert_measures(measures: Measures, **expected: float) -> None:
    assert {name: measures[name] for name in expected} == pytest.approx(expected, abs=0.001)


def test_ground_truth_against_itself_is_perfect() -> None:
    truth = two_cars()
    assert_measures(
        car(truth, truth),
        sMOTSA=100,
        MOTSA=100,
        MOTSP=100,
        HOTA=100,
        DetA=100,
        AssA=100,
        IDF1=100,
        IDS=0,
        TP=20,
        FP=0,
        FN=0,
    )


def test_two_dropped_masks() -> None:
    """18 of 20 found; the association of car 1 is 8 / 10."""
    truth = two_cars()
    result = replace(truth, rows=tuple(r for r in truth.rows if r.id != 1001 or r.frame < 8))
    association = (8 * 0.8 + 10 * 1) / 18
    assert_measures(
        car(truth, result),
        sMOTSA=90,
        MOTSA=90,
        MOTSP=100,
        IDS=0,
        FN=2,
        FP=0,
        IDF1=100 * 2 * 18 / (18 + 20),
        DetA=90,
        AssA=100 * association,
        HOTA=100 * sqrt(0.9 * association),
    )


def test_ids_swapped_halfway() -> None:
    """Two switches; each true mask shares its id with 5 of 10 + 10 - 5 = 15 masks."""
    truth = two_cars()
    swap = {1001: 1002, 1002: 1001}
    rows = tuple(replace(r, id=swap[r.id] if r.frame >= 5 else r.id) for r in truth.rows)
    result = replace(truth, rows=rows)
    assert_measures(
        car(truth, result),
        sMOTSA=90,
        MOTSA=90,
        MOTSP=100,
        IDS=2,
        IDF1=50,
        DetA=100,
        AssA=100 / 3,
        HOTA=100 * sqrt(1 / 3),
    )


def test_two_objects_merged_to_one() -> None:
    """The mask has IoU 12 / 20 with car 1 and 8 / 20 with car 2: it matches car 1, at 12 of 19
    alphas."""
    result = sequence(row(t, 1, 0, 20) for t in FRAMES)
    assert_measures(
        car(two_cars(), result),
        sMOTSA=30,
        MOTSA=50,
        MOTSP=60,
        FN=10,
        FP=0,
        IDS=0,
        IDF1=100 * 2 * 10 / (10 + 20),
        DetA=100 * 0.5 * 12 / 19,
        AssA=100 * 12 / 19,
        HOTA=100 * sqrt(0.5) * 12 / 19,
    )


def test_results_one_frame_late() -> None:
    """A strip 10 wide that moves by 2 a frame overlaps its past by 8 / 12; the first frame is
    missed."""
    truth = sequence(row(t, 1, 2 * t, 2 * t + 10) for t in FRAMES)
    late = sequence(row(t, 1, 2 * t - 2, 2 * t + 8) for t in FRAMES if t)
    assert_measures(car(truth, late), sMOTSA=60, MOTSA=90, MOTSP=100 * 8 / 12, FN=1, FP=0, IDS=0)


@pytest.mark.parametrize(
    ("ignored_columns", "false_positives"),
    [
        ((30, 36), 0),  # 6 of the 10 columns of the false mask are ignored
        ((30, 34), 10),  # 4 of 10: it counts
        (None, 10),
    ],
)
def test_ignore_regions(ignored_columns: tuple[int, int] | None, false_positives: int) -> None:
    truth = two_cars()
    if ignored_columns:
        truth = replace(truth, ignored={t: strip(*ignored_columns) for t in FRAMES})
    result = replace(truth, ignored={}, rows=(*truth.rows, *(row(t, 3, 30, 40) for t in FRAMES)))
    assert_measures(
        car(truth, result),
        FP=false_positives,
        TP=20,
        sMOTSA=100 * (20 - false_positives) / 20,
        MOTSA=100 * (20 - false_positives) / 20,
    )


def test_wrong_class_is_missed_in_one_and_false_in_the_other() -> None:
    result = sequence(
        [r for t in FRAMES for r in (row(t, 1, 0, 12), row(t, 2, 12, 20, PEDESTRIAN))]
    )
    table = sequence_measures(MOTS, score_sequence(MOTS, two_cars(), result))
    assert_measures(table["car"], MOTSA=50, FN=10, FP=0)
    assert_measures(table["pedestrian"], FN=0, FP=10)
    assert_measures(table[ALL_CLASSES], TP=10, FN=10, FP=10, MOTSA=0)


def test_sequences_are_weighted_by_their_masks() -> None:
    """20 of 20 masks in one sequence, 2 of 4 in the other: 22 of 24."""
    first, second = two_cars(), replace(two_cars(2), name="0001")
    half = replace(second, rows=tuple(r for r in second.rows if r.id == 1001))
    scores = {
        "0000": score_sequence(MOTS, first, first),
        "0001": score_sequence(MOTS, second, half),
    }
    table = combine(MOTS, scores)
    assert_measures(table["car"], MOTSA=100 * 22 / 24, FN=2)


def test_mean_of_classes_leaves_absent_classes_out() -> None:
    """20 of 20 cars, 5 of 10 pedestrians, no cyclist anywhere."""
    classes = {1: "car", 2: "pedestrian", 3: "cyclist"}
    people = [row(t, 1, 30, 40, PEDESTRIAN) for t in FRAMES]
    truth = sequence([*two_cars().rows, *people], classes=classes)
    result = sequence([*two_cars().rows, *people[:5]], classes=classes)
    table = sequence_measures(MOTS, score_sequence(MOTS, truth, result))
    assert list(table) == ["car", "pedestrian", ALL_CLASSES, MEAN_CLASSES]
    assert_measures(table[MEAN_CLASSES], MOTSA=75)
    assert_measures(table[ALL_CLASSES], MOTSA=100 * 25 / 30)


def test_one_class_is_not_repeated_as_all_classes() -> None:
    assert list(sequence_measures(MOTS, score_sequence(MOTS, two_cars(), two_cars()))) == ["car"]


def test_classes_of_any_number() -> None:
    """Class 10, which stands for ignored pixels in KITTI-MOTS, is a class like any other
    elsewhere."""
    one = sequence([row(t, 1, 0, 12, 10) for t in FRAMES], classes={10: "duck"})
    assert_measures(
        sequence_measures(MOTS, score_sequence(MOTS, one, one))["duck"], sMOTSA=100, TP=10
    )


def test_nothing_found_and_nothing_there() -> None:
    empty = sequence([])
    assert_measures(car(two_cars(), empty), sMOTSA=0, HOTA=0, FN=20)
    assert sequence_measures(MOTS, score_sequence(MOTS, empty, empty)) == {}


def test_sizes_must_agree() -> None:
    truth = two_cars()
    with pytest.raises(
        EvaluationError, match="0000: results are 30x20 pixels, the ground truth is 60x20"
    ):
        score_sequence(MOTS, truth, replace(truth, size=(20, 30)))


def davis(truth: SequenceMasks, result: SequenceMasks) -> Measures:
    return sequence_measures(DAVIS, score_sequence(DAVIS, truth, result))["general"]


def test_davis_perfect() -> None:
    assert_measures(
        davis(two_cars(), two_cars()),
        **{
            "J&F": 100,
            "J-Mean": 100,
            "J-Recall": 100,
            "J-Decay": 0,
            "F-Mean": 100,
            "F-Recall": 100,
            "F-Decay": 0,
        },
    )


def test_davis_shift_by_one_pixel() -> None:
    """J is 9 / 11; the boundary lies within the tolerance, 0.008 of the diagonal rounded up to a
    pixel."""
    truth = sequence(row(t, 1, 10, 20) for t in FRAMES)
    shifted = sequence(row(t, 1, 11, 21) for t in FRAMES)
    assert_measures(
        davis(truth, shifted), **{"J-Mean": 100 * 9 / 11, "J-Recall": 100, "F-Mean": 100}
    )


def test_davis_object_lost_at_the_end() -> None:
    """Quarters of 8 frames: 0-2, 2-4, 4-5, 5-7; found in 0-4, so the decay is that from 1 to 0."""
    truth = sequence([row(t, 1, 10, 20) for t in range(8)], 8)
    result = sequence([row(t, 1, 10, 20) for t in range(5)], 8)
    assert_measures(
        davis(truth, result),
        **{
            "J-Mean": 100 * 5 / 8,
            "J-Recall": 100 * 5 / 8,
            "J-Decay": 100,
            "F-Mean": 100 * 5 / 8,
            "F-Decay": 100,
        },
    )


def test_davis_void_is_not_scored() -> None:
    truth = sequence(
        [row(t, 1, 10, 20) for t in FRAMES], ignored={t: strip(20, 30) for t in FRAMES}
    )
    result = sequence(row(t, 1, 10, 30) for t in FRAMES)
    assert_measures(davis(truth, result), **{"J-Mean": 100, "F-Mean": 100})


def test_davis_missed_object_counts_as_zero() -> None:
    result = sequence(row(t, 1, 0, 12) for t in FRAMES)
    assert_measures(davis(two_cars(), result), **{"J-Mean": 50, "F-Mean": 50})


def test_davis_assigns_results_by_the_mean_of_j_and_f() -> None:
    """The object's columns 0-19 have one boundary, behind column 19. Result 1, columns 0-9: J 1/2,
    F 0, as its boundary is elsewhere. Result 2, columns 10-20: J 10/21; of its two boundaries one
    is right within a pixel: precision 1/2, recall 1, F 2/3. J alone would assign result 1."""
    truth = sequence(row(t, 1, 0, 20) for t in FRAMES)
    result = sequence([r for t in FRAMES for r in (row(t, 1, 0, 10), row(t, 2, 10, 21))])
    j, f = 100 * 10 / 21, 100 * 2 / 3
    assert_measures(davis(truth, result), **{"J&F": (j + f) / 2, "J-Mean": j, "F-Mean": f})


def test_davis_scores_the_objects_that_the_first_frame_names() -> None:
    """Object 2 appears later: to miss it costs nothing."""
    truth = sequence([*(row(t, 1, 0, 12) for t in FRAMES), *(row(t, 2, 20, 40) for t in (5, 6))])
    result = sequence(row(t, 1, 0, 12) for t in FRAMES)
    assert_measures(davis(truth, result), **{"J&F": 100})


def test_davis_without_objects_has_no_measures() -> None:
    scores = score_sequence(DAVIS, sequence([]), two_cars())
    assert sequence_measures(DAVIS, scores) == {}
    some = score_sequence(DAVIS, two_cars(), two_cars())
    assert_measures(combine(DAVIS, {"a": scores, "b": some})["general"], **{"J&F": 100})


def test_davis_2016_needs_a_frame_between_the_first_and_the_last() -> None:
    with pytest.raises(EvaluationError, match=r"sequence 0000: 2 frames; DAVIS 2016 leaves out"):
        score_sequence(DAVIS_BINARY, two_cars(2), two_cars(2))


def binary(truth: SequenceMasks, result: SequenceMasks) -> Measures:
    return sequence_measures(DAVIS_BINARY, score_sequence(DAVIS_BINARY, truth, result))["general"]


def test_davis_2016_unites_objects() -> None:
    truth = sequence(row(t, 1, 0, 20) for t in FRAMES)
    assert_measures(binary(truth, two_cars()), **{"J-Mean": 100, "F-Mean": 100})


def test_davis_2016_leaves_out_the_first_and_last_frame() -> None:
    """Missing there costs nothing, missing in one of the 8 others an eighth."""
    truth = sequence(row(t, 1, 0, 20) for t in FRAMES)
    assert_measures(
        binary(truth, sequence(row(t, 1, 0, 20) for t in range(1, 9))), **{"J-Mean": 100}
    )
    assert_measures(
        binary(truth, sequence(row(t, 1, 0, 20) for t in range(1, 8))), **{"J-Mean": 100 * 7 / 8}
    )


def semi(truth: SequenceMasks, result: SequenceMasks) -> Measures:
    return sequence_measures(DAVIS_SEMI, score_sequence(DAVIS_SEMI, truth, result))["general"]


def test_davis_semi_compares_equal_ids() -> None:
    """Swapped objects are matched by the unsupervised measure, but were given with the ids."""
    swapped = sequence(replace(r, id=2003 - r.id) for r in two_cars().rows)
    assert_measures(davis(two_cars(), swapped), **{"J-Mean": 100})
    assert_measures(semi(two_cars(), swapped), **{"J-Mean": 0})


def test_davis_semi_is_the_mean_over_objects_without_the_outer_frames() -> None:
    """Object 1 is right in 6 of the inner frames 1 to 8 and lost then; of object 2 the left half
    is found; object 3, which is there in the first frame alone, is wrongly found in one frame.

    Strips are as high as the image: their boundaries are the columns at their sides. Of those of
    object 2 the left one is found, the right one not: precision 1 / 2, recall 1 / 2.
    """
    truth = sequence(
        [
            row(0, 3, 50, 55),
            *(r for t in FRAMES for r in (row(t, 1, 0, 10), row(t, 2, 20, 40))),
        ]
    )
    result = sequence(
        [
            *(row(t, 1, 0, 10) for t in range(7)),
            *(row(t, 2, 20, 30) for t in FRAMES),
            row(5, 3, 45, 60),
        ]
    )
    mean = 100 * (6 / 8 + 0.5 + 7 / 8) / 3
    expected = {"J-Mean": mean, "F-Mean": mean, "J-Recall": 100 * (6 / 8 + 0 + 7 / 8) / 3}
    assert_measures(semi(truth, result), **expected)


def test_davis_semi_of_a_sequence_without_objects() -> None:
    """Beside one with objects: it does not count."""
    none = score_sequence(DAVIS_SEMI, sequence([]), sequence([]))
    some = score_sequence(DAVIS_SEMI, two_cars(), two_cars())
    assert_measures(combine(DAVIS_SEMI, {"a": none, "b": some})["general"], **{"J&F": 100})


def test_davis_counts_values_without_a_mask(tmp_path: Path) -> None:
    """davis2017-evaluation: the first frame of the truth names value 3, so there are three
    objects; value 2 is nowhere, value 3 in 4 of 10 frames. Of the results value 1 is empty, which
    is right for object 2, and value 2 is right for object 3 in frame 0 and the 6 without it.
    Semi-supervised, the inner frames count: object 3 is there, and missed, in 3 of 8."""
    truth = sequence([*(row(t, 1, 0, 12) for t in FRAMES), *(row(t, 3, 30, 40) for t in range(4))])
    truth = as_read(truth, tmp_path / "truth", truth=True)
    result = sequence([*(row(t, 3, 0, 12) for t in FRAMES), row(0, 2, 30, 40)])
    result = as_read(result, tmp_path / "result", truth=False)
    assert (truth.objects, result.objects) == (3, 3)
    assert_measures(davis(truth, result), **{"J&F": 100 * (1 + 1 + 7 / 10) / 3})
    given = as_read(sequence([row(t, 1, 0, 12) for t in FRAMES]), tmp_path / "given", truth=False)
    assert_measures(semi(truth, given), **{"J&F": 100 * (1 + 1 + 5 / 8) / 3})


def as_read(wanted: SequenceMasks, folder: Path, *, truth: bool) -> SequenceMasks:
    """As PNGs hold it, with the ids of a class as values."""
    rows = tuple(replace(r, id=r.id % 1000) for r in wanted.rows)
    FORMATS["davis2017_semi"].write(folder, [replace(wanted, rows=rows)])
    read = FORMATS["davis"].read_truth(folder)
    return read[wanted.name] if truth else FORMATS["davis"].read_results(folder, read)[wanted.name]


def vis(truth: SequenceMasks, result: SequenceMasks) -> Measures:
    return sequence_measures(YOUTUBE_VIS, score_sequence(YOUTUBE_VIS, truth, result))["car"]


def test_youtube_vis() -> None:
    """Track 1 is right; track 2 has IoU 5 / 8 over the video: right at 3 of 10 thresholds (0.5,
    0.55, 0.6).

    Where it is wrong, half of the truth is found: precision 1 at 51 of 101 recall values.
    """
    truth = sequence([r for t in FRAMES for r in (row(t, 1, 0, 10), row(t, 2, 20, 28))])
    result = sequence(
        [r for t in FRAMES for r in (row(t, 1, 0, 10), row(t, 2, 20, 25))],
        scores={1001: 0.9, 1002: 0.8},
    )
    half = 100 * 51 / 101
    assert_measures(
        vis(truth, result), AP=0.3 * 100 + 0.7 * half, AP50=100, AP75=half, AR1=50, AR10=65
    )


def test_youtube_vis_a_second_track_on_the_same_object_is_wrong() -> None:
    truth = sequence(row(t, 1, 0, 10) for t in FRAMES)
    result = sequence(
        [r for t in FRAMES for r in (row(t, 1, 0, 10), row(t, 2, 0, 10))],
        scores={1001: 0.8, 1002: 0.9},
    )
    assert_measures(vis(truth, result), AP=100, AR1=100, AR10=100)


def test_youtube_vis_confident_mistake_costs_precision() -> None:
    truth = sequence(row(t, 1, 0, 10) for t in FRAMES)
    result = sequence(
        [r for t in FRAMES for r in (row(t, 1, 0, 10), row(t, 2, 30, 40))],
        scores={1001: 0.5, 1002: 0.9},
    )
    assert_measures(vis(truth, result), AP=50, AR1=0, AR10=100)


def test_youtube_vis_ties_of_scores_keep_the_order_of_the_file() -> None:
    """Track 9 stands first in the file, though track 1 appears earlier: AR1 takes track 9."""
    truth = sequence(row(t, 1, 0, 10) for t in range(5, 10))
    result = sequence(
        [*(row(t, 9, 0, 10) for t in range(5, 10)), *(row(t, 1, 30, 40) for t in FRAMES)],
        scores={1009: 0.5, 1001: 0.5},
    )
    assert_measures(vis(truth, result), AR1=100, AP=100)
    swapped = replace(result, rows=(*result.rows[5:], *result.rows[:5]))
    assert_measures(vis(truth, swapped), AR1=0, AR10=100, AP=50)


def test_youtube_vis_a_track_without_masks_is_a_mistake() -> None:
    """It has the highest score, so the precision at every recall is 1/2."""
    truth = sequence(row(t, 1, 0, 10) for t in FRAMES)
    result = replace(truth, scores={1001: 0.5, 1002: 0.9}, unseen={1002: 1})
    assert_measures(vis(truth, result), AP=50, AR1=0, AR10=100)
    assert_measures(vis(truth, replace(result, unseen={})), AP=100)


@pytest.mark.parametrize("crowd", [False, True])
def test_youtube_vis_an_object_without_masks_is_missed(crowd: bool, tmp_path: Path) -> None:
    """Half of the objects are found; one of a crowd need not be."""
    truth = sequence([*(row(t, 1, 0, 10) for t in FRAMES), *(row(t, 2, 20, 30) for t in FRAMES)])
    file = tmp_path / "truth.json"
    FORMATS["youtube_vis"].write(file, [truth], truth=True)
    content = json.loads(file.read_text())
    content["annotations"][1] |= {"segmentations": [None] * truth.frames, "iscrowd": int(crowd)}
    file.write_text(json.dumps(content))
    (read,) = FORMATS["youtube_vis"].read_truth(file).values()
    result = replace(read, scores={1: 0.5}, unseen={}, crowd=frozenset())
    expected = 100 if crowd else 100 * 51 / 101
    assert_measures(vis(read, result), AP=expected, AR1=100 if crowd else 50)


def test_youtube_vis_several_results_match_one_crowd() -> None:
    """Both results on the crowd are neither right nor wrong, whatever their scores."""
    truth = sequence([r for t in FRAMES for r in (row(t, 1, 0, 10), row(t, 2, 20, 30))])
    truth = replace(truth, crowd=frozenset({1002}))
    result = sequence(
        [r for t in FRAMES for r in (row(t, 1, 0, 10), row(t, 2, 20, 30), row(t, 3, 20, 30))],
        scores={1001: 0.5, 1002: 0.9, 1003: 0.8},
    )
    assert_measures(vis(truth, result), AP=100)
    plain = replace(truth, crowd=frozenset())
    assert_measures(vis(plain, result), AP=100 * (51 / 101 + 50 / 101 * 2 / 3))


@pytest.mark.skipif(
    GROUND_TRUTH not in os.environ, reason=f"{GROUND_TRUTH} names no ground truth folder"
)
def test_real_ground_truth_against_itself_is_perfect() -> None:
    """All 21 training sequences."""
    truths = FORMATS["kitti_mots"].read_truth(Path(os.environ[GROUND_TRUTH]))
    assert len(truths) == 21
    scores = {
        name: score_sequence(MOTS, truth, replace(truth, ignored={}))
        for name, truth in truths.items()
    }
    for name, score in scores.items():
        for label, measures in sequence_measures(MOTS, score).items():
            for measure in ("sMOTSA", "MOTSA", "MOTSP", "HOTA", "DetA", "AssA", "IDF1"):
                assert measures[measure] == pytest.approx(100, abs=1e-6), (name, label, measure)
            assert measures["IDS"] == measures["FP"] == measures["FN"] == 0, (name, label)
    table = combine(MOTS, scores)
    assert (table["car"]["TP"], table["pedestrian"]["TP"]) == (26860, 11415)
