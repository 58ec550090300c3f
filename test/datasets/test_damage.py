"""Damaged and ill-fitting files are named when a dataset is checked, and when it is read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from dataset_damage import (
    BDD_LABEL,
    CITY,
    COCO,
    CUT_OFF,
    KITTI_IMAGE,
    KITTI_LABEL,
    MOTS,
    VOC,
    Spoil,
    cut,
    flip,
    image,
    small,
    text,
)
from dataset_files import (
    CASES,
    FRAMES,
    HEIGHT,
    WIDTH,
    compressed,
    masks,
    painted,
    runs,
    write_image,
)
from PIL import Image

from stemseg_ros.datasets.mix import FORMATS
from stemseg_ros.datasets.sequence import DataError

CHECKING: list[tuple[str, Spoil, str]] = [
    ("kitti_mots", cut(KITTI_LABEL), rf"instances/0003/000001\.png: {CUT_OFF}"),
    ("kitti_mots", cut(KITTI_LABEL, 0.0), rf"0003/000001\.png: {CUT_OFF}"),
    ("kitti_mots", flip(KITTI_LABEL), r"0003/000001\.png: not readable as an image"),
    ("bdd100k", flip(BDD_LABEL), r"v1-0000002\.png: not readable as an image"),
    (
        "kitti_mots",
        image(KITTI_LABEL, small().astype(np.uint16)),
        r"0003/000001\.png: 12x10 labels for an image of 32x24",
    ),
    ("kitti_mots_txt", cut(KITTI_IMAGE), rf"image_02/0003/000001\.png: {CUT_OFF}"),
    (
        "kitti_mots_txt",
        image(KITTI_IMAGE, small()),
        r"0003\.txt, frame 1: 32x24 labels for an image of 12x10",
    ),
    ("mots_challenge", cut(f"{MOTS}/img1/000002.jpg"), r"img1/000002\.jpg: is cut off"),
    ("youtube_vis", cut("train/JPEGImages/a1/00001.jpg"), r"a1/00001\.jpg: is cut off"),
    (
        "coco",
        text("train2017/000000000009.jpg", "none"),
        r"000000000009\.jpg: not readable as an image",
    ),
    (
        "coco",
        image("train2017/000000000009.jpg", small()),
        r"train2017\.json, frame 0: 32x24 labels for an image of 12x10 \(000000000009\.jpg\)",
    ),
    (
        "pascal_voc",
        image(f"{VOC}/SegmentationClass/2007_000032.png", small()),
        r"its size differs from that of",
    ),
    ("cityscapes", cut(CITY), rf"instanceIds\.png: {CUT_OFF}"),
]
"""Seen without decoding anything, and when the frame is decoded."""

READING: list[tuple[str, Spoil, str]] = [
    (
        "kitti_mots",
        image(KITTI_LABEL, painted(1, {"car": 3001}, np.uint16)),
        r"000001\.png: category 3 is unknown",
    ),
    (
        "kitti_mots",
        image(KITTI_LABEL, painted(1, {"car": 12}, np.uint16)),
        r"000001\.png: labels between 1 and 999",
    ),
    (
        "kitti_mots",
        image(KITTI_LABEL, painted(1, {"car": 1999}, np.uint16)),
        r"000001\.png: object number 1000; ",
    ),
    (
        "kitti_mots",
        image(KITTI_LABEL, painted(1, {"car": 1}, np.uint8)),
        r"000001\.png: image mode L, expected I;16",
    ),
    (
        "davis2017",
        image("Annotations/480p/bear/00001.png", painted(1, {"car": (1, 2, 3)}, np.uint8)),
        r"bear/00001\.png: image mode RGB, expected P or L or 1",
    ),
    (
        "bdd100k",
        image(BDD_LABEL, painted(1, {"car": (9, 0, 0, 1)}, np.uint8)),
        r"2\.png: category 9 is unknown",
    ),
    (
        "bdd100k",
        image(BDD_LABEL, painted(1, {"car": (3, 0, 4, 1)}, np.uint8)),
        r"2\.png: object number 1025",
    ),
    (
        "bdd100k",
        image(BDD_LABEL, painted(1, {"car": 1}, np.uint8)),
        r"2\.png: image mode L, expected RGBA",
    ),
    (
        "pascal_voc",
        image(f"{VOC}/SegmentationClass/2007_000032.png", painted(0, {"car": 7}, np.uint8)),
        r"Object/2007_000032\.png: object 2 has no class in .*Class/2007_000032\.png",
    ),
    (
        "mapillary",
        image("training/instances/abc.png", painted(0, {"car": 256 * 6}, np.uint16)),
        r"category 6",
    ),
    (
        "cityscapes",
        image(CITY, painted(0, {"car": 34001}, np.uint16)),
        r"instanceIds\.png: category 34 is unknown",
    ),
]


@pytest.mark.parametrize(("name", "spoil", "words"), CHECKING + READING)
def test_named_when_read(name: str, spoil: Spoil, words: str, tmp_path: Path) -> None:
    CASES[name].write(tmp_path)
    spoil(tmp_path)
    with pytest.raises(DataError, match=words):
        for sequence in FORMATS[name](tmp_path, "train", CASES[name].classes, "entry"):
            list(sequence)


@pytest.mark.parametrize(("name", "spoil", "words"), CHECKING)
def test_named_before_anything_is_decoded(
    name: str, spoil: Spoil, words: str, tmp_path: Path
) -> None:
    CASES[name].write(tmp_path)
    spoil(tmp_path)
    with pytest.raises(DataError, match=words):
        for sequence in FORMATS[name](tmp_path, "train", CASES[name].classes, "entry"):
            sequence.check()


def test_a_file_that_changes_after_it_was_opened_is_named(tmp_path: Path) -> None:
    CASES["coco"].write(tmp_path)
    sequence = FORMATS["coco"](tmp_path, "train", ("car",), "entry")[0]
    (tmp_path / COCO).write_text("{}")
    with pytest.raises(DataError, match=r"instances_train2017\.json: not readable, or changed"):
        sequence.read(0)


def test_the_helpers_write_what_they_say(tmp_path: Path) -> None:
    """The errors above are those of the spoilt places alone."""
    assert sum(runs(masks(0)["car"])) == HEIGHT * WIDTH and len(compressed(masks(0)["car"])) > 4
    assert len({masks(frame)["car"].tobytes() for frame in range(FRAMES)}) == FRAMES
    write_image(tmp_path / "a.png", painted(0, {"car": 40000}, np.uint16))
    assert np.asarray(Image.open(tmp_path / "a.png")).max() == 40000
