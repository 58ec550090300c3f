"""The driving pack: split, labels, and errors that name the file."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from stemseg_ros.datasets.driving import load, load_driving
from stemseg_ros.datasets.sequence import IGNORE_LABEL, DataError, class_of, is_object

SIZE = (24, 32)


def write_frame(stem: Path, labels: np.ndarray | None = None) -> None:
    stem.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(f"{stem}.jpg", np.full((*SIZE, 3), 90, np.uint8))
    cv2.imwrite(f"{stem}.png", np.zeros(SIZE, np.uint16) if labels is None else labels)


@pytest.fixture
def pack(tmp_path: Path) -> Path:
    for clip in ("0000", "0003"):
        for frame in range(3):
            write_frame(tmp_path / "clips" / clip / f"{frame:06d}")
    for still in range(7):
        write_frame(tmp_path / "stills_city" / f"{still:06d}")
    return tmp_path


def test_held_out_parts_are_kept_from_training(pack: Path) -> None:
    split = {
        name: [(s.name, len(s)) for s in load_driving(pack, name)]
        for name in ("train", "development")
    }
    assert split["development"] == [
        ("clips/0003", 3),
        ("stills_city/000000", 1),
        ("stills_city/000005", 1),
    ]
    assert split["train"][0] == ("clips/0000", 3)
    assert [name for name, _ in split["train"][1:]] == [
        f"stills_city/{n:06d}" for n in (1, 2, 3, 4, 6)
    ]


def test_labels_and_classes(pack: Path) -> None:
    labels = np.zeros(SIZE, np.uint16)
    labels[:4], labels[4:8], labels[8:12] = 1007, 2001, IGNORE_LABEL
    write_frame(pack / "clips/0000/000001", labels)
    frame = load_driving(pack, "train")[0].read(1, classes=2)
    assert frame.image.shape == (*SIZE, 3)
    np.testing.assert_array_equal(frame.labels, labels)
    assert class_of(frame.labels)[[0, 4, 8, 12], 0].tolist() == [1, 2, 0, 0]


def spoil(pack: Path, how: str) -> None:
    image, label = pack / "clips/0000/000001.jpg", pack / "clips/0000/000001.png"
    if how == "image":
        image.write_bytes(b"no image")
    elif how == "size":
        cv2.imwrite(str(label), np.zeros((10, 10), np.uint16))
    elif how == "depth":
        cv2.imwrite(str(label), np.zeros(SIZE, np.uint8))
    else:
        cv2.imwrite(str(label), np.full(SIZE, int(how), np.uint16))


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("image", r"000001\.jpg: not readable as an image"),
        ("size", r"000001\.png: 10x10 labels for an image of 32x24"),
        ("depth", r"000001\.png: expected one channel of 16 bits"),
        ("3001", r"000001\.png: label 3001 has class 3, the configuration has 2 classes"),
        ("12", r"000001\.png: labels between 1 and 999 have no class"),
    ],
)
def test_a_mangled_file_is_named(pack: Path, how: str, reason: str) -> None:
    spoil(pack, how)
    sequence = load_driving(pack, "train")[0]
    with pytest.raises(DataError, match=reason):
        sequence.read(1, classes=2)


def test_a_missing_label_file_is_named_before_anything_is_read(pack: Path) -> None:
    (pack / "clips/0000/000002.png").unlink()
    with pytest.raises(DataError, match=r"000002\.png: missing"):
        load_driving(pack, "train")


def test_an_image_of_another_suffix_is_read(pack: Path) -> None:
    for name, suffix in (("000000", ".jpeg"), ("000002", ".JPG")):
        image = pack / "clips/0000" / f"{name}.jpg"
        image.rename(image.with_suffix(suffix))
    sequence = load_driving(pack, "train")[0]
    assert [file.name for file in sequence.images] == ["000000.jpeg", "000001.jpg", "000002.JPG"]
    sequence.check()


@pytest.mark.parametrize("folder", ["clips/0000", "stills_city"])
def test_a_label_file_without_image_is_named(pack: Path, folder: str) -> None:
    (pack / folder / "000001.jpg").unlink()
    with pytest.raises(DataError, match=r"000001\.png: its image is missing"):
        load_driving(pack, "train")


def test_frames_without_leading_zeros_are_in_order(pack: Path) -> None:
    for frame in (2, 10):
        write_frame(pack / "clips" / "0001" / str(frame))
    images = load_driving(pack, "train")[1].images
    assert [file.name for file in images] == ["2.jpg", "10.jpg"]


def test_a_missing_or_empty_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere: no such folder"):
        load_driving(tmp_path / "nowhere", "train")
    with pytest.raises(DataError, match=r"no clips/<name>/\*\.jpg or stills"):
        load_driving(tmp_path, "train")
    (tmp_path / "clips" / "0000").mkdir(parents=True)
    with pytest.raises(DataError, match=r"0000: no \*\.jpg images"):
        load_driving(tmp_path, "train")


def test_number_0_is_an_object_and_class_3_is_ignored_where_cars_are_wanted(pack: Path) -> None:
    labels = np.zeros(SIZE, np.uint16)
    labels[:4], labels[4:8] = 1000, 3001
    write_frame(pack / "stills_city/000001", labels)
    read = load(pack, "train", ["car"], "stills_city")[0].read(0).labels
    assert is_object(read[:4]).all() and (class_of(read[:4]) == 1).all()
    assert (read[4:8] == IGNORE_LABEL).all() and not read[8:].any()
