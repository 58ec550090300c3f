"""Ground truth and results made of vertical strips, so that every overlap can be computed by
hand."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from stemseg_ros.formats.kitti_lines import ResultRow
from stemseg_ros.formats.sequence_masks import SequenceMasks
from stemseg_ros.masks import encode
from stemseg_ros.records import Rle

HEIGHT, WIDTH = 20, 60
CLASSES = {1: "car", 2: "pedestrian"}
CAR, PEDESTRIAN = 1, 2


def strip(first: int, last: int) -> Rle:
    """The columns first .. last - 1, full height."""
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[:, first:last] = True
    return encode(mask)


def row(frame: int, track: int, first: int, last: int, class_id: int = CAR) -> ResultRow:
    return ResultRow(frame, class_id * 1000 + track, class_id, strip(first, last))


def sequence(
    rows: Iterable[ResultRow],
    frames: int = 10,
    name: str = "0000",
    ignored: Mapping[int, Rle] | None = None,
    scores: Mapping[int, float] | None = None,
    classes: Mapping[int, str] = CLASSES,
) -> SequenceMasks:
    return SequenceMasks(
        name, (HEIGHT, WIDTH), frames, classes, tuple(rows), ignored or {}, scores=scores or {}
    )


def two_cars(frames: int = 10) -> SequenceMasks:
    """Car 1 in columns 0-11, car 2 in columns 12-19 of every frame."""
    return sequence(
        [r for t in range(frames) for r in (row(t, 1, 0, 12), row(t, 2, 12, 20))], frames
    )


def switching(length: int = 10) -> SequenceMasks:
    """Results for two_cars: car 1 changes its id in frame 4 and is lost in frame 7, with another
    id after."""
    rows = []
    for t in range(length):
        if t != 7:
            rows.append(row(t, 1 if t < 4 else 5 if t < 7 else 6, 0, 12))
        rows.append(row(t, 2, 12, 20))
    return sequence(rows, length)
