"""YouTube-VIS 2019 and 2021, and what OVIS shares with them: one JSON file, tracks of run lengths.

Layout: ``train/JPEGImages/<video>/00000.jpg`` with ``train.json`` (2019) or
``train/instances.json`` (2021). Tracks of a wanted class marked ``iscrowd`` are ignored regions;
videos without an object of a wanted class are left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from stemseg_ros.datasets.annotations import Entry, Json, JsonLabels, Span, scan
from stemseg_ros.datasets.classes import IGNORED, Targets, class_targets, label_of
from stemseg_ros.datasets.folders import first_file, first_folder, refuse_empty, refuse_missing
from stemseg_ros.datasets.sequence import IGNORE_LABEL, LabelledSequence, data_errors
from stemseg_ros.formats.youtube_vis_json import mask_rle
from stemseg_ros.records import Rle


def load(root: Path, split: str, classes: Sequence[str], source: str) -> list[LabelledSequence]:
    """Every video with wanted objects. Raises DataError."""
    file = first_file(
        root, f"{split}.json", f"{split}/instances.json", f"annotations/{split}.json"
    )
    return load_file(
        file, first_folder(root, f"{split}/JPEGImages", "JPEGImages"), classes, source
    )


def load_file(
    file: Path, images: Path, classes: Sequence[str], source: str
) -> list[LabelledSequence]:
    """The same for one annotation file and the folder of the videos' folders."""
    videos: dict[int, _Video] = {}
    names: dict[int, str] = {}
    for entry in scan(file, "videos", "categories"):
        with data_errors(f"{file}, {entry.key}[{entry.position}]"):
            if entry.key == "videos":
                videos[entry.value["id"]] = _video(entry.value)
            else:
                names[entry.value["id"]] = str(entry.value["name"])
    targets = class_targets(names, classes, str(file))
    for entry in scan(file, "annotations"):
        with data_errors(f"{file}, annotations[{entry.position}]"):
            _add_track(videos, targets, entry)
    found = [_sequence(video, file, images, source) for video in videos.values() if video.numbers]
    refuse_empty(found, file, "no object of a class in network.classes")
    refuse_missing(
        (image for sequence in found for image in sequence.images), f"{file.name} names it"
    )
    return found


@dataclass(slots=True)
class _Video:
    """What is known of a video while its annotations are read."""

    size: tuple[int, int]
    files: tuple[str, ...]
    objects: list[tuple[int, Span]] = field(default_factory=list)
    """(label, entry)."""
    numbers: Counter[int] = field(default_factory=Counter)
    """Objects so far of each class; ids of the file count through all videos."""


def _sequence(video: _Video, file: Path, images: Path, source: str) -> LabelledSequence:
    return LabelledSequence(
        Path(video.files[0]).parent.name,
        source,
        tuple(images / f for f in video.files),
        JsonLabels(file, video.size, tuple(video.objects), _mask),
    )


def _video(value: Json) -> _Video:
    files = tuple(str(name) for name in value["file_names"])
    if not files:
        raise ValueError("no file_names")
    return _Video((int(value["height"]), int(value["width"])), files)


def _add_track(videos: dict[int, _Video], targets: Targets, entry: Entry) -> None:
    """Check a track and note its place. Raises ValueError, KeyError."""
    value, target = entry.value, targets.get(entry.value["category_id"])
    if value["video_id"] not in videos:
        raise ValueError(f"video_id {value['video_id']} is none of the videos")
    if target is None:
        raise ValueError(f"category_id {value['category_id']} is unknown")
    video = videos[value["video_id"]]
    if len(value["segmentations"]) != len(video.files):
        raise ValueError(
            f"{len(value['segmentations'])} segmentations for {len(video.files)} frames"
        )
    for index in range(len(video.files)):
        _mask(value, index, video.size)
    if target and (value.get("iscrowd") or target == IGNORED):
        video.objects.append((IGNORE_LABEL, entry.span))
    elif target > 0:
        video.numbers[target] += 1
        video.objects.append((label_of(target, video.numbers[target]), entry.span))


def _mask(entry: Json, index: int, size: tuple[int, int]) -> Rle | None:
    mask = entry["segmentations"][index]
    try:
        return mask_rle(mask, size) if mask else None
    except ValueError as error:
        raise ValueError(f"frame {index}: {error}") from error
