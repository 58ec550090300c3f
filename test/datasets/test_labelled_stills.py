"""Stills of objects of any class."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from stemseg_ros.datasets.labelled_stills import load, read_labels
from stemseg_ros.datasets.sequence import IGNORE_LABEL, DataError

SIZE = (4, 6)


def write(stem: Path, values: list[int] | None) -> None:
    """A grey image and, with values, labels of one column each."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(f"{stem}.jpg", np.full((*SIZE, 3), 90, np.uint8))
    if values is not None:
        cv2.imwrite(f"{stem}.png", np.tile(np.array(values, np.uint16), (SIZE[0], 1)))


def test_every_still_is_a_video_of_one_frame(tmp_path: Path) -> None:
    for name in ("10", "9", "more/1"):
        write(tmp_path / name, [0, 1, 1, 2, 2, 2])
    videos = load(tmp_path, "train", ("object",), "stills")
    assert [video.name for video in videos] == ["stills/more/1", "stills/9", "stills/10"]


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ([0, 1, 1, 2, 2, 2], [0, 1001, 1001, 1002, 1002, 1002]),
        ([0, 255, 7, 7, 7, 7], [0, 1002, 1001, 1001, 1001, 1001]),
        ([1001, 2001, 10000, 0, 0, 0], [1001, 1002, IGNORE_LABEL, 0, 0, 0]),
        ([1000, 2000, 1001, 0, 0, 0], [IGNORE_LABEL, IGNORE_LABEL, 1001, 0, 0, 0]),
    ],
)
def test_values_become_objects(tmp_path: Path, values: list[int], wanted: list[int]) -> None:
    write(tmp_path / "a", values)
    assert (read_labels(tmp_path / "a.png") == np.array(wanted)).all()


@pytest.mark.parametrize(
    ("values", "split", "message"),
    [(None, "train", r"a\.png"), ([0] * 6, "val", "split train")],
)
def test_mistakes_are_named(
    tmp_path: Path, values: list[int] | None, split: str, message: str
) -> None:
    write(tmp_path / "a", values)
    with pytest.raises(DataError, match=message):
        load(tmp_path, split, ("object",), "stills")


def test_an_empty_or_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere: no such folder"):
        load(tmp_path / "nowhere", "train", ("object",), "stills")
    with pytest.raises(DataError, match=r"no \*\.jpg images"):
        load(tmp_path, "train", ("object",), "stills")
