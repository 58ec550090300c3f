"""What is missing or mangled is named: when a dataset is loaded, when it is checked, when it is read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dataset_files import (
    CASES,
    FRAMES,
    HEIGHT,
    WIDTH,
    compressed,
    masks,
    painted,
    runs,
    text_lines,
    write_image,
)
from PIL import Image

from stemseg_ros.datasets.mix import FORMATS
from stemseg_ros.datasets.sequence import DataError

Spoil = Callable[[Path], Any]


def remove(path: str) -> Spoil:
    return lambda root: (root / path).unlink()


def cut(path: str, share: float = 0.6) -> Spoil:
    def spoil(root: Path) -> None:
        content = (root / path).read_bytes()
        (root / path).write_bytes(content[:int(len(content) * share)])
    return spoil


def flip(path: str) -> Spoil:
    """One wrong byte in the pixels of a PNG."""
    def spoil(root: Path) -> None:
        content = bytearray((root / path).read_bytes())
        content[content.index(b"IDAT") + 10] ^= 0xFF
        (root / path).write_bytes(content)
    return spoil


def text(path: str, content: str) -> Spoil:
    return lambda root: (root / path).write_text(content)


def image(path: str, pixels: np.ndarray) -> Spoil:
    return lambda root: write_image(root / path, pixels)


def replaced(path: str, old: str, new: str) -> Spoil:
    def spoil(root: Path) -> None:
        content = (root / path).read_text()
        assert old in content
        (root / path).write_text(content.replace(old, new, 1))
    return spoil


def edited(path: str, edit: Callable[[dict[str, Any]], Any]) -> Spoil:
    def spoil(root: Path) -> None:
        content = json.loads((root / path).read_text())
        edit(content)
        (root / path).write_text(json.dumps(content))
    return spoil


def small() -> np.ndarray:
    return np.zeros((10, 12), np.uint8)


KITTI_LABEL, KITTI_IMAGE = "instances/0003/000001.png", "training/image_02/0003/000001.png"
KITTI_TEXT, MOTS = "instances_txt/0003.txt", "train/MOTS20-02"
VIS, OVIS, COCO = "train.json", "annotations_train.json", "annotations/instances_train2017.json"
BDD_LABEL = "labels/seg_track_20/bitmasks/train/v1/v1-0000002.png"
VOC = "VOCdevkit/VOC2012"
CITY = "gtFine/train/ulm/ulm_000000_000019_gtFine_instanceIds.png"
CUT_OFF = "(is cut off before its end|not readable as an image)"
"""A decoder may notice it first."""

LOADING: list[tuple[str, Spoil, str]] = [
    ("kitti_mots", remove(KITTI_LABEL), r"instances/0003/000001\.png: missing; an image has no labels"),
    ("kitti_mots", remove(KITTI_IMAGE), r"image_02/0003/000001: missing; .*0003/000001\.png has no image"),
    ("kitti_mots_txt", remove(KITTI_TEXT), r"0003\.txt: not readable"),
    ("kitti_mots_txt", cut(KITTI_TEXT, 0.97),
     r"0003\.txt, line 9: run lengths cover \d+ pixels of an image with 768"),
    ("kitti_mots_txt", replaced(KITTI_TEXT, " 2007 2 ", " 5007 5 "),
     r"0003\.txt, line 2: class 5 is none of 1 car"),
    ("kitti_mots_txt", text(KITTI_TEXT, text_lines(1)),
     r"0003\.txt: labels of 4 frames, .*0003 has 3 images"),
    ("kitti_mots_txt", replaced(KITTI_TEXT, " 1000 1 ", " 1999 1 "),
     r"0003\.txt: object number 1000; .* at most 999"),
    ("mots_challenge", remove(f"{MOTS}/gt/gt.txt"), r"train: no MOTSChallenge ground truth"),
    ("mots_challenge", replaced(f"{MOTS}/seqinfo.ini", "seqLength=3", "seqLength=x"),
     r"seqinfo\.ini: no seqLength"),
    ("mots_challenge", remove(f"{MOTS}/img1/000003.jpg"),
     r"gt\.txt: labels of 3 frames, .*img1 has 2 images"),
    ("davis2016", remove("ImageSets/480p/train.txt"), r"no file ImageSets/2016/train\.txt or ImageSets/480p"),
    ("davis2017", text("ImageSets/2017/train.txt", "bear\ncat\n"), r"JPEGImages/480p/cat: no such folder"),
    ("davis2017", text("ImageSets/2017/train.txt", "\n"), r"train\.txt: an empty list"),
    ("davis2017", remove("Annotations/480p/bear/00002.png"), r"bear/00002\.png: missing"),
    ("youtube_vis", cut(VIS), r"train\.json, line 1 column \d+: not readable as JSON"),
    ("youtube_vis", edited(VIS, lambda c: c.pop("annotations")), r"train\.json: no list of annotations"),
    ("youtube_vis", edited(VIS, lambda c: c["videos"][1].pop("height")), r"videos\[1\]: 'height' is missing"),
    ("youtube_vis", edited(VIS, lambda c: c["videos"][0].update(file_names=[])),
     r"videos\[0\]: no file_names"),
    ("youtube_vis", edited(VIS, lambda c: c["annotations"][1].update(category_id=7)),
     r"annotations\[1\]: category_id 7 is unknown"),
    ("youtube_vis", edited(VIS, lambda c: c["annotations"][1].update(category_id=0)),
     r"annotations\[1\]: category_id 0 is unknown"),
    ("youtube_vis", edited(VIS, lambda c: c["annotations"][2].update(video_id=7)),
     r"annotations\[2\]: video_id 7 is none of the videos"),
    ("youtube_vis", edited(VIS, lambda c: c["annotations"][0]["segmentations"].pop()),
     r"annotations\[0\]: 2 segmentations for 3 frames"),
    ("youtube_vis", edited(VIS, lambda c: c["annotations"][0]["segmentations"][2]["counts"].pop()),
     r"annotations\[0\]: frame 2: run lengths cover \d+ of 768"),
    ("youtube_vis", edited(VIS, lambda c: c["annotations"][0]["segmentations"][2].update(size=[32, 24])),
     r"annotations\[0\]: frame 2: mask size \[32, 24\] differs from \[24, 32\]"),
    ("youtube_vis", remove("train/JPEGImages/a1/00001.jpg"), r"a1/00001\.jpg: missing; train\.json names it"),
    ("ovis", edited(OVIS, lambda c: c["annotations"][0]["segmentations"][2].update(counts="02")),
     r"annotations\[0\]: frame 2: run lengths cover 2 pixels"),
    ("ovis", edited(OVIS, lambda c: c["annotations"][0]["segmentations"][2].update(counts="é")),
     r"annotations\[0\]: frame 2: byte \d+ does not occur"),
    ("bdd100k", remove(BDD_LABEL), r"v1-0000002\.png: missing"),
    ("coco", remove("train2017/000000000009.jpg"), r"000000000009\.jpg: missing; instances_train2017\.json"),
    ("coco", edited(COCO, lambda c: c["annotations"][3].update(category_id=4)),
     r"annotations\[3\]: category_id 4"),
    ("coco", edited(COCO, lambda c: c["annotations"][0].update(image_id=4)), r"annotations\[0\]: image_id 4"),
    ("coco", edited(COCO, lambda c: c["annotations"][0].update(segmentation=[])),
     r"annotations\[0\]: .*no polygon"),
    ("coco", edited(COCO, lambda c: c["annotations"][0].update(segmentation=[[1, 2, 3, 4, 5, 6, 7]])),
     r"annotations\[0\]: a polygon is no list of x, y"),
    ("coco", edited(COCO, lambda c: c["annotations"][2]["segmentation"]["counts"].append(1)),
     r"annotations\[2\]: run lengths cover 769 of 768"),
    ("coco", edited(COCO, lambda c: c["annotations"][1].pop("segmentation")),
     r"\[1\]: 'segmentation' is missing"),
    ("coco", edited(COCO, lambda c: c["annotations"].insert(1, 5)),
     r"not readable as JSON: expected an object"),
    ("pascal_voc", remove(f"{VOC}/SegmentationClass/2007_000032.png"),
     r"Class/2007_000032\.png: missing; the list"),
    ("pascal_voc", remove(f"{VOC}/ImageSets/Segmentation/train.txt"), r"train\.txt: not readable as a list"),
    ("mapillary", remove("training/instances/abc.png"),
     r"instances/abc\.png: missing; an image has no labels"),
    ("mapillary", cut("config.json"), r"config\.json: not readable as JSON"),
    ("mapillary", edited("config.json", lambda c: c.pop("labels")), r"config\.json: 'labels' is missing"),
    ("cityscapes", remove(CITY), r"instanceIds\.png: missing"),
]


@pytest.mark.parametrize(("name", "spoil", "words"), LOADING)
def test_named_when_loaded(name: str, spoil: Spoil, words: str, tmp_path: Path) -> None:
    CASES[name].write(tmp_path)
    spoil(tmp_path)
    with pytest.raises(DataError, match=words):
        FORMATS[name](tmp_path, "train", CASES[name].classes, "entry")


@pytest.mark.parametrize("name", CASES)
def test_a_folder_that_is_not_there_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere: no such folder"):
        FORMATS[name](tmp_path / "nowhere", "train", CASES[name].classes, "entry")
    with pytest.raises(DataError, match=r"no fi|no fo"):
        FORMATS[name](tmp_path, "train", CASES[name].classes, "entry")


CHECKING: list[tuple[str, Spoil, str]] = [
    ("kitti_mots", cut(KITTI_LABEL), rf"instances/0003/000001\.png: {CUT_OFF}"),
    ("kitti_mots", cut(KITTI_LABEL, 0.0), rf"0003/000001\.png: {CUT_OFF}"),
    ("kitti_mots", flip(KITTI_LABEL), r"0003/000001\.png: not readable as an image"),
    ("bdd100k", flip(BDD_LABEL), r"v1-0000002\.png: not readable as an image"),
    ("kitti_mots", image(KITTI_LABEL, small().astype(np.uint16)),
     r"0003/000001\.png: 12x10 labels for an image of 32x24"),
    ("kitti_mots_txt", cut(KITTI_IMAGE), rf"image_02/0003/000001\.png: {CUT_OFF}"),
    ("kitti_mots_txt", image(KITTI_IMAGE, small()),
     r"0003\.txt, frame 1: 32x24 labels for an image of 12x10"),
    ("mots_challenge", cut(f"{MOTS}/img1/000002.jpg"), r"img1/000002\.jpg: is cut off"),
    ("youtube_vis", cut("train/JPEGImages/a1/00001.jpg"), r"a1/00001\.jpg: is cut off"),
    ("coco", text("train2017/000000000009.jpg", "none"), r"000000000009\.jpg: not readable as an image"),
    ("coco", image("train2017/000000000009.jpg", small()),
     r"instances_train2017\.json, frame 0: 32x24 labels for an image of 12x10 \(000000000009\.jpg\)"),
    ("pascal_voc", image(f"{VOC}/SegmentationClass/2007_000032.png", small()),
     r"its size differs from that of"),
    ("cityscapes", cut(CITY), rf"instanceIds\.png: {CUT_OFF}"),
]
"""Seen without decoding anything, and when the frame is decoded."""

READING: list[tuple[str, Spoil, str]] = [
    ("kitti_mots", image(KITTI_LABEL, painted(1, {"car": 3001}, np.uint16)),
     r"000001\.png: category 3 is unknown"),
    ("kitti_mots", image(KITTI_LABEL, painted(1, {"car": 12}, np.uint16)),
     r"000001\.png: labels between 1 and 999"),
    ("kitti_mots", image(KITTI_LABEL, painted(1, {"car": 1999}, np.uint16)),
     r"000001\.png: object number 1000; "),
    ("kitti_mots", image(KITTI_LABEL, painted(1, {"car": 1}, np.uint8)),
     r"000001\.png: image mode L, expected I;16"),
    ("davis2017", image("Annotations/480p/bear/00001.png", painted(1, {"car": (1, 2, 3)}, np.uint8)),
     r"bear/00001\.png: image mode RGB, expected P or L or 1"),
    ("bdd100k", image(BDD_LABEL, painted(1, {"car": (9, 0, 0, 1)}, np.uint8)),
     r"2\.png: category 9 is unknown"),
    ("bdd100k", image(BDD_LABEL, painted(1, {"car": (3, 0, 4, 1)}, np.uint8)), r"2\.png: object number 1025"),
    ("bdd100k", image(BDD_LABEL, painted(1, {"car": 1}, np.uint8)), r"2\.png: image mode L, expected RGBA"),
    ("pascal_voc", image(f"{VOC}/SegmentationClass/2007_000032.png", painted(0, {"car": 7}, np.uint8)),
     r"Object/2007_000032\.png: object 2 has no class in .*Class/2007_000032\.png"),
    ("mapillary", image("training/instances/abc.png", painted(0, {"car": 256 * 6}, np.uint16)),
     r"category 6"),
    ("cityscapes", image(CITY, painted(0, {"car": 34001}, np.uint16)),
     r"instanceIds\.png: category 34 is unknown"),
]


@pytest.mark.parametrize(("name", "spoil", "words"), CHECKING + READING)
def test_named_when_read(name: str, spoil: Spoil, words: str, tmp_path: Path) -> None:
    CASES[name].write(tmp_path)
    spoil(tmp_path)
    with pytest.raises(DataError, match=words):
        for sequence in FORMATS[name](tmp_path, "train", CASES[name].classes, "entry"):
            list(sequence)


@pytest.mark.parametrize(("name", "spoil", "words"), CHECKING)
def test_named_before_anything_is_decoded(name: str, spoil: Spoil, words: str, tmp_path: Path) -> None:
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
    """The errors above are those of the spoilt places: frames do differ, run lengths do cover the image."""
    assert sum(runs(masks(0)["car"])) == HEIGHT * WIDTH and len(compressed(masks(0)["car"])) > 4
    assert len({masks(frame)["car"].tobytes() for frame in range(FRAMES)}) == FRAMES
    write_image(tmp_path / "a.png", painted(0, {"car": 40000}, np.uint16))
    assert np.asarray(Image.open(tmp_path / "a.png")).max() == 40000
