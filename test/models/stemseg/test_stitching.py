"""Linking of windows against the released code's outputs, and its corrections on cases small
enough to see."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models.stemseg.test_clustering import GOLDEN_MIXING, golden_config, golden_window

from stemseg_ros.config import load_config
from stemseg_ros.models.stemseg.settings import StitchingConfig
from stemseg_ros.models.stemseg.stitching import Stitcher, link_windows, track_labels
from stemseg_ros.models.stemseg.tensors import WindowClusters


@pytest.mark.parametrize("name", GOLDEN_MIXING)
def test_reference_equals_the_released_code_pixel_for_pixel(
    name: str, golden: Callable[[str], Path]
) -> None:
    data = np.load(golden(f"clustering_{name}.npz"))
    windows = [
        (frames, golden_window(data, window)) for window, frames in enumerate(data["frames"])
    ]
    labels = track_labels(windows, data["foreground"], golden_config(name))
    assert labels.dtype == np.int32
    np.testing.assert_array_equal(labels, data["labels"])


@pytest.mark.parametrize("name", GOLDEN_MIXING)
def test_linking_alone_equals_the_released_code(name: str, golden: Callable[[str], Path]) -> None:
    data = np.load(golden(f"clustering_{name}.npz"))
    linked = link_windows(
        list(zip(data["frames"], data["window_labels"], strict=True)), golden_config(name)
    )
    np.testing.assert_array_equal(linked, data["labels"])


def rows(*frames: str) -> np.ndarray:
    """One row of cells a frame: digits are labels, '.' background, 'x' outlier."""
    values = {".": 0, "x": -1}
    return np.array(
        [[[values.get(c) if c in values else int(c) for c in frame]] for frame in frames]
    )


def link(variant: str, *windows: tuple[list[int], np.ndarray], **overrides: Any) -> list[str]:
    config = load_config(
        "lite",
        {
            "stitching.variant": variant,
            **{f"stitching.{key}": value for key, value in overrides.items()},
        },
    )
    labels = link_windows(windows, config)
    return [
        "".join({0: ".", -1: "x"}.get(v, str(v)) for v in frame[0].tolist()) for frame in labels
    ]


MISSED = (
    ([0, 1], rows("11....", ".11...")),
    ([1, 2], rows(".xx...", "......")),
    ([2, 3], rows("......", "...11.")),
)
HOLE = ([0, 1], rows("11xx", "11xx")), ([1, 2], rows("1122", "1122"))
APART = ([0, 1], rows("11..", "11..")), ([1, 2], rows("x.1.", "..1."))


def test_numbers_of_a_window_mean_nothing() -> None:
    windows = ([0, 1], rows("11.22", "11.22")), ([1, 2], rows("22.11", "22.11"))
    for variant in ("reference", "corrected"):
        assert link(variant, *windows) == ["11.22"] * 3


def test_lost_track_is_found_again_within_max_gap() -> None:
    assert link("corrected", *MISSED, max_gap=2)[3] == "...11."
    assert link("corrected", *MISSED, max_gap=1)[3] == "...22."


def test_track_elsewhere_is_not_found_again() -> None:
    windows = (
        ([0, 1], rows("11....", "11....")),
        ([1, 2], rows("xx....", "......")),
        ([2, 3], rows("......", "....11")),
    )
    assert link("corrected", *windows)[3] == "....22"


def test_minimum_iou() -> None:
    windows = ([0, 1], rows("1111", "1111")), ([1, 2], rows("1xxx", "1111"))
    assert link("corrected", *windows, min_iou=0.2, recover_iou=1)[2] == "1111"
    assert link("corrected", *windows, min_iou=0.3, recover_iou=1)[2] == "2222"


def test_padding_slots_do_not_count() -> None:
    # In the padded window frame 0 appears three times; only the last copy is real.
    windows = (
        ([0, 0, 0, 1], rows("2...", "2...", "11..", "11..")),
        ([0, 1, 2, 3], rows(*["11.."] * 4)),
    )
    assert link("reference", *windows) == ["11.."] * 4


def test_ties_without_overlap_go_to_the_lowest_number() -> None:
    """The released code, whose order is that of a Python set, gives the new cluster number 8."""
    windows = (
        ([0, 1], rows("12345678.", "1......8.")),
        ([1, 2], rows("xxxxxxxx1", "1........")),
    )
    assert link("reference", *windows)[2] == "1........"


def clusters(labels: np.ndarray, *logits: list[float]) -> WindowClusters:
    """With the logits of two classes for each; that of the background is 1."""
    count = int(labels.max())
    classes = np.array(logits, np.float32).reshape(count, 2)
    return WindowClusters(
        labels,
        np.zeros((count, 3), np.float32),
        np.ones(count, np.float32),
        np.hstack((np.ones((count, 1), np.float32), classes)),
    )


@pytest.mark.parametrize(("variant", "expected"), [("reference", 1), ("corrected", 2)])
def test_a_car_does_not_become_a_pedestrian(variant: Any, expected: int) -> None:
    stitcher = Stitcher(StitchingConfig(variant=variant))
    stitcher.link([0, 1], clusters(rows("11", "11"), [5, 0]))
    stitcher.link([1, 2], clusters(rows("11", "11"), [0, 5]))
    assert stitcher.grid(2).max() == expected


def test_class_of_a_track_is_that_of_all_its_windows() -> None:
    stitcher = Stitcher(StitchingConfig(variant="reference"))
    stitcher.link([0, 1], clusters(rows("11", "11"), [5, 0]))
    stitcher.link(
        [1, 2], clusters(rows("11", "11"), [0, 6])
    )  # twice the pixels in the first window
    assert stitcher.tracks[1].class_index == 0
    stitcher.link([2, 3], clusters(rows("11", "11"), [0, 6]))
    assert stitcher.tracks[1].class_index == 1


def test_probability_of_a_class_is_against_the_others_and_the_background() -> None:
    stitcher = Stitcher(StitchingConfig())
    stitcher.link([0, 1], clusters(rows("11", "11"), [3, 0]))  # background 1, car 3, pedestrian 0
    track = stitcher.tracks[1]
    expected = np.exp(3) / (np.exp(1) + np.exp(3) + np.exp(0))
    assert track.class_probability == pytest.approx(expected, rel=1e-6)
    stitcher.link([2, 3], clusters(rows("11", "11"), [-1, 0]))  # logits of all cells so far: 1, 0
    assert track.class_index == 0
    expected = np.exp(1) / (np.exp(1) + np.exp(1) + np.exp(0))
    assert track.class_probability == pytest.approx(expected, rel=1e-6)


def test_old_frames_and_lost_tracks_are_forgotten() -> None:
    stitcher = Stitcher(StitchingConfig(max_gap=3))
    for start in range(0, 400, 2):
        column = start // 40 % 10  # a new object every 40 frames
        labels = np.zeros((4, 1, 10), int)
        labels[:, :, column] = 1
        stitcher.link(range(start, start + 4), clusters(labels, [1, 0]))
        stitcher.forget(start)
    assert set(stitcher.tracks) == {int(stitcher.grid(401).max())}
    assert len(stitcher._grids) <= 4


@pytest.mark.parametrize("variant", ["reference", "corrected"])
def test_number_of_a_cluster_in_old_frames_is_not_given_to_two_objects(variant: str) -> None:
    # Cluster 2 of the second window has cells in frame 1 only, which is written already.
    labels = link(
        variant,
        ([0, 1], rows("1111....", "1111....")),
        ([1, 2], rows("1112....", "111.....")),
        ([2, 3], rows("111.....", "1113..22")),
    )
    assert labels[3][3] != labels[3][6], labels


def test_unwritten_cluster_of_the_reference_leaves_no_trace() -> None:
    stitcher = Stitcher(StitchingConfig(variant="reference"))
    stitcher.link([0, 1], clusters(rows("1111..", "1111.."), [1, 0]))
    stitcher.link([1, 2], clusters(rows("1112..", "111..."), [1, 0], [90, 0]))
    stitcher.link([2, 3], clusters(rows("111...", "111.22"), [1, 0], [0, 9]))
    newcomer = stitcher.tracks[int(stitcher.grid(3).max())]
    assert newcomer.class_index == 1


@pytest.mark.parametrize(
    ("switch", "windows", "frame", "corrected", "reference"),
    [
        ("recovery", MISSED, 3, "...11.", "...22."),
        ("filling", HOLE, 1, "1133", "11xx"),
        ("matching", APART, 2, "..2.", "..1."),
    ],
)
def test_each_switch_can_be_set_alone(
    switch: str, windows: Any, frame: int, corrected: str, reference: str
) -> None:
    assert link("corrected", *windows)[frame] == corrected
    assert link("corrected", *windows, **{switch: "reference"})[frame] == reference
    assert link("reference", *windows)[frame] == reference
    assert link("reference", *windows, **{switch: "corrected"})[frame] == corrected


@pytest.mark.parametrize(
    ("windows", "words"),
    [
        ([], "no windows"),
        ([([0, 1, 2], np.zeros((2, 1, 4), int))], "3 frame indices, 2 frames of labels"),
        ([([0, 1], np.zeros((2, 1, 4)))], "expected int labels"),
        ([([1, 2], np.zeros((2, 1, 4), int))], "no window contains frame 0"),
    ],
)
def test_windows_that_do_not_fit_are_refused(windows: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        link_windows(windows, load_config("lite"))


def test_labels_of_any_size_and_type() -> None:
    labels = np.array([[[0, 1, 65537, 40000]]], np.int64)
    assert link_windows([(range(1), labels)], load_config("lite")).tolist() == [[[0, 1, 3, 2]]]


def test_ids_are_never_used_twice() -> None:
    stitcher = Stitcher(StitchingConfig(max_gap=0))
    seen: list[int] = []
    for start in range(0, 60, 3):
        stitcher.link(
            [start, start + 1], clusters(rows("12", "12"), [1, 0], [1, 0])
        )  # no shared frames
        seen += np.unique(stitcher.grid(start)).tolist()
        stitcher.forget(start)
    assert len(set(seen)) == len(seen) == 40
