"""YouTube-VIS 2019 / 2021 and OVIS: one JSON file, masks as run lengths, one entry per track.

Ground truth: {"videos", "categories", "annotations"}; results: a list of {"video_id",
"category_id", "score", "segmentations"} with one mask or null per frame. Sequences are named by
the folder of their images; tracks of results are numbered from 1 in the order of the file.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from stemseg_ros.formats.kitti_lines import ResultRow
from stemseg_ros.formats.sequence_masks import EvaluationError, SequenceMasks
from stemseg_ros.masks import check_counts, decode
from stemseg_ros.records import Rle

Entry = dict[str, Any]


def read_truth(path: Path) -> dict[str, SequenceMasks]:
    """All videos of an annotation file; the public files of test videos have no annotations.

    Raises EvaluationError.
    """
    content = _load(path)
    if not isinstance(content, dict) or not {"videos", "categories"} <= content.keys():
        raise EvaluationError(
            f"{path}: expected an object with videos, categories and annotations"
        )
    tracks: defaultdict[int, list[tuple[int, Entry]]] = defaultdict(list)
    classes: dict[int, str] = {}
    sequences: dict[str, SequenceMasks] = {}
    for where, entry in enumerate(content.get("annotations") or ()):
        with _named(f"{path}, annotations[{where}]"):
            tracks[entry["video_id"]].append((entry["id"], entry))
    for where, category in enumerate(content["categories"]):
        with _named(f"{path}, categories[{where}]"):
            classes[int(category["id"])] = str(category["name"])
    for where, video in enumerate(content["videos"]):
        with _named(f"{path}, videos[{where}]"):
            sequence = _video(video, tracks[video["id"]], classes)
        if sequence.name in sequences:
            raise EvaluationError(
                f"{path}, videos[{where}]: a second video in the folder {sequence.name}"
            )
        sequences[sequence.name] = sequence
    return sequences


def read_results(path: Path, truths: Mapping[str, SequenceMasks]) -> dict[str, SequenceMasks]:
    """A results file; videos that it does not name have no tracks. Raises EvaluationError."""
    content = _load(path)
    if not isinstance(content, list):
        raise EvaluationError(f"{path}: expected a list of tracks, found {type(content).__name__}")
    by_number = {truth.number: truth for truth in truths.values()}
    rows: defaultdict[str, list[ResultRow]] = defaultdict(list)
    scores: defaultdict[str, dict[int, float]] = defaultdict(dict)
    for where, entry in enumerate(content):
        with _named(f"{path}, [{where}]"):
            truth = by_number.get(entry["video_id"])
            if truth is None:
                raise ValueError(f"video_id {entry['video_id']} is not in the ground truth")
            rows[truth.name] += _track(entry, where + 1, truth)
            scores[truth.name][where + 1] = float(entry["score"])
    return {
        name: SequenceMasks(
            name,
            truth.size,
            truth.frames,
            truth.classes,
            tuple(rows[name]),
            scores=scores[name],
            files=truth.files,
            number=truth.number,
        )
        for name, truth in truths.items()
    }


def write(path: Path, sequences: Iterable[SequenceMasks], truth: bool = False) -> None:
    """One JSON file; videos without a number are numbered from 1. Raises EvaluationError."""
    everything = list(sequences)
    numbers = [sequence.number or n for n, sequence in enumerate(everything, start=1)]
    tracks = [
        {"video_id": number, **track}
        for number, sequence in zip(numbers, everything, strict=True)
        for track in _entries(sequence, truth)
    ]
    content: object = tracks
    if truth:
        classes = {i: name for sequence in everything for i, name in sequence.classes.items()}
        content = {
            "videos": [
                _video_entry(number, s) for number, s in zip(numbers, everything, strict=True)
            ],
            "categories": [{"id": i, "name": name} for i, name in sorted(classes.items())],
            "annotations": [{**track, "id": n} for n, track in enumerate(tracks, start=1)],
        }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content) + "\n", encoding="utf-8")
    except OSError as error:
        raise EvaluationError(f"cannot write {path}: {error.strerror}") from error


def _video(
    video: Entry, tracks: list[tuple[int, Entry]], classes: Mapping[int, str]
) -> SequenceMasks:
    files = tuple(str(name) for name in video["file_names"])
    empty = SequenceMasks(
        Path(files[0]).parent.name,
        (int(video["height"]), int(video["width"])),
        len(files),
        classes,
        (),
        files=files,
        number=int(video["id"]),
    )
    rows = [row for id_, entry in tracks for row in _track(entry, id_, empty)]
    crowd = frozenset(id_ for id_, entry in tracks if entry.get("iscrowd"))
    return SequenceMasks(
        empty.name,
        empty.size,
        empty.frames,
        classes,
        tuple(rows),
        files=files,
        number=empty.number,
        crowd=crowd,
    )


def _track(entry: Entry, id_: int, video: SequenceMasks) -> list[ResultRow]:
    """Masks of one track. Raises ValueError."""
    masks = entry["segmentations"]
    if len(masks) != video.frames:
        raise ValueError(
            f"{len(masks)} segmentations, the video {video.name} has {video.frames} frames"
        )
    if entry["category_id"] not in video.classes:
        raise ValueError(f"category_id {entry['category_id']} is not in the ground truth")
    return [
        ResultRow(frame, id_, entry["category_id"], _checked_rle(mask, video.size, frame))
        for frame, mask in enumerate(masks)
        if mask
    ]


def _checked_rle(mask: Entry, size: tuple[int, int], frame: int) -> Rle:
    try:
        return mask_rle(mask, size)
    except ValueError as error:
        raise ValueError(f"frame {frame}: {error}") from error


def mask_rle(mask: Entry, size: tuple[int, int]) -> Rle:
    """A mask of an annotation file, {"size", "counts"}, compressed or not. Raises ValueError,
    KeyError."""
    if list(mask["size"]) != list(size):
        raise ValueError(f"mask size {mask['size']} differs from {list(size)} (height, width)")
    counts = mask["counts"]
    if isinstance(counts, list):
        if sum(counts) != size[0] * size[1] or min(counts, default=0) < 0:
            raise ValueError(f"run lengths cover {sum(counts)} of {size[0] * size[1]} pixels")
        counts = coco_mask.frPyObjects({"size": list(size), "counts": counts}, *size)["counts"]
    rle = Rle(size=list(size), counts=counts.encode() if isinstance(counts, str) else counts)
    check_counts(rle["counts"], size[0] * size[1])
    return rle


def _entries(sequence: SequenceMasks, truth: bool) -> Iterator[Entry]:
    for id_, rows in sequence.by_track().items():
        masks: list[Entry | None] = [None] * sequence.frames
        areas: list[int | None] = [None] * sequence.frames
        for row in rows:
            counts = (
                _runs(row.rle) if truth else row.rle["counts"].decode()
            )  # as the benchmark's own files
            masks[row.frame] = {"size": row.rle["size"], "counts": counts}
            areas[row.frame] = int(coco_mask.area(row.rle))
        if truth:
            yield {
                "category_id": rows[0].class_id,
                "segmentations": masks,
                "areas": areas,
                "height": sequence.size[0],
                "width": sequence.size[1],
                "iscrowd": int(id_ in sequence.crowd),
            }
        else:
            yield {
                "category_id": rows[0].class_id,
                "score": sequence.scores.get(id_, 1.0),
                "segmentations": masks,
            }


def _runs(rle: Rle) -> list[int]:
    """Column-major run lengths, background first."""
    flat = decode(rle).ravel(order="F")
    edges = np.flatnonzero(np.diff(flat, prepend=False))
    return [int(run) for run in np.diff(edges, prepend=0, append=flat.size)]


def _video_entry(number: int, sequence: SequenceMasks) -> Entry:
    files = list(sequence.files) or [
        f"{sequence.name}/{frame:05d}.jpg" for frame in range(sequence.frames)
    ]
    return {
        "id": number,
        "height": sequence.size[0],
        "width": sequence.size[1],
        "length": sequence.frames,
        "file_names": files,
    }


def _load(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise EvaluationError(
            f"{path}, line {error.lineno}: not readable as JSON: {error.msg}"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise EvaluationError(f"{path}: not readable: {error}") from error


@contextmanager
def _named(place: str) -> Iterator[None]:
    try:
        yield
    except KeyError as error:
        raise EvaluationError(f"{place}: {error} is missing") from error
    except (TypeError, ValueError, IndexError, AttributeError) as error:
        raise EvaluationError(f"{place}: {error}") from error
