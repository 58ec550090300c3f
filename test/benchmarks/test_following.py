"""Scores of followed objects."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.following import boundary, first_masks, score
from stemseg_ros.config import load_config
from stemseg_ros.datasets.sequence import IGNORE_LABEL, LabelledFrame
from stemseg_ros.evaluation.linkers import mask_iou
from stemseg_ros.stream import open_model

CAR = 1001
SIZE = (64, 96)


def frame(*boxes: tuple[int, int, int, int, int]) -> LabelledFrame:
    """A frame with boxes of (label, top, left, height, width)."""
    labels = np.zeros(SIZE, np.int32)
    for label, top, left, height, width in boxes:
        labels[top : top + height, left : left + width] = label
    image = np.repeat(labels[..., None] % 256, 3, 2).astype(np.uint8)
    return LabelledFrame(image, labels)


def test_objects_are_given_where_they_are_large_enough() -> None:
    video = [
        frame((CAR, 0, 0, 5, 5), (IGNORE_LABEL, 30, 30, 20, 20)),
        frame((CAR, 0, 0, 10, 10), (CAR + 1, 30, 30, 10, 10)),
    ]
    assert first_masks(video, 100) == {CAR: 1, CAR + 1: 1}
    assert first_masks(video, 20) == {CAR: 0, CAR + 1: 1}


@pytest.mark.parametrize(
    ("columns", "j", "f"), [(20, 1, 1), (10, 0.5, pytest.approx(0.6, abs=0.2)), (0, 0, 0)]
)
def test_overlap_and_border(columns: int, j: float, f: float) -> None:
    truth, found = np.zeros(SIZE, bool), np.zeros(SIZE, bool)
    truth[20:40, 20:40], found[20:40, 20 : 20 + columns] = True, True
    assert mask_iou(found, truth) == j
    assert boundary(found, truth) == f


def test_frames_count_from_the_one_after_the_prompt_while_the_object_shows() -> None:
    box = (CAR, 20, 20, 20, 20)
    video = [frame(), frame(box), frame(box), frame(), frame(box)]
    small = {"input.min_dim": 64, "input.max_dim": 96}
    model = open_model(load_config("hodor_lite", small), "random", "cpu")
    (followed,) = score("video", video, {CAR: 1}, model)
    assert (followed.label, followed.area, followed.frames) == (CAR, 400, 2)
    assert 0 <= followed.j <= 100
