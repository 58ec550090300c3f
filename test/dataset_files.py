"""Small datasets in the layouts of the originals: a car, a pedestrian and an ignored region."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from stemseg_ros.datasets import kitti_mots as kitti
from stemseg_ros.datasets.sequence import IGNORE_LABEL

SIZE = HEIGHT, WIDTH = 24, 32
FRAMES = 3
DRIVING_CLASSES = ("car", "pedestrian")


def masks(frame: int) -> dict[str, np.ndarray]:
    """What lies where in a frame; the car drives two pixels a frame."""
    boxes = {
        "car": np.s_[4:10, 2 + 2 * frame : 10 + 2 * frame],
        "person": np.s_[12:20, 20:24],
        "ignored": np.s_[0:2, 24:30],
    }
    found = {name: np.zeros(SIZE, bool) for name in boxes}
    for name, box in boxes.items():
        found[name][box] = True
    return found


def painted(frame: int, values: dict[str, Any], dtype: Any, background: Any = 0) -> np.ndarray:
    """An image with a value for each kind of region; channels if the values are tuples."""
    channels = np.shape(next(iter(values.values())))
    image = np.full((*SIZE, *channels), background, dtype)
    for name, value in values.items():
        image[masks(frame)[name]] = value
    return image


def write_image(path: Path, pixels: np.ndarray | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0).integers(0, 255, (*SIZE, 3), dtype=np.uint8)
    Image.fromarray(noise if pixels is None else pixels).save(path)


def compressed(mask: np.ndarray) -> str:
    text: str = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
    return text


def runs(mask: np.ndarray) -> list[int]:
    """Column-major run lengths, background first, counted one pixel at a time."""
    counts, last = [0], False
    for value in mask.ravel(order="F"):
        if value != last:
            counts.append(0)
            last = value
        counts[-1] += 1
    return counts


def write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def kitti_mots(root: Path) -> None:
    for number in kitti.TRAIN:
        for frame in range(FRAMES):
            write_image(root / f"training/image_02/{number:04d}/{frame:06d}.png")
            labels = painted(frame, {"car": 1000, "person": 2007, "ignored": 10000}, np.uint16)
            write_image(root / f"instances/{number:04d}/{frame:06d}.png", labels)


def text_lines(first: int) -> str:
    ids = {"car": (1000, 1), "person": (2007, 2), "ignored": (10000, 10)}
    return "".join(
        f"{first + frame} {id_} {class_id} {HEIGHT} {WIDTH} {compressed(masks(frame)[name])}\n"
        for frame in range(FRAMES)
        for name, (id_, class_id) in ids.items()
    )


def kitti_mots_txt(root: Path) -> None:
    for number in kitti.TRAIN:
        for frame in range(FRAMES):
            write_image(root / f"training/image_02/{number:04d}/{frame:06d}.png")
        (root / "instances_txt").mkdir(parents=True, exist_ok=True)
        (root / f"instances_txt/{number:04d}.txt").write_text(text_lines(0))


def mots_challenge(root: Path) -> None:
    folder = root / "train/MOTS20-02"
    for frame in range(FRAMES):
        write_image(folder / f"img1/{frame + 1:06d}.jpg")
    (folder / "gt").mkdir()
    (folder / "gt/gt.txt").write_text(
        "".join(line for line in text_lines(1).splitlines(keepends=True) if " 1000 " not in line)
    )
    (folder / "seqinfo.ini").write_text(f"[Sequence]\nname=MOTS20-02\nseqLength={FRAMES}\n")


def davis(root: Path, folder: str, values: dict[str, int], lists: dict[str, str]) -> None:
    for frame in range(FRAMES):
        write_image(root / f"JPEGImages/480p/bear/{frame:05d}.jpg")
        labels = painted(frame, values, np.uint8)
        palette = Image.fromarray(labels)
        palette.putpalette(list(range(256)) * 3)
        (root / folder / "bear").mkdir(parents=True, exist_ok=True)
        palette.save(root / folder / f"bear/{frame:05d}.png")
    for name, text in lists.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def davis2016(root: Path) -> None:
    lines = "".join(
        f"/JPEGImages/480p/bear/{frame:05d}.jpg /Annotations/480p/bear/{frame:05d}.png\n"
        for frame in range(FRAMES)
    )
    davis(root, "Annotations/480p", {"car": 255}, {"ImageSets/480p/train.txt": lines})


def davis2017(root: Path) -> None:
    davis(
        root, "Annotations/480p", {"car": 1, "person": 2}, {"ImageSets/2017/train.txt": "bear\n"}
    )


def davis2019(root: Path) -> None:
    davis(
        root,
        "Annotations_unsupervised/480p",
        {"car": 1, "person": 2, "ignored": 255},
        {"ImageSets/2017/train.txt": "bear\n"},
    )


def tracks(counts: Callable[[np.ndarray], Any]) -> dict[str, Any]:
    """The annotation of a video, with ids as large as the originals'; no car in frame 1."""

    def track(name: str, number: int, category: int, crowd: int) -> dict[str, Any]:
        found = [
            {"size": list(SIZE), "counts": counts(masks(frame)[name])} for frame in range(FRAMES)
        ]
        return {
            "id": number,
            "video_id": 700,
            "category_id": category,
            "iscrowd": crowd,
            "segmentations": [
                None if name == "car" and i == 1 else m for i, m in enumerate(found)
            ],
        }

    def video(number: int, folder: str) -> dict[str, Any]:
        return {
            "id": number,
            "height": HEIGHT,
            "width": WIDTH,
            "file_names": [f"{folder}/{frame:05d}.jpg" for frame in range(FRAMES)],
        }

    return {
        "info": {"description": 'é [ } "'},
        "videos": [video(700, "a1"), video(701, "b2")],
        "annotations": [
            track("car", 90001, 6, 0),
            track("person", 90002, 1, 0),
            track("ignored", 90003, 6, 1),
        ],
        "categories": [{"id": 1, "name": "person"}, {"id": 6, "name": "sedan"}],
    }


def youtube_vis(root: Path) -> None:
    for frame in range(FRAMES):
        write_image(root / f"train/JPEGImages/a1/{frame:05d}.jpg")
    write_json(root / "train.json", tracks(runs))


def ovis(root: Path) -> None:
    for frame in range(FRAMES):
        write_image(root / f"train/a1/{frame:05d}.jpg")
    write_json(root / "annotations_train.json", tracks(compressed))


def bdd100k(root: Path) -> None:
    values = {"car": (3, 0, 1, 2), "person": (1, 8, 0, 5), "ignored": (3, 2, 0, 9)}
    for frame in range(FRAMES):
        write_image(root / f"images/seg_track_20/train/v1/v1-{frame + 1:07d}.jpg")
        write_image(
            root / f"labels/seg_track_20/bitmasks/train/v1/v1-{frame + 1:07d}.png",
            painted(frame, values, np.uint8),
        )


def polygon(name: str) -> list[int]:
    """Corners of a region, which is a rectangle."""
    rows, columns = np.nonzero(masks(0)[name])
    left, right, top, bottom = columns.min(), columns.max() + 1, rows.min(), rows.max() + 1
    return [int(v) for v in (left, top, right, top, right, bottom, left, bottom)]


def coco(root: Path) -> None:
    for name in ("000000000009", "000000000025"):
        write_image(root / f"train2017/{name}.jpg")
    objects = [
        {
            "image_id": 9,
            "category_id": 3,
            "iscrowd": 0,
            "segmentation": [polygon("car"), [1, 1, 2, 2]],
        },
        {"image_id": 9, "category_id": 1, "iscrowd": 0, "segmentation": [polygon("person")]},
        {
            "image_id": 9,
            "category_id": 1,
            "iscrowd": 1,
            "segmentation": {"size": list(SIZE), "counts": runs(masks(0)["ignored"])},
        },
        {"image_id": 25, "category_id": 18, "iscrowd": 0, "segmentation": [polygon("car")]},
    ]
    write_json(
        root / "annotations/instances_train2017.json",
        {
            "images": [
                {"id": int(name), "file_name": f"{name}.jpg", "height": HEIGHT, "width": WIDTH}
                for name in ("000000000009", "000000000025")
            ],
            "annotations": [{"id": 1000000 + n, **entry} for n, entry in enumerate(objects)],
            "categories": [
                {"id": 1, "name": "person"},
                {"id": 3, "name": "car"},
                {"id": 18, "name": "dog"},
            ],
        },
    )


def pascal_voc(root: Path) -> None:
    base = root / "VOCdevkit/VOC2012"
    write_image(base / "JPEGImages/2007_000032.jpg")
    write_image(
        base / "SegmentationObject/2007_000032.png",
        painted(0, {"car": 1, "person": 2, "ignored": 255}, np.uint8),
    )
    write_image(
        base / "SegmentationClass/2007_000032.png",
        painted(0, {"car": 7, "person": 15, "ignored": 255}, np.uint8),
    )
    (base / "ImageSets/Segmentation").mkdir(parents=True)
    (base / "ImageSets/Segmentation/train.txt").write_text("2007_000032\n")


MAPILLARY_CLASSES = (
    ("animal--bird", True),
    ("object--vehicle--car", True),
    ("human--person", True),
    ("human--rider--bicyclist", True),
    ("construction--flat--road", False),
    ("void--unlabeled", False),
)


def mapillary(root: Path) -> None:
    write_image(root / "training/images/abc.jpg")
    write_image(
        root / "training/instances/abc.png",
        painted(
            0,
            {"car": 256, "person": 2 * 256 + 3, "ignored": 3 * 256},
            np.uint16,
            background=4 * 256,
        ),
    )
    write_json(
        root / "config.json",
        {
            "labels": [
                {"name": name, "instances": separate} for name, separate in MAPILLARY_CLASSES
            ]
        },
    )


def cityscapes(root: Path) -> None:
    write_image(root / "leftImg8bit/train/ulm/ulm_000000_000019_leftImg8bit.png")
    write_image(
        root / "gtFine/train/ulm/ulm_000000_000019_gtFine_instanceIds.png",
        painted(0, {"car": 26000, "person": 24003, "ignored": 26}, np.uint16, background=7),
    )


@dataclass(frozen=True)
class Case:
    """A layout, and the labels that it must be read as."""

    write: Callable[[Path], None]
    labels: dict[str, int]
    name: str
    frames: int = FRAMES
    classes: tuple[str, ...] = DRIVING_CLASSES

    def expected(self, frame: int) -> np.ndarray:
        return painted(frame, {"ignored": 0, **self.labels}, np.int32)


IGNORED = {"ignored": IGNORE_LABEL}
OBJECT = ("object",)
CASES = {
    "kitti_mots": Case(kitti_mots, {"car": 1001, "person": 2008, **IGNORED}, "0000"),
    "kitti_mots_txt": Case(kitti_mots_txt, {"car": 1001, "person": 2008, **IGNORED}, "0000"),
    "mots_challenge": Case(mots_challenge, {"person": 2008, **IGNORED}, "MOTS20-02"),
    "davis2016": Case(davis2016, {"car": 1001}, "bear", classes=OBJECT),
    "davis2017": Case(davis2017, {"car": 1001, "person": 1002}, "bear", classes=OBJECT),
    "davis2019": Case(davis2019, {"car": 1001, "person": 1002, **IGNORED}, "bear", classes=OBJECT),
    "youtube_vis": Case(youtube_vis, {"car": 1001, "person": 2001, **IGNORED}, "a1"),
    "ovis": Case(ovis, {"car": 1001, "person": 2001, **IGNORED}, "a1"),
    "bdd100k": Case(bdd100k, {"car": 1258, "person": 2005, **IGNORED}, "v1"),
    "coco": Case(coco, {"car": 1001, "person": 2001, **IGNORED}, "000000000009", 1),
    "pascal_voc": Case(pascal_voc, {"car": 1001, "person": 2002, **IGNORED}, "2007_000032", 1),
    "mapillary": Case(mapillary, {"car": 1001, "person": 2004, **IGNORED}, "abc", 1),
    "cityscapes": Case(
        cityscapes, {"car": 1001, "person": 2004, **IGNORED}, "ulm_000000_000019", 1
    ),
}
