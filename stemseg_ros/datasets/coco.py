"""COCO stills: ``train2017/*.jpg`` with ``annotations/instances_train2017.json``.

Objects marked ``iscrowd`` are ignored regions. Where masks overlap the smaller object lies on top.
Images without an object of a wanted class are left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pycocotools import mask as coco_mask

from stemseg_ros.datasets.annotations import Entry, Json, JsonLabels, Span, scan
from stemseg_ros.datasets.classes import IGNORED, Targets, class_targets, label_of
from stemseg_ros.datasets.folders import first_file, first_folder, refuse_empty, refuse_missing
from stemseg_ros.datasets.sequence import IGNORE_LABEL, LabelledSequence, data_errors
from stemseg_ros.formats.youtube_vis_json import mask_rle
from stemseg_ros.records import Rle

MIN_POLYGON = 6
"""Numbers of a triangle; shorter lists enclose nothing."""


def load(root: Path, split: str, classes: Sequence[str], source: str) -> list[LabelledSequence]:
    """Every image with wanted objects; the split "train" is that of 2017. Raises DataError."""
    split = f"{split}2017" if split in ("train", "val") else split
    file = first_file(root, f"annotations/instances_{split}.json")
    folder = first_folder(root, split, f"images/{split}")
    images: dict[int, _Image] = {}
    names: dict[int, str] = {}
    for entry in scan(file, "images", "categories"):
        value = entry.value
        with data_errors(f"{file}, {entry.key}[{entry.position}]"):
            if entry.key == "images":
                size = int(value["height"]), int(value["width"])
                images[value["id"]] = _Image(str(value["file_name"]), size)
            else:
                names[value["id"]] = str(value["name"])
    targets = class_targets(names, classes, str(file))
    for entry in scan(file, "annotations"):
        with data_errors(f"{file}, annotations[{entry.position}]"):
            _add_object(images, targets, entry)
    found = [
        LabelledSequence(
            Path(image.file).stem,
            source,
            (folder / image.file,),
            JsonLabels(file, image.size, tuple(image.objects), _mask),
        )
        for image in images.values()
        if image.numbers
    ]
    refuse_empty(found, file, "no object of a class in network.classes")
    refuse_missing((sequence.images[0] for sequence in found), f"{file.name} names it")
    return found


@dataclass(slots=True)
class _Image:
    """What is known of an image while its annotations are read."""

    file: str
    size: tuple[int, int]
    objects: list[tuple[int, Span]] = field(default_factory=list)
    """(label, entry)."""
    numbers: Counter[int] = field(default_factory=Counter)
    """Objects so far of each class."""


def _add_object(images: dict[int, _Image], targets: Targets, entry: Entry) -> None:
    """Check an object and note its place. Raises ValueError, KeyError."""
    value, target = entry.value, targets.get(entry.value["category_id"])
    if value["image_id"] not in images:
        raise ValueError(f"image_id {value['image_id']} is none of the images")
    if target is None:
        raise ValueError(f"category_id {value['category_id']} is unknown")
    image = images[value["image_id"]]
    _check(value["segmentation"], image.size)
    if target and (value.get("iscrowd") or target == IGNORED):
        image.objects.append((IGNORE_LABEL, entry.span))
    elif target > 0:
        image.numbers[target] += 1
        image.objects.append((label_of(target, image.numbers[target]), entry.span))


def _check(segmentation: Any, size: tuple[int, int]) -> None:
    """Raises ValueError, KeyError for what is neither run lengths nor polygons."""
    if isinstance(segmentation, dict):
        mask_rle(segmentation, size)
        return
    if not isinstance(segmentation, list) or not any(
        len(polygon) >= MIN_POLYGON for polygon in segmentation
    ):
        raise ValueError("segmentation has no polygon of three points, and is no run lengths")
    for polygon in segmentation:
        if len(polygon) % 2 or not all(isinstance(value, int | float) for value in polygon):
            raise ValueError("a polygon is no list of x, y, x, y, ...")


def _mask(entry: Json, index: int, size: tuple[int, int]) -> Rle | None:
    segmentation = entry["segmentation"]
    if isinstance(segmentation, dict):
        return mask_rle(segmentation, size)
    parts = coco_mask.frPyObjects([p for p in segmentation if len(p) >= MIN_POLYGON], *size)
    merged = coco_mask.merge(parts)
    return Rle(size=list(size), counts=merged["counts"])
