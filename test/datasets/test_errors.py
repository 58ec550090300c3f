"""What is missing or does not belong together is named when a dataset is loaded."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from dataset_damage import (
    BDD_LABEL,
    CITY,
    COCO,
    KITTI_IMAGE,
    KITTI_LABEL,
    KITTI_TEXT,
    MOTS,
    OVIS,
    VIS,
    VOC,
    Spoil,
    cut,
    edited,
    remove,
    remove_folder,
    replaced,
    text,
    twin,
)
from dataset_files import CASES, text_lines

from stemseg_ros.datasets.mix import FORMATS
from stemseg_ros.datasets.sequence import DataError

LOADING: list[tuple[str, Spoil, str]] = [
    (
        "kitti_mots",
        remove(KITTI_LABEL),
        r"instances/0003/000001\.png: missing; an image has no labels",
    ),
    (
        "kitti_mots",
        remove(KITTI_IMAGE),
        r"instances/0003/000001\.png: its image is missing",
    ),
    ("kitti_mots_txt", remove(KITTI_TEXT), r"0003\.txt: not readable"),
    (
        "kitti_mots_txt",
        cut(KITTI_TEXT, 0.97),
        r"0003\.txt, line 9: run lengths cover \d+ pixels of an image with 768",
    ),
    (
        "kitti_mots_txt",
        replaced(KITTI_TEXT, " 2007 2 ", " 5007 5 "),
        r"0003\.txt, line 2: class 5 is none of 1 car",
    ),
    (
        "kitti_mots_txt",
        text(KITTI_TEXT, text_lines(1)),
        r"0003\.txt: labels of 4 frames, .*0003 has 3 images",
    ),
    (
        "kitti_mots_txt",
        replaced(KITTI_TEXT, " 1000 1 ", " 1999 1 "),
        r"0003\.txt: object number 1000; .* at most 999",
    ),
    ("mots_challenge", remove(f"{MOTS}/gt/gt.txt"), r"gt\.txt: missing; a sequence has"),
    (
        "mots_challenge",
        replaced(f"{MOTS}/seqinfo.ini", "seqLength=3", "seqLength=x"),
        r"seqinfo\.ini: no seqLength",
    ),
    (
        "mots_challenge",
        remove(f"{MOTS}/img1/000003.jpg"),
        r"gt\.txt: labels of 3 frames, .*img1 has 2 images",
    ),
    (
        "davis2016",
        remove("ImageSets/480p/train.txt"),
        r"no file ImageSets/2016/train\.txt or ImageSets/480p",
    ),
    (
        "davis2017",
        text("ImageSets/2017/train.txt", "bear\ncat\n"),
        r"JPEGImages/480p/cat: no such folder",
    ),
    ("davis2017", text("ImageSets/2017/train.txt", "\n"), r"train\.txt: an empty list"),
    ("davis2017", remove("Annotations/480p/bear/00002.png"), r"bear/00002\.png: missing"),
    ("youtube_vis", cut(VIS), r"train\.json, line 1 column \d+: not readable as JSON"),
    (
        "youtube_vis",
        edited(VIS, lambda c: c.pop("annotations")),
        r"train\.json: no list of annotations",
    ),
    (
        "youtube_vis",
        edited(VIS, lambda c: c["videos"][1].pop("height")),
        r"videos\[1\]: 'height' is missing",
    ),
    (
        "youtube_vis",
        edited(VIS, lambda c: c["videos"][0].update(file_names=[])),
        r"videos\[0\]: no file_names",
    ),
    (
        "youtube_vis",
        edited(VIS, lambda c: c["annotations"][1].update(category_id=7)),
        r"annotations\[1\]: category_id 7 is unknown",
    ),
    (
        "youtube_vis",
        edited(VIS, lambda c: c["annotations"][1].update(category_id=0)),
        r"annotations\[1\]: category_id 0 is unknown",
    ),
    (
        "youtube_vis",
        edited(VIS, lambda c: c["annotations"][2].update(video_id=7)),
        r"annotations\[2\]: video_id 7 is none of the videos",
    ),
    (
        "youtube_vis",
        edited(VIS, lambda c: c["annotations"][0]["segmentations"].pop()),
        r"annotations\[0\]: 2 segmentations for 3 frames",
    ),
    (
        "youtube_vis",
        edited(VIS, lambda c: c["annotations"][0]["segmentations"][2]["counts"].pop()),
        r"annotations\[0\]: frame 2: run lengths cover \d+ of 768",
    ),
    (
        "youtube_vis",
        edited(VIS, lambda c: c["annotations"][0]["segmentations"][2].update(size=[32, 24])),
        r"annotations\[0\]: frame 2: mask size \[32, 24\] differs from \[24, 32\]",
    ),
    (
        "youtube_vis",
        remove("train/JPEGImages/a1/00001.jpg"),
        r"a1/00001\.jpg: missing; train\.json names it",
    ),
    (
        "ovis",
        edited(OVIS, lambda c: c["annotations"][0]["segmentations"][2].update(counts="02")),
        r"annotations\[0\]: frame 2: run lengths cover 2 pixels",
    ),
    (
        "ovis",
        edited(OVIS, lambda c: c["annotations"][0]["segmentations"][2].update(counts="é")),
        r"annotations\[0\]: frame 2: byte \d+ does not occur",
    ),
    ("bdd100k", remove(BDD_LABEL), r"v1-0000002\.png: missing"),
    (
        "coco",
        remove("train2017/000000000009.jpg"),
        r"000000000009\.jpg: missing; instances_train2017\.json",
    ),
    (
        "coco",
        edited(COCO, lambda c: c["annotations"][3].update(category_id=4)),
        r"annotations\[3\]: category_id 4",
    ),
    (
        "coco",
        edited(COCO, lambda c: c["annotations"][0].update(image_id=4)),
        r"annotations\[0\]: image_id 4",
    ),
    (
        "coco",
        edited(COCO, lambda c: c["annotations"][0].update(segmentation=[])),
        r"annotations\[0\]: .*no polygon",
    ),
    (
        "coco",
        edited(COCO, lambda c: c["annotations"][0].update(segmentation=[[1, 2, 3, 4, 5, 6, 7]])),
        r"annotations\[0\]: polygon 0: a polygon is no list of x, y",
    ),
    (
        "coco",
        edited(COCO, lambda c: c["annotations"][1]["segmentation"][0].append(float("nan"))),
        r"annotations\[1\]: polygon 0: a polygon is no list of x, y",
    ),
    (
        "coco",
        edited(COCO, lambda c: c["annotations"][1]["segmentation"][0].__setitem__(2, math.nan)),
        r"annotations\[1\]: polygon 0: a coordinate is nan",
    ),
    (
        "coco",
        edited(COCO, lambda c: c["annotations"][1].update(id=1000000)),
        r"annotations\[1\]: a second annotation with the id 1000000",
    ),
    (
        "coco",
        edited(COCO, lambda c: c["images"][1].update(id=9)),
        r"images\[1\]: a second image with the id 9",
    ),
    (
        "coco",
        edited(COCO, lambda c: c["images"][1].update(width=1e9)),
        r"images\[1\]: width is a fraction",
    ),
    (
        "coco",
        edited(COCO, lambda c: c["annotations"][2]["segmentation"]["counts"].append(1)),
        r"annotations\[2\]: run lengths cover 769 of 768",
    ),
    (
        "coco",
        edited(COCO, lambda c: c["annotations"][1].pop("segmentation")),
        r"\[1\]: 'segmentation' is missing",
    ),
    (
        "coco",
        edited(COCO, lambda c: c["annotations"].insert(1, 5)),
        r"annotations\[1\]: is a whole number, expected an object",
    ),
    (
        "pascal_voc",
        remove(f"{VOC}/SegmentationClass/2007_000032.png"),
        r"Class/2007_000032\.png: missing; the list",
    ),
    (
        "pascal_voc",
        remove(f"{VOC}/ImageSets/Segmentation/train.txt"),
        r"train\.txt: not readable as a list",
    ),
    (
        "mapillary",
        remove("training/instances/abc.png"),
        r"instances/abc\.png: missing; an image has no labels",
    ),
    ("mapillary", cut("config.json"), r"config\.json: not readable as JSON"),
    (
        "mapillary",
        edited("config.json", lambda c: c.pop("labels")),
        r"config\.json: 'labels' is missing",
    ),
    ("bdd100k", remove_folder("images/seg_track_20/train/v1"), r"train: no folders in it"),
    ("bdd100k", twin("labels/seg_track_20/bitmasks/train/v1"), r"train/v1-b: no such folder"),
    ("cityscapes", twin(CITY), r"-b_gtFine_instanceIds\.png: its image is missing"),
    ("mapillary", twin("training/instances/abc.png"), r"abc-b\.png: its image is missing"),
    ("mots_challenge", twin(MOTS), r"MOTS20-02-b/gt/gt\.txt: missing; a sequence"),
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
