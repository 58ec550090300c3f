"""YouTube-VIS 2019 / 2021 and OVIS: one JSON file, masks as run lengths, one entry per track.

Ground truth: {"videos", "categories", "annotations"}, read by training and evaluation alike;
results: a list of {"video_id", "category_id", "score", "segmentations"} with one mask or null per
frame. Sequences are named by the folder of their images; tracks of results are numbered from 1 in
the order of the file.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from stemseg_ros.formats.json_entries import (
    Json,
    Span,
    flag,
    image_size,
    kind,
    list_of,
    naming,
    refuse_second,
    scan,
    text_of,
    whole,
)
from stemseg_ros.formats.json_masks import run_lengths
from stemseg_ros.formats.kitti_lines import ResultRow
from stemseg_ros.formats.sequence_masks import EvaluationError, SequenceMasks
from stemseg_ros.masks import decode
from stemseg_ros.records import Rle


@dataclass(frozen=True, slots=True)
class VideoEntry:
    """A video that the file lists."""

    number: int
    files: tuple[str, ...]
    """Image of each frame, FOLDER/NAME."""
    size: tuple[int, int]
    """(H, W)."""

    @property
    def name(self) -> str:
        """Folder of its images."""
        return Path(self.files[0]).parent.name


@dataclass(frozen=True, slots=True)
class VideoTrack:
    """One annotation, checked."""

    number: int
    video: int
    """Number of its video."""
    class_id: int
    crowd: bool
    masks: tuple[Rle | None, ...]
    """Of each frame; None where it is not visible."""
    place: str
    """For messages: file and position."""
    span: Span
    """Where the annotation lies in the file."""


def read_videos(path: Path) -> tuple[dict[int, VideoEntry], dict[int, str]]:
    """Videos and names of classes, by id. Raises EvaluationError."""
    videos: dict[int, VideoEntry] = {}
    names: dict[int, str] = {}
    folders: set[str] = set()
    for entry in scan(path, "videos", "categories"):
        with naming(f"{path}, {entry.key}[{entry.position}]"):
            number = whole(entry.value, "id")
            if entry.key == "categories":
                refuse_second(number, names, "category")
                names[number] = text_of(entry.value, "name")
                continue
            refuse_second(number, videos, "video")
            video = _video(number, entry.value)
            if video.name in folders:
                raise ValueError(f"a second video in the folder {video.name}")
            folders.add(video.name)
            videos[number] = video
    return videos, names


def scan_tracks(
    path: Path,
    videos: Mapping[int, VideoEntry],
    names: Mapping[int, str],
    optional: Collection[str] = (),
) -> Iterator[VideoTrack]:
    """Every annotation, one after the other. Raises EvaluationError.

    optional: ("annotations",) for files of test videos, which have none.
    """
    seen: set[int] = set()
    for entry in scan(path, "annotations", optional=optional):
        place = f"{path}, annotations[{entry.position}]"
        with naming(place):
            value = entry.value
            number, video = whole(value, "id"), whole(value, "video_id")
            refuse_second(number, seen, "annotation")
            seen.add(number)
            if video not in videos:
                raise ValueError(f"video_id {video} is none of the videos")
            class_id = _class_id(value, names)
            masks = _masks(value, len(videos[video].files), videos[video].size)
            crowd = flag(value, "iscrowd")
            track = VideoTrack(number, video, class_id, crowd, masks, place, entry.span)
        yield track


def frame_mask(entry: Json, frame: int, size: tuple[int, int]) -> Rle | None:
    """Mask of one frame of a track; None where it is not visible. Raises ValueError, KeyError."""
    mask = list_of(entry, "segmentations")[frame]
    try:
        return None if mask in (None, [], {}) else run_lengths(mask, size)
    except ValueError as error:
        raise ValueError(f"frame {frame}: {error}") from error


def read_truth(path: Path) -> dict[str, SequenceMasks]:
    """All videos of an annotation file; the public files of test videos have no annotations.

    Raises EvaluationError.
    """
    videos, names = read_videos(path)
    tracks: defaultdict[int, list[VideoTrack]] = defaultdict(list)
    for track in scan_tracks(path, videos, names, optional=("annotations",)):
        tracks[track.video].append(track)
    # By number, in which order the benchmark breaks ties of scores across videos.
    return {
        video.name: _sequence(video, tracks[number], names)
        for number, video in sorted(videos.items())
    }


def read_results(path: Path, truths: Mapping[str, SequenceMasks]) -> dict[str, SequenceMasks]:
    """A results file; videos that it does not name have no tracks. Raises EvaluationError."""
    content = _load(path)
    if not isinstance(content, list):
        raise EvaluationError(f"{path}: expected a list of tracks, found {kind(content)}")
    by_number = {truth.number: truth for truth in truths.values()}
    rows: defaultdict[str, list[ResultRow]] = defaultdict(list)
    scores: defaultdict[str, dict[int, float]] = defaultdict(dict)
    unseen: defaultdict[str, dict[int, int]] = defaultdict(dict)
    for id_, entry in enumerate(content, start=1):
        with naming(f"{path}, [{id_ - 1}]"):
            if not isinstance(entry, dict):
                raise ValueError(f"is {kind(entry)}, expected an object")
            truth = by_number.get(whole(entry, "video_id"))
            if truth is None:
                raise ValueError(f"video_id {entry['video_id']} is not in the ground truth")
            class_id = _class_id(entry, truth.classes)
            masks = _masks(entry, truth.frames, truth.size)
            rows[truth.name] += _rows(id_, class_id, masks)
            scores[truth.name][id_] = _score(entry)
            if not any(masks):
                unseen[truth.name][id_] = class_id
    return {
        name: replace(
            truth,
            rows=tuple(rows[name]),
            ignored={},
            scores=scores[name],
            crowd=frozenset(),
            unseen=unseen[name],
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


def _video(number: int, entry: Json) -> VideoEntry:
    files = list_of(entry, "file_names")
    if not files:
        raise ValueError("no file_names")
    if not all(isinstance(name, str) for name in files):
        raise ValueError("file_names are not all text")
    return VideoEntry(number, tuple(files), image_size(entry))


def _sequence(
    video: VideoEntry, tracks: list[VideoTrack], names: Mapping[int, str]
) -> SequenceMasks:
    return SequenceMasks(
        video.name,
        video.size,
        len(video.files),
        names,
        tuple(row for t in tracks for row in _rows(t.number, t.class_id, t.masks)),
        files=video.files,
        number=video.number,
        crowd=frozenset(track.number for track in tracks if track.crowd),
        unseen={track.number: track.class_id for track in tracks if not any(track.masks)},
    )


def _class_id(entry: Json, names: Mapping[int, str]) -> int:
    class_id = whole(entry, "category_id")
    if class_id not in names:
        raise ValueError(f"category_id {class_id} is unknown")
    return class_id


def _masks(entry: Json, frames: int, size: tuple[int, int]) -> tuple[Rle | None, ...]:
    """Masks of one track. Raises ValueError, KeyError."""
    count = len(list_of(entry, "segmentations"))
    if count != frames:
        raise ValueError(f"{count} segmentations for {frames} frames")
    return tuple(frame_mask(entry, frame, size) for frame in range(frames))


def _rows(id_: int, class_id: int, masks: Iterable[Rle | None]) -> list[ResultRow]:
    return [
        ResultRow(frame, id_, class_id, mask)
        for frame, mask in enumerate(masks)
        if mask is not None
    ]


def _score(entry: Json) -> float:
    score = entry["score"]
    if not isinstance(score, int | float) or isinstance(score, bool) or not math.isfinite(score):
        raise ValueError(f"score {score!r} is no finite number")
    return float(score)


def _entries(sequence: SequenceMasks, truth: bool) -> Iterator[Json]:
    tracks = sequence.by_track() | {id_: [] for id_ in sequence.unseen}
    for id_ in sorted(tracks) if sequence.unseen else tracks:  # results: in the order of the file
        rows = tracks[id_]
        class_id = rows[0].class_id if rows else sequence.unseen[id_]
        masks: list[Json | None] = [None] * sequence.frames
        areas: list[int | None] = [None] * sequence.frames
        for row in rows:
            counts = (
                _runs(row.rle) if truth else row.rle["counts"].decode()
            )  # as the benchmark's own files
            masks[row.frame] = {"size": row.rle["size"], "counts": counts}
            areas[row.frame] = int(coco_mask.area(row.rle))
        if truth:
            yield {
                "category_id": class_id,
                "segmentations": masks,
                "areas": areas,
                "height": sequence.size[0],
                "width": sequence.size[1],
                "iscrowd": int(id_ in sequence.crowd),
            }
        else:
            yield {
                "category_id": class_id,
                "score": sequence.scores.get(id_, 1.0),
                "segmentations": masks,
            }


def _runs(rle: Rle) -> list[int]:
    """Column-major run lengths, background first."""
    flat = decode(rle).ravel(order="F")
    edges = np.flatnonzero(np.diff(flat, prepend=False))
    return [int(run) for run in np.diff(edges, prepend=0, append=flat.size)]


def _video_entry(number: int, sequence: SequenceMasks) -> Json:
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
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise EvaluationError(
            f"{path}, line {error.lineno}: not readable as JSON: {error.msg}"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise EvaluationError(f"{path}: not readable: {error}") from error
