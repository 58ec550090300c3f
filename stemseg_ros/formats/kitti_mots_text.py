"""KITTI-MOTS text, one file per sequence (lines: kitti_lines.py).

Ground truth: ``0002.txt`` in a folder (``instances_txt``, or ``label_02`` as in the devkit), class
10 for pixels to ignore. Results: ``0002.txt`` in a folder.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from pycocotools import mask as coco_mask

from stemseg_ros.errors import MediaError
from stemseg_ros.formats.kitti_lines import IDS_PER_CLASS, ResultRow, write_results
from stemseg_ros.formats.kitti_lines import read_results as read_rows
from stemseg_ros.formats.sequence_masks import EvaluationError, SequenceMasks, refuse_missing
from stemseg_ros.records import Rle

CLASSES = {1: "car", 2: "pedestrian"}
IGNORE_CLASS = 10
"""Class of ground truth lines that mark pixels to ignore."""


def read_truth(path: Path) -> dict[str, SequenceMasks]:
    """Every ``*.txt`` of the folder, or of its ``instances_txt`` or ``label_02``. Raises
    EvaluationError."""
    inner = [path / name for name in ("instances_txt", "label_02") if (path / name).is_dir()]
    folder = inner[0] if inner else path
    files = sorted(folder.glob("*.txt"))
    if not files:
        raise EvaluationError(
            f"{path}: no KITTI-MOTS ground truth (0000.txt, 0001.txt, ...) in this folder"
        )
    return {file.stem: read_file(file, file.stem, CLASSES, truth=True) for file in files}


def read_results(path: Path, truths: Mapping[str, SequenceMasks]) -> dict[str, SequenceMasks]:
    """The files that belong to the ground truth. Raises EvaluationError."""
    refuse_missing(truths, (file.stem for file in path.glob("*.txt")), str(path))
    return {
        name: read_file(path / f"{name}.txt", name, CLASSES, size=known_size(truth))
        for name, truth in truths.items()
    }


def write(path: Path, sequences: Iterable[SequenceMasks], truth: bool = False) -> None:
    """One file per sequence. Raises EvaluationError."""
    for sequence in sequences:
        write_file(path / f"{sequence.name}.txt", sequence, truth)


def known_size(truth: SequenceMasks) -> tuple[int, int] | None:
    """(H, W) that results must have; None if the ground truth has no mask."""
    return None if truth.size == (0, 0) else truth.size


def read_file(
    file: Path,
    name: str,
    classes: Mapping[int, str],
    *,
    truth: bool = False,
    first_frame: int = 0,
    frames: int | None = None,
    size: tuple[int, int] | None = None,
) -> SequenceMasks:
    """One text file. frames, size: of the sequence, where they are known. Raises
    EvaluationError."""
    try:
        rows = read_rows(file, truth=truth, first_frame=first_frame, frames=frames, size=size)
    except MediaError as error:
        raise EvaluationError(str(error)) from error
    _check_classes(file, rows, classes, truth)
    found = rows[0].rle["size"] if rows else (size or (0, 0))
    last = max((row.frame for row in rows), default=-1)
    return SequenceMasks(
        name=name,
        size=(found[0], found[1]),
        frames=max(last + 1, frames or 0),
        classes=classes,
        rows=tuple(row for row in rows if row.class_id != IGNORE_CLASS),
        ignored=_merged([row for row in rows if row.class_id == IGNORE_CLASS]),
    )


def write_file(file: Path, sequence: SequenceMasks, truth: bool, first_frame: int = 0) -> None:
    """One text file: results grouped by track, ground truth in order of frames. Raises
    EvaluationError."""
    rows = list(sequence.rows)
    if truth:
        rows += [
            ResultRow(frame, IGNORE_CLASS * IDS_PER_CLASS, IGNORE_CLASS, rle)
            for frame, rle in sequence.ignored.items()
        ]
        rows.sort(key=lambda row: (row.frame, row.id))
    else:
        rows.sort(key=lambda row: (row.id % IDS_PER_CLASS, row.id, row.frame))
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_results(file, [replace(row, frame=row.frame + first_frame) for row in rows])
    except (OSError, MediaError) as error:
        raise EvaluationError(f"cannot write {file}: {error}") from error


def _check_classes(
    file: Path, rows: list[ResultRow], classes: Mapping[int, str], truth: bool
) -> None:
    known = {*classes, IGNORE_CLASS} if truth else set(classes)
    for number, row in enumerate(rows, start=1):
        if row.class_id not in known:
            raise EvaluationError(
                f"{file}, line {number}: class {row.class_id} is none of "
                f"{', '.join(f'{i} {name}' for i, name in classes.items())}"
            )


def _merged(rows: list[ResultRow]) -> dict[int, Rle]:
    frames: dict[int, list[Rle]] = {}
    for row in rows:
        frames.setdefault(row.frame, []).append(row.rle)
    return {
        frame: masks[0] if len(masks) == 1 else coco_mask.merge(masks)
        for frame, masks in frames.items()
    }
