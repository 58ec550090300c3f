"""MOTSChallenge text: the lines of KITTI-MOTS with frames from 1, pedestrians alone.

Ground truth: ``MOTS20-02/gt/gt.txt`` with ``MOTS20-02/seqinfo.ini``. Results: ``MOTS20-02.txt`` in
a folder.
"""

from __future__ import annotations

import configparser
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from stemseg_ros.formats.kitti_mots_text import known_size, read_file, write_file
from stemseg_ros.formats.sequence_masks import EvaluationError, SequenceMasks, refuse_missing

CLASSES = {2: "pedestrian"}


def read_truth(path: Path) -> dict[str, SequenceMasks]:
    """Every sequence folder with a ``gt/gt.txt``. Raises EvaluationError."""
    files = sorted(path.glob("*/gt/gt.txt"))
    if not files:
        raise EvaluationError(
            f"{path}: no MOTSChallenge ground truth (MOTS20-02/gt/gt.txt, ...) there"
        )
    folders = [file.parent.parent for file in files]
    return {
        folder.name: read_file(
            file, folder.name, CLASSES, truth=True, first_frame=1, frames=_length(folder)
        )
        for file, folder in zip(files, folders, strict=True)
    }


def read_results(path: Path, truths: Mapping[str, SequenceMasks]) -> dict[str, SequenceMasks]:
    """The files that belong to the ground truth. Raises EvaluationError."""
    refuse_missing(truths, (file.stem for file in path.glob("*.txt")), str(path))
    return {
        name: read_file(
            path / f"{name}.txt",
            name,
            CLASSES,
            first_frame=1,
            frames=truth.frames,
            size=known_size(truth),
        )
        for name, truth in truths.items()
    }


def write(path: Path, sequences: Iterable[SequenceMasks], truth: bool = False) -> None:
    """Results, or ground truth with its seqinfo.ini; other classes are left out. Raises
    EvaluationError."""
    for sequence in sequences:
        pedestrians = _pedestrians(sequence)
        if not truth:
            write_file(path / f"{sequence.name}.txt", pedestrians, truth, first_frame=1)
            continue
        write_file(path / sequence.name / "gt" / "gt.txt", pedestrians, truth, first_frame=1)
        (path / sequence.name / "seqinfo.ini").write_text(
            f"[Sequence]\nname={sequence.name}\nseqLength={sequence.frames}\n"
            f"imWidth={sequence.size[1]}\n"
            f"imHeight={sequence.size[0]}\n",
            encoding="utf-8",
        )


def _pedestrians(sequence: SequenceMasks) -> SequenceMasks:
    rows = tuple(
        row for row in sequence.rows if sequence.classes.get(row.class_id) == "pedestrian"
    )
    if any(row.class_id not in CLASSES for row in rows):
        raise EvaluationError(
            f"sequence {sequence.name}: MOTSChallenge numbers pedestrians as class 2"
        )
    return replace(sequence, rows=rows, classes=CLASSES)


def _length(folder: Path) -> int | None:
    """Number of frames by seqinfo.ini; None without that file."""
    file = folder / "seqinfo.ini"
    if not file.is_file():
        return None
    parser = configparser.ConfigParser()
    try:
        parser.read(file, encoding="utf-8-sig")
        return parser.getint("Sequence", "seqLength")
    except (configparser.Error, ValueError, UnicodeDecodeError) as error:
        raise EvaluationError(f"{file}: no seqLength in [Sequence]: {error}") from error
