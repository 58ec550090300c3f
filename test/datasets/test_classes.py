"""Names of classes, and labels from what a dataset stores."""

from __future__ import annotations

import numpy as np
import pytest

from stemseg_ros.config import load_config
from stemseg_ros.datasets.classes import IGNORED, compose, label_of, target_of
from stemseg_ros.datasets.sequence import IGNORE_LABEL, class_of

DRIVING = ("car", "pedestrian")


@pytest.mark.parametrize(
    ("name", "classes", "target"),
    [
        ("car", DRIVING, 1),
        ("Car", DRIVING, 1),
        ("pedestrian", DRIVING, 2),
        ("person", DRIVING, 2),  # a synonym
        ("person", ("pedestrian", "person"), 2),  # the name itself comes first
        ("pedestrian", ("person",), 1),  # synonyms hold both ways
        ("sedan", DRIVING, 1),
        ("aeroplane", ("airplane",), 1),
        ("tennis racket", ("tennis_racket",), 1),
        ("dog", DRIVING, 0),
        ("truck", DRIVING, 0),
        ("rider", DRIVING, IGNORED),
        ("rider", ("car",), 0),
        ("rider", ("rider", "pedestrian"), 1),
        ("person-group", DRIVING, IGNORED),
        ("caravan", DRIVING, IGNORED),
        ("Vehicle", DRIVING, IGNORED),
        ("Giant panda", ("giant_panda",), 1),
        ("dog", ("object",), 1),
        ("rider", ("object",), 1),
        ("dog", ("dog", "object"), 1),
        ("cat", ("dog", "object"), 2),
    ],
)
def test_targets(name: str, classes: tuple[str, ...], target: int) -> None:
    assert target_of(name, classes) == target


def test_every_class_of_a_preset_is_its_own_target() -> None:
    classes = load_config("youtube_vis").network.classes
    assert [target_of(name, classes) for name in classes] == list(range(1, 41))


def test_labels_keep_classes_apart_beyond_the_ninth() -> None:
    """10000 is the label of ignored pixels, and class 10 has objects all the same."""
    categories, numbers = np.array([[0, 5, 5, 6]]), np.array([[3, 1, 999, 4]])
    labels = compose(categories, numbers, {0: 0, 5: 10, 6: IGNORED})
    assert labels.tolist() == [[0, 10001, 10999, IGNORE_LABEL]]
    assert class_of(labels).tolist() == [[0, 10, 10, 0]]
    assert compose(categories, numbers, {0: 0, 5: 80, 6: 0}).tolist() == [[0, 80001, 80999, 0]]


def test_numbers_count_only_where_they_are_wanted() -> None:
    assert compose(np.array([[4]]), np.array([[60000]]), {4: 0}).tolist() == [[0]]
    with pytest.raises(ValueError, match="object number 60000; labels hold at most 999"):
        compose(np.array([[4]]), np.array([[60000]], np.uint16), {4: 1})
    with pytest.raises(ValueError, match="category 9 is unknown"):
        compose(np.array([[4, 9]]), np.array([[1, 1]]), {4: 1})


@pytest.mark.parametrize(("number", "fits"), [(0, False), (1, True), (999, True), (1000, False)])
def test_the_range_of_object_numbers(number: int, fits: bool) -> None:
    if fits:
        assert label_of(2, number) == 2000 + number
    else:
        with pytest.raises(ValueError, match=f"object number {number}"):
            label_of(2, number)
