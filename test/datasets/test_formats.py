"""Every format on small files in its real layout, against masks known by construction."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from dataset_files import CASES, SIZE, masks, painted, write_image

from stemseg_ros.datasets.mix import FORMATS
from stemseg_ros.datasets.sequence import IGNORE_LABEL, LabelledSequence, paint
from stemseg_ros.masks import encode


def load(name: str, root: Path, classes: tuple[str, ...] | None = None) -> list[LabelledSequence]:
    return FORMATS[name](root, "train", classes or CASES[name].classes, "entry")


def test_every_format_is_tested() -> None:
    assert set(CASES) | {"driving", "stills"} == set(
        FORMATS
    )  # those two: test_driving.py, test_labelled_stills.py


@pytest.fixture(params=CASES)
def written(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path]:
    CASES[request.param].write(tmp_path)
    return request.param, tmp_path


def test_labels_are_those_that_were_written(written: tuple[str, Path]) -> None:
    name, root = written
    case, sequence = CASES[name], load(name, root)[0]
    assert (sequence.name, sequence.source, len(sequence)) == (case.name, "entry", case.frames)
    sequence.check()
    for index, frame in enumerate(sequence):
        expected = case.expected(index)
        if name in ("youtube_vis", "ovis") and index == 1:
            expected[masks(1)["car"]] = 0  # the track has no mask there
        np.testing.assert_array_equal(frame.labels, expected)
        assert frame.image.shape == (*SIZE, 3) and frame.image.dtype == np.uint8


def test_a_worker_process_reads_the_same(written: tuple[str, Path]) -> None:
    name, root = written
    sequence = load(name, root)[0]
    again = pickle.loads(pickle.dumps(sequence))
    np.testing.assert_array_equal(again[-1].labels, sequence[-1].labels)


def test_frames_are_read_when_they_are_asked_for(written: tuple[str, Path]) -> None:
    name, root = written
    sequence = load(name, root)[0]
    before = sequence[0].image
    write_image(sequence.images[0], np.full((*SIZE, 3), 200, np.uint8))
    assert abs(int(sequence[0].image.mean()) - 200) < 2 and before.mean() < 150
    assert [len(frame.labels) for frame in sequence[::-1]] == [SIZE[0]] * len(sequence)


@pytest.mark.parametrize(
    ("name", "classes", "labels"),
    [
        ("kitti_mots", ("bus", "person"), {"person": 2008, "ignored": IGNORE_LABEL}),
        (
            "kitti_mots",
            ("pedestrian", "car"),
            {"car": 2001, "person": 1008, "ignored": IGNORE_LABEL},
        ),
        ("youtube_vis", ("giraffe", "sedan"), {"car": 2001, "ignored": IGNORE_LABEL}),
        ("youtube_vis", ("person",), {"person": 1001, "ignored": 0}),  # a crowd of sedans
        ("ovis", ("person",), {"person": 1001, "ignored": 0}),
        (
            "coco",
            ("dog", "car"),
            {"car": 2001, "ignored": 0},
        ),  # a crowd of a class that is not wanted
        ("pascal_voc", ("object",), {"car": 1001, "person": 1002, "ignored": IGNORE_LABEL}),
        (
            "cityscapes",
            ("pedestrian",),
            {"person": 1004, "ignored": 0},
        ),  # a group of cars is background then
        (
            "mapillary",
            ("bird", "car"),
            {"car": 2001, "ignored": 0},
        ),  # a cyclist matters to pedestrians alone
        ("mapillary", ("bicyclist",), {"ignored": 1001}),
    ],
)
def test_classes_are_mapped_by_name(
    name: str, classes: tuple[str, ...], labels: dict[str, int], tmp_path: Path
) -> None:
    CASES[name].write(tmp_path)
    frame = load(name, tmp_path, classes)[0][0]
    np.testing.assert_array_equal(frame.labels, painted(0, {"ignored": 0, **labels}, np.int32))


@pytest.mark.parametrize("name", CASES)
def test_a_list_of_other_classes_is_refused(name: str, tmp_path: Path) -> None:
    CASES[name].write(tmp_path)
    with pytest.raises(Exception, match=r"network\.classes \(unicorn\) has none of its classes"):
        load(name, tmp_path, ("unicorn",))


def test_images_and_videos_without_wanted_objects_are_left_out(tmp_path: Path) -> None:
    CASES["coco"].write(tmp_path / "coco")
    CASES["youtube_vis"].write(tmp_path / "vis")
    assert [s.name for s in load("coco", tmp_path / "coco")] == ["000000000009"]
    assert [s.name for s in load("youtube_vis", tmp_path / "vis")] == ["a1"]


def test_the_smaller_of_overlapping_objects_lies_on_top(tmp_path: Path) -> None:
    from dataset_files import coco, write_json

    coco(tmp_path)
    square = [[4, 4, 20, 4, 20, 20, 4, 20]], [[8, 8, 12, 8, 12, 12, 8, 12]]
    write_json(
        tmp_path / "annotations/instances_train2017.json",
        {
            "images": [{"id": 9, "file_name": "000000000009.jpg", "height": 24, "width": 32}],
            "annotations": [
                {"image_id": 9, "category_id": 3, "segmentation": part}
                for part in reversed(square)
            ],
            "categories": [{"id": 3, "name": "car"}],
        },
    )
    labels = load("coco", tmp_path)[0][0].labels
    assert (labels[5, 5], labels[9, 9], labels[0, 0]) == (1002, 1001, 0)
    assert [(labels == label).sum() for label in (1001, 1002)] == [16, 256 - 16]


def test_ignored_regions_lie_below_objects() -> None:
    """However small they are: a crowd box must not cut a hole into someone in front of it."""
    large, little = np.zeros((8, 8), bool), np.zeros((8, 8), bool)
    large[:, :6], little[2:4, 4:8] = True, True
    labels = paint((8, 8), [(1001, encode(large)), (IGNORE_LABEL, encode(little))])
    np.testing.assert_array_equal(labels == 1001, large)
    np.testing.assert_array_equal(labels == IGNORE_LABEL, little & ~large)


def test_splits_of_kitti_mots_and_davis_are_the_published_ones(tmp_path: Path) -> None:
    CASES["kitti_mots"].write(tmp_path)
    assert [s.name for s in load("kitti_mots", tmp_path)] == [
        "0000",
        "0001",
        "0003",
        "0004",
        "0005",
        "0009",
        "0011",
        "0012",
        "0015",
        "0017",
        "0019",
        "0020",
    ]
    with pytest.raises(Exception, match=r"0002: no such folder"):
        FORMATS["kitti_mots"](tmp_path, "val", ("car",), "entry")
    with pytest.raises(Exception, match="splits train, val, trainval, not 'tset'"):
        FORMATS["kitti_mots"](tmp_path, "tset", ("car",), "entry")


@pytest.mark.parametrize(
    ("name", "moves"),
    [
        ("ovis", {"annotations_train.json": "annotations/annotations_train.json"}),
        ("ovis", {"annotations_train.json": "train.json", "train/a1": "train/JPEGImages/a1"}),
        ("youtube_vis", {"train.json": "train/instances.json"}),
        ("kitti_mots", {"training/image_02": "image_02"}),
        ("davis2016", {"ImageSets/480p": "ImageSets/2016"}),
        ("coco", {"train2017": "images/train2017"}),
        ("pascal_voc", {"VOCdevkit/VOC2012": "VOC2012"}),
        (
            "mapillary",
            {"training/instances": "training/v1.2/instances", "config.json": "config_v1.2.json"},
        ),
        (
            "mapillary",
            {"training/instances": "training/v2.0/instances", "config.json": "config_v2.0.json"},
        ),
    ],
)
def test_other_layouts_of_the_same(name: str, moves: dict[str, str], tmp_path: Path) -> None:
    CASES[name].write(tmp_path)
    for old, new in moves.items():
        (tmp_path / new).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / old).rename(tmp_path / new)
    labels = load(name, tmp_path)[0][0].labels
    np.testing.assert_array_equal(labels, CASES[name].expected(0))


@pytest.mark.parametrize("name", CASES)
def test_a_byte_order_mark_before_texts_is_passed(name: str, tmp_path: Path) -> None:
    CASES[name].write(tmp_path)
    for file in tmp_path.rglob("*"):
        if file.suffix in (".txt", ".json", ".ini"):
            file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    labels = load(name, tmp_path)[0][0].labels
    np.testing.assert_array_equal(labels, CASES[name].expected(0))
