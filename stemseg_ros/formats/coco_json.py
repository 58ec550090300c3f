"""COCO's annotation file of stills: ``instances_train2017.json``, read entry by entry."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from stemseg_ros.formats.json_entries import (
    Json,
    Span,
    flag,
    image_size,
    naming,
    refuse_second,
    scan,
    text_of,
    whole,
)
from stemseg_ros.formats.json_masks import segmentation_rle
from stemseg_ros.records import Rle


@dataclass(frozen=True, slots=True)
class StillEntry:
    """An image that the file lists."""

    number: int
    file: str
    size: tuple[int, int]
    """(H, W)."""


@dataclass(frozen=True, slots=True)
class StillObject:
    """One annotation, checked."""

    still: int
    """Number of its image."""
    class_id: int
    crowd: bool
    """A group of objects."""
    place: str
    """For messages: file and position."""
    span: Span
    """Where the annotation lies in the file."""


def read_stills(path: Path) -> tuple[dict[int, StillEntry], dict[int, str]]:
    """Images and names of classes, by id. Raises EvaluationError."""
    stills: dict[int, StillEntry] = {}
    names: dict[int, str] = {}
    for entry in scan(path, "images", "categories"):
        with naming(f"{path}, {entry.key}[{entry.position}]"):
            number = whole(entry.value, "id")
            if entry.key == "images":
                refuse_second(number, stills, "image")
                name = text_of(entry.value, "file_name")
                stills[number] = StillEntry(number, name, image_size(entry.value))
            else:
                refuse_second(number, names, "category")
                names[number] = text_of(entry.value, "name")
    return stills, names


def scan_objects(
    path: Path, stills: Mapping[int, StillEntry], names: Mapping[int, str]
) -> Iterator[StillObject]:
    """Every annotation, its masks checked. Raises EvaluationError."""
    seen: set[int] = set()
    for entry in scan(path, "annotations"):
        place = f"{path}, annotations[{entry.position}]"
        with naming(place):
            value = entry.value
            if "id" in value:
                refuse_second(whole(value, "id"), seen, "annotation")
                seen.add(whole(value, "id"))
            still, class_id = whole(value, "image_id"), whole(value, "category_id")
            if still not in stills:
                raise ValueError(f"image_id {still} is none of the images")
            if class_id not in names:
                raise ValueError(f"category_id {class_id} is unknown")
            object_mask(value, stills[still].size)
            found = StillObject(still, class_id, flag(value, "iscrowd"), place, entry.span)
        yield found


def object_mask(entry: Json, size: tuple[int, int]) -> Rle | None:
    """Mask of an annotation; None if nothing of it lies in the image. Raises ValueError,
    KeyError."""
    return segmentation_rle(entry["segmentation"], size)
