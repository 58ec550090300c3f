"""KITTI-MOTS result text: one line per mask, ``frame id class height width rle``.

Frames count from 0, id = class * 1000 + n with n = 1, 2, ... over all tracks of a sequence,
classes are 1 car and 2 pedestrian (other class lists count on), rle is COCO's compressed
column-major form. Lines are ordered by n, then frame. A track has one class, and n depends on all
of its masks, so nothing can be written before the sequence ends: until then the text itself is
kept, a few hundred bytes per mask.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

from pycocotools import mask as coco_mask

from stemseg_ros.errors import MediaError
from stemseg_ros.masks import check_counts
from stemseg_ros.records import FrameResult, Rle

IDS_PER_CLASS = 1000
"""An id is class * IDS_PER_CLASS + n."""
MAX_TRACKS = 1000
"""Tracks of a sequence that are written; the smallest ones beyond are left out, as the released
code does."""


@dataclass(frozen=True, slots=True)
class ResultRow:
    """One mask of one track in one frame."""

    frame: int
    """From 0."""
    id: int
    """class_id * 1000 + n; any number in results that others wrote."""
    class_id: int
    """1 car, 2 pedestrian."""
    rle: Rle

    def __str__(self) -> str:
        height, width = self.rle["size"]
        mask = self.rle["counts"].decode()
        return f"{self.frame} {self.id} {self.class_id} {height} {width} {mask}"


@dataclass(slots=True)
class WrittenTrack:
    """State of one track so far."""

    pixels: int = 0
    """Over all frames."""
    votes: Counter[int] = field(default_factory=Counter)
    """Pixels by class, background (0) not counted."""
    first: int = -1
    """First and last frame."""
    last: int = -1
    masks: list[tuple[int, Rle]] = field(default_factory=list)
    """(frame, mask) in order of time."""

    def add(self, frame: int, rle: Rle | None, pixels: int, votes: Mapping[int, int]) -> None:
        """Append a frame's mask; one that vanishes at full size (None) counts but is not
        written."""
        self.pixels += pixels
        self.votes.update({class_id: n for class_id, n in votes.items() if class_id > 0})
        self.first = frame if self.first < 0 else self.first
        self.last = frame
        if rle is not None:
            self.masks.append((frame, rle))

    @property
    def class_id(self) -> int:
        """Class of most pixels; ties go to the lower id, no votes to 1 (car)."""
        return min(self.votes, key=lambda c: (-self.votes[c], c), default=1)


class TrackCollector:
    """Gathers the results of a stream, frame by frame, into the tracks of one KITTI-MOTS sequence.

    Frames are counted through all epochs; ids of different epochs are different tracks.
    """

    def __init__(self) -> None:
        self.frames = 0
        self.tracks: defaultdict[tuple[int, int], WrittenTrack] = defaultdict(WrittenTrack)
        """By (epoch, track_id)."""

    def add(self, result: FrameResult, number: int | None = None) -> None:
        """Append the next frame; number: in the recording, where that is not the count of
        results."""
        number = self.frames if number is None else number
        for instance in result.instances:
            area = int(coco_mask.area(instance.rle))
            self.tracks[result.epoch, instance.track_id].add(
                number, instance.rle, area, {instance.class_id: area}
            )
        self.frames += 1

    def numbered(self) -> list[tuple[tuple[int, int], WrittenTrack]]:
        """Keys and tracks in the order of their numbers n = 1, 2, ...

        Sorted by pixels, most first, cut to MAX_TRACKS, then by last - first frame, shortest
        first.
        """
        largest = sorted(self.tracks.items(), key=lambda item: -item[1].pixels)[:MAX_TRACKS]
        return sorted(largest, key=lambda item: item[1].last - item[1].first)

    def rows(self) -> list[ResultRow]:
        """All masks, ordered by n, then frame."""
        return [
            ResultRow(frame, track.class_id * IDS_PER_CLASS + n, track.class_id, rle)
            for n, (_, track) in enumerate(self.numbered(), start=1)
            for frame, rle in track.masks
        ]

    def prompted_rows(self) -> list[ResultRow]:
        """All masks of one epoch, with the track ids that prompts gave for numbers."""
        return [
            ResultRow(frame, track.class_id * IDS_PER_CLASS + track_id, track.class_id, rle)
            for (_, track_id), track in sorted(self.tracks.items())
            for frame, rle in track.masks
        ]


MIN_AREA = {1: 150, 2: 250}
"""Post-filter, by class: least pixels of a mask,"""
MIN_FILL = {1: 0.35, 2: 0.2}
"""share of its tight box that a mask must exceed,"""
MAX_GAPS = {1: 0.3, 2: 0.5}
"""most interruptions of a track per frame it has left,"""
MIN_FRAMES = {1: 3, 2: 10}
"""and least frames of a track."""


def filter_rows(rows: Iterable[ResultRow]) -> list[ResultRow]:
    """The released post-filter: drops small and sparse masks, then broken and short tracks; ids
    stay.

    It looks at whole tracks, so it is not causal: report numbers with and without it. Classes
    beyond car and pedestrian pass.
    """
    kept = [row for row in rows if _mask_passes(row)]
    frames: defaultdict[int, list[int]] = defaultdict(list)
    for row in kept:
        frames[row.id].append(row.frame)
    return [row for row in kept if _track_passes(row.class_id, sorted(frames[row.id]))]


def _mask_passes(row: ResultRow) -> bool:
    if row.class_id not in MIN_AREA:
        return True
    area = int(coco_mask.area(row.rle))
    _, _, width, height = coco_mask.toBbox(row.rle).tolist()
    return area >= MIN_AREA[row.class_id] and area / (width * height) > MIN_FILL[row.class_id]


def _track_passes(class_id: int, frames: list[int]) -> bool:
    if class_id not in MAX_GAPS:
        return True
    gaps = sum(later - earlier > 1 for earlier, later in pairwise(frames))
    return gaps / len(frames) <= MAX_GAPS[class_id] and len(frames) >= MIN_FRAMES[class_id]


def write_results(path: str | Path, rows: Iterable[ResultRow]) -> None:
    """Write the text, one line each, newline at the end. Raises MediaError."""
    try:
        Path(path).write_text("".join(f"{row}\n" for row in rows), encoding="ascii", newline="\n")
    except OSError as error:
        raise MediaError(f"cannot write {path}: {error.strerror}") from error


def read_results(
    path: str | Path,
    *,
    truth: bool = False,
    first_frame: int = 0,
    frames: int | None = None,
    size: tuple[int, int] | None = None,
) -> list[ResultRow]:
    """Read and check a result (or ground truth) text.

    truth: ids must be class * 1000 + n; those of results are free, but keep one class.
    first_frame: number of the first frame in the file (MOTSChallenge: 1); in the rows it is 0.
    frames, size: length and (H, W) of the sequence, where they are known. Raises MediaError,
    naming file and line, for a line of another form, an id that breaks these rules, an RLE that
    does not fill height x width, another size, a frame beyond the sequence, an id twice in a
    frame, overlapping masks, or lines in no order.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").rstrip().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise MediaError(f"{path}: not readable as KITTI-MOTS text: {error}") from error
    rows: list[ResultRow] = []
    by_frame: defaultdict[int, _Frame] = defaultdict(_Frame)
    order = _Order()
    classes: dict[int, int] = {}
    for number, line in enumerate(lines, start=1):
        try:
            row = parse_row(line)
            _check_id(row, truth, classes)
            size = size or (row.rle["size"][0], row.rle["size"][1])
            _check_place(row, size, first_frame, frames)
            by_frame[row.frame].add(row)
            order.check(row)
        except ValueError as error:
            raise MediaError(f"{path}, line {number}: {error}") from error
        rows.append(replace(row, frame=row.frame - first_frame))
    return rows


@dataclass(slots=True)
class _Order:
    """Lines are ordered by frame, as ground truth is, or by track and then frame, as results
    are."""

    previous: ResultRow | None = None
    finished: set[int] = field(default_factory=set)
    """Tracks before that of the previous line."""
    by_frame: bool = True
    """Whether all lines so far are in order of frames,"""
    by_track: bool = True
    """and whether they are grouped by track."""

    def check(self, row: ResultRow) -> None:
        """Raises ValueError at the line that leaves neither order."""
        last, self.previous = self.previous, row
        if last is None:
            return
        if row.id != last.id:
            self.finished.add(last.id)
        self.by_frame &= row.frame >= last.frame
        self.by_track &= row.id not in self.finished and (
            row.id != last.id or row.frame > last.frame
        )
        if not self.by_frame and not self.by_track:
            raise ValueError(
                f"frame {row.frame} after frame {last.frame}: the lines are neither in order of "
                "frames nor, track by track, in order of frames"
            )


def parse_row(line: str) -> ResultRow:
    """One line as a row, white space around and between its fields free.

    Raises ValueError, which names the fault.
    """
    fields = line.split()
    if len(fields) != 6:
        raise ValueError(f"expected 'frame id class height width rle', found {len(fields)} fields")
    if not all(text.isascii() and text.isdigit() for text in fields[:5]):
        raise ValueError(
            f"'{' '.join(fields[:5])}' are not whole numbers frame, id, class, height, width"
        )
    frame, id_, class_id, height, width = map(int, fields[:5])
    if class_id < 1:
        raise ValueError(f"class {class_id}: classes count from 1")
    rle = Rle(size=[height, width], counts=fields[5].encode())
    check_counts(rle["counts"], height * width)
    return ResultRow(frame, id_, class_id, rle)


def _check_id(row: ResultRow, truth: bool, classes: dict[int, int]) -> None:
    """Raises ValueError for an id of another class; ``classes`` of the ids so far is updated."""
    if truth and not 0 <= row.id - row.class_id * IDS_PER_CLASS <= MAX_TRACKS:
        raise ValueError(f"id {row.id} does not belong to class {row.class_id}")
    known = classes.setdefault(row.id, row.class_id)
    if known != row.class_id:
        raise ValueError(f"id {row.id} has class {row.class_id}, but class {known} before")


@dataclass(slots=True)
class _Frame:
    """The lines of one frame so far."""

    masks: dict[int, Rle] = field(default_factory=dict)
    union: Rle | None = None

    def add(self, row: ResultRow) -> None:
        """Raises ValueError if the id is there already, or its mask overlaps another."""
        if row.id in self.masks:
            raise ValueError(f"id {row.id} occurs twice in frame {row.frame}")
        if self.union is not None and _share(self.union, row.rle):
            id_ = next(id_ for id_, mask in self.masks.items() if _share(mask, row.rle))
            raise ValueError(
                f"the mask of id {row.id} overlaps that of id {id_} in frame {row.frame}"
            )
        self.masks[row.id] = row.rle
        self.union = row.rle if self.union is None else coco_mask.merge([self.union, row.rle])


def _share(a: Rle, b: Rle) -> bool:
    return bool(coco_mask.area(coco_mask.merge([a, b], intersect=True)))


def _check_place(
    row: ResultRow, size: tuple[int, int], first_frame: int, frames: int | None
) -> None:
    """Raises ValueError for a row that lies outside the sequence."""
    if tuple(row.rle["size"]) != size:
        raise ValueError(
            f"{row.rle['size']} differs from the size {list(size)} (height, width) of the rest"
        )
    if row.frame < first_frame:
        raise ValueError(f"frame {row.frame}: frames count from {first_frame}")
    if frames is not None and row.frame >= first_frame + frames:
        raise ValueError(
            f"frame {row.frame} of a sequence of {frames} frames, counted from {first_frame}"
        )
