"""All masks of one sequence, ground truth or results: the common type of all formats."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from stemseg_ros.errors import StemsegError
from stemseg_ros.formats.kitti_lines import IDS_PER_CLASS, ResultRow, TrackCollector
from stemseg_ros.records import FrameResult, Rle


class EvaluationError(StemsegError):
    """Ground truth or results are missing, malformed or do not belong together; the message names
    the place."""


class GivenObject(NamedTuple):
    """An object whose first mask is given (YouTube-VOS)."""

    category: str
    frames: tuple[int, ...]
    """Frames in which it is scored, except for that of the given mask."""


@dataclass(frozen=True, slots=True)
class SequenceMasks:
    """The masks of one sequence. Masks of a frame do not overlap, except in YouTube-VIS files."""

    name: str
    size: tuple[int, int]
    """(H, W) of every frame, pixels; (0, 0) if there is no mask."""
    frames: int
    """Length of the sequence; frames without masks count."""
    classes: Mapping[int, str]
    """Names by class id."""
    rows: tuple[ResultRow, ...]
    """Masks of objects, in the order of the file; an id belongs to one track of the sequence."""
    ignored: Mapping[int, Rle] = field(default_factory=dict)
    """By frame: pixels without ground truth."""
    ignored_apart: Mapping[int, tuple[Rle, ...]] = field(default_factory=dict)
    """By frame: the same pixels by object, where each object counts alone (BDD100K)."""
    scores: Mapping[int, float] = field(default_factory=dict)
    """Confidence of each track by id; None for 1."""
    files: tuple[str, ...] = ()
    """Name of each frame's file, where the format has such."""
    number: int = 0
    """Number of the video, where the format has such (YouTube-VIS)."""
    crowd: frozenset[int] = frozenset()
    """Tracks of the ground truth that need not be found (``iscrowd`` of YouTube-VIS)."""
    unseen: Mapping[int, int] = field(default_factory=dict)
    """Class by id of tracks without a single mask, which YouTube-VIS counts as missed or
    false."""
    objects: int = 0
    """Number of objects where values without a mask count, too (DAVIS); 0 elsewhere."""
    given: Mapping[int, GivenObject] = field(default_factory=dict)
    """By id, where a file lists the objects (YouTube-VOS)."""

    @classmethod
    def of_files(
        cls,
        name: str,
        size: tuple[int, int],
        files: Sequence[Path],
        classes: Mapping[int, str],
        rows: Iterable[ResultRow],
        ignored: Mapping[int, Rle],
    ) -> SequenceMasks:
        """A sequence in a format with one file for each frame."""
        names = tuple(file.stem for file in files)
        return cls(name, size, len(files), classes, tuple(rows), ignored, files=names)

    def by_frame(self) -> list[list[ResultRow]]:
        """Rows of each frame, ``frames`` lists."""
        grouped: list[list[ResultRow]] = [[] for _ in range(self.frames)]
        for row in self.rows:
            grouped[row.frame].append(row)
        return grouped

    def by_track(self) -> dict[int, list[ResultRow]]:
        """Rows of each track in order of time, by id; tracks in the order of the file."""
        tracks: dict[int, list[ResultRow]] = {row.id: [] for row in self.rows}
        for row in sorted(self.rows, key=lambda row: row.frame):
            tracks[row.id].append(row)
        return tracks


def from_results(
    name: str, results: Iterable[FrameResult], classes: Mapping[int, str]
) -> SequenceMasks:
    """The results of a stream, as a recorded bag holds them; a track's class is that of most of
    its pixels.

    Raises EvaluationError for no frames, or frames of several sizes.
    """
    collector = TrackCollector()
    sizes: dict[tuple[int, int], int] = {}
    scores: dict[tuple[int, int], list[float]] = defaultdict(list)
    names = dict(classes)
    for result in results:
        sizes.setdefault((result.height, result.width), collector.frames)
        for instance in result.instances:
            scores[result.epoch, instance.track_id].append(instance.score)
            names.setdefault(instance.class_id, instance.class_name)
        collector.add(result)
    if not sizes:
        raise EvaluationError(f"{name}: no frames")
    if len(sizes) > 1:
        (first, _), (second, at) = list(sizes.items())[:2]
        raise EvaluationError(
            f"{name}: frame {at} is {second[1]}x{second[0]} pixels, the first "
            f"{first[1]}x{first[0]}; a sequence has one size"
        )
    means = {
        track.class_id * IDS_PER_CLASS + n: sum(scores[key]) / len(scores[key])
        for n, (key, track) in enumerate(collector.numbered(), start=1)
    }
    return SequenceMasks(
        name, next(iter(sizes)), collector.frames, names, tuple(collector.rows()), scores=means
    )


def check_pair(truth: SequenceMasks, result: SequenceMasks) -> None:
    """Raises EvaluationError unless the result can belong to the ground truth's sequence."""
    if (0, 0) not in (truth.size, result.size) and truth.size != result.size:
        raise EvaluationError(
            f"sequence {truth.name}: results are {result.size[1]}x{result.size[0]} pixels, "
            f"the ground truth is {truth.size[1]}x{truth.size[0]}"
        )


def refuse_missing(truths: Iterable[str], results: Iterable[str], where: str) -> None:
    """Raises EvaluationError that names the sequences without results."""
    missing = sorted(set(truths) - set(results))
    if missing:
        raise EvaluationError(
            f"{where}: no results for {'sequence' if len(missing) == 1 else 'sequences'} "
            f"{', '.join(missing)}"
        )
