"""Ground truth on the grid: who gets a cell."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stemseg_ros.config import load_config
from stemseg_ros.datasets.sequence import IGNORE_LABEL
from stemseg_ros.models.stemseg.targets import Targets, grid_targets

CAR, PERSON, OTHER = 1005, 2003, 2004


def targets_of(labels: np.ndarray, variant: str = "corrected") -> Targets:
    return grid_targets(labels, load_config("lite", {"training.targets": variant}))


def painted(*boxes: tuple[int, int, int, int, int]) -> np.ndarray:
    """One frame of 8 x 16 pixels, 2 x 4 cells; (label, top, bottom, left, right) over each
    other."""
    labels = np.zeros((1, 8, 16), np.int32)
    for label, top, bottom, left, right in boxes:
        labels[:, top:bottom, left:right] = label
    return labels


def cells_of(result: Targets, class_id: int) -> list[tuple[int, int]]:
    return [(int(y), int(x)) for _, y, x in np.argwhere(result.classes == class_id)]


COLUMN = [(0, 1), (1, 1)]


@pytest.mark.parametrize(
    ("boxes", "corrected", "reference", "why"),
    [
        ([(PERSON, 0, 8, 4, 8)], COLUMN, COLUMN, "whole cells"),
        ([(PERSON, 0, 8, 4, 7)], COLUMN, COLUMN, "three of four columns, the middle among them"),
        ([(PERSON, 0, 8, 4, 6)], COLUMN, [], "half of a cell: a tie goes to the object"),
        ([(PERSON, 0, 8, 6, 10)], [*COLUMN, (0, 2), (1, 2)], [], "four columns over two cells"),
        ([(PERSON, 0, 8, 4, 5)], COLUMN, [], "a pole of one pixel covers a quarter"),
        ([(PERSON, 0, 2, 4, 6)], [(0, 1)], [], "four pixels are a quarter of a cell"),
        ([(PERSON, 0, 1, 4, 7)], [], [], "three are not: too small for the grid"),
        ([(PERSON, 0, 8, 4, 9)], COLUMN, COLUMN, "not thin: its rim is no reason to grow"),
        ([(CAR, 0, 8, 0, 16), (PERSON, 0, 8, 6, 7)], COLUMN, [], "a pole in front of a car"),
        ([(IGNORE_LABEL, 0, 8, 0, 16), (PERSON, 0, 8, 6, 7)], [], [], "ignored cells stay so"),
    ],
)
def test_who_gets_a_cell(
    boxes: list[tuple[int, int, int, int, int]],
    corrected: list[tuple[int, int]],
    reference: list[tuple[int, int]],
    why: str,
) -> None:
    found = cells_of(targets_of(painted(*boxes)), 2)
    assert sorted(found) == sorted(corrected), why
    assert cells_of(targets_of(painted(*boxes), "reference"), 2) == reference, why


def test_of_two_thin_objects_the_wider_gets_the_cell() -> None:
    for wide, narrow in ((OTHER, PERSON), (PERSON, OTHER)):
        boxes = ((wide, 0, 4, 5, 6), (wide, 0, 1, 6, 7), (narrow, 0, 4, 4, 5))
        result = targets_of(painted(*boxes))  # 5 and 4 pixels of a cell
        assert cells_of(result, 2) == [(0, 1)]
        assert len(result.masks) == 1, "the other one has no cell"
        assert plain_grid(painted(*boxes)[0])[0, 1] == wide


def test_targets_of_every_kind() -> None:
    labels = np.zeros((2, 8, 12), np.int32)
    labels[0, :4, :4], labels[1, 4:, 4:8], labels[:, :4, 8:] = CAR, CAR, IGNORE_LABEL
    labels[1, :2, 0] = PERSON  # two pixels: no cell
    result = targets_of(labels)
    assert result.masks.tolist() == [[[[1, 0, 0], [0, 0, 0]], [[0, 0, 0], [0, 1, 0]]]]
    assert result.classes.tolist() == [[[1, 0, 0], [0, 0, 0]], [[0, 0, 0], [0, 1, 0]]]
    assert result.ignore.tolist() == [[[False, False, True], [False] * 3]] * 2


def test_a_frame_without_objects() -> None:
    result = targets_of(np.zeros((2, 8, 12), np.int32))
    assert result.masks.shape == (0, 2, 2, 3)
    assert not result.classes.any()


def plain_grid(frame: np.ndarray) -> np.ndarray:
    """The rule of the corrected targets, cell by cell, for one frame (H, W)."""
    pixels = frame.reshape(frame.shape[0] // 4, 4, frame.shape[1] // 4, 4).swapaxes(1, 2)
    counts = [[Counter(cell.ravel().tolist()) for cell in row] for row in pixels]
    grid = np.array(
        [[min(c, key=lambda label: (-c[label], label == 0, label)) for c in row] for row in counts]
    )
    thin = [
        label
        for label in np.unique(frame).tolist()
        if label not in (0, IGNORE_LABEL)
        and 16 * (grid == label).sum() < (frame == label).sum() / 2
    ]
    for place in np.ndindex(grid.shape):
        cover = {label: counts[place[0]][place[1]][label] for label in thin}
        claims = [label for label in thin if cover[label] >= 4]
        if claims and grid[place] != IGNORE_LABEL:
            grid[place] = max(claims, key=lambda label: (cover[label], -label))
    return grid


@settings(max_examples=80, deadline=None)
@given(seed=st.integers(0, 10_000), block=st.sampled_from([1, 2, 3, 5]))
def test_equals_the_rule_cell_by_cell(seed: int, block: int) -> None:
    rng = np.random.default_rng(seed)
    values = [0, CAR, PERSON, OTHER, IGNORE_LABEL]
    coarse = rng.choice(values, (2, 8, 12), p=[0.5, 0.2, 0.1, 0.1, 0.1])
    labels = coarse.repeat(block, 1).repeat(block, 2)[:, :8, :12].astype(np.int32)
    result = targets_of(labels)
    grid = np.stack([plain_grid(frame) for frame in labels])
    ids = [i for i in (CAR, PERSON, OTHER) if (grid == i).any()]
    assert result.masks.tolist() == [(grid == i).astype(int).tolist() for i in ids]
    np.testing.assert_array_equal(result.ignore, grid == IGNORE_LABEL)
    np.testing.assert_array_equal(result.classes, np.where(result.ignore, 0, grid // 1000))


def test_groups_have_a_class_but_no_instance() -> None:
    found = targets_of(painted((1000, 0, 8, 0, 8), (CAR, 0, 8, 8, 12)))
    assert found.classes[0].tolist() == [[1, 1, 1, 0]] * 2
    assert found.groups[0].tolist() == [[True, True, False, False]] * 2
    assert found.masks.shape[0] == 1 and found.masks.sum() == 2
    assert not found.ignore.any()
