"""Objects whose first mask is given, one by one: pairs of ground truth and result to score.

A value is an object on both sides, so nothing is matched (the semi-supervised benchmarks).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from stemseg_ros.formats.sequence_masks import EvaluationError, SequenceMasks
from stemseg_ros.formats.youtube_vos_pngs import SEEN

SHORTEST = 3
"""Frames of a sequence of which the first and the last do not count."""


class ObjectMasks(NamedTuple):
    """One object of a sequence, or none."""

    group: str
    """Row of the table in which it counts; empty where there is only one."""
    truth: SequenceMasks
    result: SequenceMasks


SplitObjects = Callable[[SequenceMasks, SequenceMasks], Iterable[ObjectMasks]]


def davis_objects(truth: SequenceMasks, result: SequenceMasks) -> Iterator[ObjectMasks]:
    """The objects of DAVIS 2017, without the first and the last frame. Objects of the first frame
    count as in davis2017-evaluation, though they may never be there again, and those that appear
    later, which it refuses. Raises EvaluationError."""
    inner = inner_frames(truth, "DAVIS 2017"), inner_frames(result, "DAVIS 2017")
    given = {*range(1, truth.objects + 1), *(row.id for row in scored_objects(truth).rows)}
    for track_id in given | inner[0].by_track().keys() or {0}:
        yield ObjectMasks("", *(_only(sequence, track_id) for sequence in inner))


def youtube_vos_objects(truth: SequenceMasks, result: SequenceMasks) -> Iterator[ObjectMasks]:
    """The objects of YouTube-VOS, of seen and of unseen categories, in the frames that are listed
    for them behind their first mask. An object without such frames does not count."""
    none = [_only(_at_frames(sequence, (0,)), 0) for sequence in (truth, result)]
    yield from (ObjectMasks(group, *none) for group in ("seen", "unseen"))
    for track_id, rows in truth.by_track().items():
        category, listed = truth.given[track_id]
        frames = [frame for frame in listed if frame > rows[0].frame]
        if frames:
            pair = (_only(_at_frames(s, frames), track_id) for s in (truth, result))
            yield ObjectMasks("seen" if category in SEEN else "unseen", *pair)


def scored_objects(truth: SequenceMasks) -> SequenceMasks:
    """The objects that davis2017-evaluation scores: ids up to the largest of the first frame.
    Others, which appear later, are background to it."""
    largest = max((row.id for row in truth.rows if row.frame == 0), default=0)
    return replace(truth, rows=tuple(row for row in truth.rows if row.id <= largest))


def inner_frames(sequence: SequenceMasks, benchmark: str) -> SequenceMasks:
    """A sequence without its first and its last frame, which the benchmark leaves out. Raises
    EvaluationError if no frame is left."""
    if sequence.frames < SHORTEST:
        raise EvaluationError(
            f"sequence {sequence.name}: {sequence.frames} frames; {benchmark} leaves out the "
            f"first and the last one, so it takes {SHORTEST}"
        )
    return _at_frames(sequence, range(1, sequence.frames - 1))


def _at_frames(sequence: SequenceMasks, frames: Sequence[int]) -> SequenceMasks:
    """Some frames of a sequence, numbered anew."""
    numbers = {frame: n for n, frame in enumerate(frames)}
    rows = tuple(
        replace(row, frame=numbers[row.frame]) for row in sequence.rows if row.frame in numbers
    )
    return replace(sequence, rows=rows, frames=len(numbers), files=(), ignored={})


def _only(sequence: SequenceMasks, track_id: int) -> SequenceMasks:
    """One object; 0 for none."""
    rows = tuple(row for row in sequence.rows if row.id == track_id)
    return replace(sequence, rows=rows, objects=int(track_id > 0))
