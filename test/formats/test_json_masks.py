"""Masks of JSON files: as pycocotools reads them, and safe where it is not."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from stemseg_ros.formats.json_masks import segmentation_rle
from stemseg_ros.masks import decode

SIZE = (48, 64)
FAR = (1e3, 1e5, 1e7, 1e12, 1e300, 1.7e308)
"""Pixels; from 1e7 on pycocotools takes gigabytes, or crashes."""


def mask(segmentation: Any) -> np.ndarray:
    rle = segmentation_rle(segmentation, SIZE)
    return np.zeros(SIZE, bool) if rle is None else decode(rle)


def rectangle(left: float, top: float, right: float, bottom: float) -> list[float]:
    return [left, top, right, top, right, bottom, left, bottom]


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(st.floats(-64, 128, width=16), st.floats(-48, 96, width=16)),
        min_size=3,
        max_size=12,
    )
)
def test_near_polygons_are_those_of_pycocotools(points: list[tuple[float, float]]) -> None:
    polygon = [value for point in points for value in point]
    (expected,) = coco_mask.frPyObjects([polygon], *SIZE)
    np.testing.assert_array_equal(mask([polygon]), decode(expected))


@pytest.mark.parametrize("far", FAR)
@pytest.mark.parametrize(
    ("polygon", "columns", "rows"),
    [
        (lambda far: rectangle(10, 5, far, 20), (10, 64), (5, 20)),
        (lambda far: rectangle(-far, 5, 10, 20), (0, 10), (5, 20)),
        (lambda far: rectangle(10, -far, 20, far), (10, 20), (0, 48)),
        (lambda far: rectangle(-far, -far, far, far), (0, 64), (0, 48)),
        (lambda far: rectangle(far / 2, 5, far, 20), (0, 0), (0, 0)),
        (lambda far: rectangle(10, -far, 20, -far / 2), (0, 0), (0, 0)),
    ],
)
def test_far_polygons_are_clipped(
    polygon: Any, columns: tuple[int, int], rows: tuple[int, int], far: float
) -> None:
    expected = np.zeros(SIZE, bool)
    expected[slice(*rows), slice(*columns)] = True
    np.testing.assert_array_equal(mask([polygon(far)]), expected)


@pytest.mark.parametrize("far", FAR)
def test_a_slanted_edge_keeps_its_place(far: float) -> None:
    """A triangle whose upper edge is the diagonal of the image and whose others lie outside."""
    found = mask([[0, 0, far, far, 0, 90]])
    below = np.tri(*SIZE, -1, dtype=bool)
    assert found[below].all()
    assert not found[np.triu(np.ones(SIZE, bool), 1)].any()


@pytest.mark.parametrize("bad", ["NaN", "Infinity", "-Infinity", "1e999", "1" + "0" * 400])
@pytest.mark.parametrize("position", [0, 5])
def test_coordinates_without_a_finite_value_are_refused(bad: str, position: int) -> None:
    numbers = [json.loads(bad) if n == position else 5 * n for n in range(6)]
    with pytest.raises(ValueError, match=r"polygon 1: a coordinate is (nan|-?inf|of hundreds)"):
        segmentation_rle([rectangle(1, 1, 9, 9), numbers], SIZE)


@pytest.mark.parametrize(
    ("segmentation", "words"),
    [
        (None, "segmentation is null, expected polygons or run lengths"),
        ("Z3:V1", "segmentation is text"),
        (5.5, "segmentation is a fraction"),
        ([], "no polygon of three points"),
        ([[1, 2, 3, 4]], "no polygon of three points"),
        ([1, 2, 3, 4, 5, 6], "polygon 0: a polygon is no list"),
        ([[1, 2, 3, 4, 5, "6"]], "polygon 0: a polygon is no list"),
        ([[1, 2, 3, 4, 5, True]], "polygon 0: a polygon is no list"),
        ([[1, 2, 3, 4, 5, [6]]], "polygon 0: a polygon is no list"),
        ([[1, 2, 3, 4, 5, 6, 7]], "polygon 0: a polygon is no list"),
        ({"size": [48, 64]}, "counts"),
        ({"size": 48, "counts": []}, "size is a whole number, expected a list"),
        ({"size": [64, 48], "counts": [3072]}, r"mask size \[64, 48\] differs"),
        ({"size": [48, 64], "counts": None}, "counts are null"),
        ({"size": [48, 64], "counts": [3072.0]}, "a run length is a fraction"),
        ({"size": [48, 64], "counts": [math.nan, 3072]}, "a run length is a fraction"),
        ({"size": [48, 64], "counts": [True, 3071]}, "a run length is true"),
        ({"size": [48, 64], "counts": [-1, 3073]}, "run lengths cover 3072 of 3072"),
        ({"size": [48, 64], "counts": [10**30]}, "run lengths cover"),
        ({"size": [48, 64], "counts": "02"}, "run lengths cover 2 pixels"),
    ],
)
def test_other_forms_are_refused(segmentation: Any, words: str) -> None:
    with pytest.raises((ValueError, KeyError), match=words):
        segmentation_rle(segmentation, SIZE)


def test_parts_are_united() -> None:
    both = mask([rectangle(0, 0, 4, 4), [1, 1, 2, 2], rectangle(10, 10, 14, 14)])
    assert both.sum() == 32
