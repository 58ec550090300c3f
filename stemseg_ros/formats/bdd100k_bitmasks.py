"""BDD100K segmentation tracking: one RGBA PNG ("bitmask") per frame in a folder per video.

R category 1 to 8, G attributes (truncated * 8 + occluded * 4 + crowd * 2 + ignored), B * 256 + A
object id, 0 for background. Objects with crowd or ignored set are ignored in the ground truth and
left out of results. An id may change its class, since each class is scored by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image as PillowImage

from stemseg_ros.formats.kitti_lines import ResultRow
from stemseg_ros.formats.label_pngs import (
    frame_names,
    matching_folders,
    read_pngs,
    save_png,
    sequence_folders,
)
from stemseg_ros.formats.sequence_masks import EvaluationError, SequenceMasks, check_pair
from stemseg_ros.masks import decode, encode
from stemseg_ros.records import Rle

CLASSES = {
    1: "pedestrian",
    2: "rider",
    3: "car",
    4: "truck",
    5: "bus",
    6: "train",
    7: "motorcycle",
    8: "bicycle",
}
NUMBERS = {name: class_id for class_id, name in CLASSES.items()}
CROWD, IGNORED = 2, 1
"""Bits of the attributes."""


def read_truth(path: Path) -> dict[str, SequenceMasks]:
    """Every folder of bitmasks. Raises EvaluationError."""
    return {name: _read(name, files, truth=True) for name, files in sequence_folders(path).items()}


def read_results(path: Path, truths: Mapping[str, SequenceMasks]) -> dict[str, SequenceMasks]:
    """The folders that belong to the ground truth. Raises EvaluationError."""
    folders = matching_folders(path, truths)
    results = {name: _read(name, files, truth=False) for name, files in folders.items()}
    for name, truth in truths.items():
        check_pair(truth, results[name])
    return results


def write(path: Path, sequences: Iterable[SequenceMasks], truth: bool = False) -> None:
    """Bitmasks; classes are found by name, those that BDD100K lacks are left out. Raises
    EvaluationError."""
    for sequence in sequences:
        ids = {id_: n for n, id_ in enumerate(sorted({row.id for row in sequence.rows}), start=1)}
        regions = [_regions(sequence, frame) for frame in range(sequence.frames)]
        if len(ids) + max(map(len, regions), default=0) > 0xFFFF:
            raise EvaluationError(
                f"sequence {sequence.name}: {len(ids)} objects, a bitmask holds 65535"
            )
        frames = zip(frame_names(sequence), sequence.by_frame(), regions, strict=True)
        for name, rows, ignored in frames:
            pixels = np.zeros((*sequence.size, 4), np.uint8)
            for row in rows:
                class_id = NUMBERS.get(sequence.classes[row.class_id], 0)
                if class_id:
                    pixels[decode(row.rle)] = (class_id, 0, *divmod(ids[row.id], 256))
            for id_, mask in enumerate(ignored, start=len(ids) + 1):
                pixels[decode(mask)] = (1, IGNORED, *divmod(id_, 256))
            save_png(path / sequence.name / f"{name}.png", PillowImage.fromarray(pixels))


def _regions(sequence: SequenceMasks, frame: int) -> tuple[Rle, ...]:
    """Ignored objects of a frame; one for all ignored pixels where they are not told apart."""
    if frame not in sequence.ignored:
        return ()
    return sequence.ignored_apart.get(frame) or (sequence.ignored[frame],)


def _read(name: str, files: list[Path], truth: bool) -> SequenceMasks:
    rows: list[ResultRow] = []
    ignored: dict[int, Rle] = {}
    apart: dict[int, tuple[Rle, ...]] = {}
    size = (0, 0)
    for frame, file, pixels in read_pngs(files, ("RGBA",)):
        size = (pixels.shape[0], pixels.shape[1])
        category, skip, ids = unpack(pixels)
        skip &= ids > 0
        if truth and skip.any():
            ignored[frame] = encode(skip)
            apart[frame] = _objects(skip, category, ids)
        rows += _rows(frame, file, np.where(skip | (ids == 0), 0, category), ids)
    sequence = SequenceMasks.of_files(name, size, files, CLASSES, _of_one_class(rows), ignored)
    return replace(sequence, ignored_apart=apart)


def _objects(
    skip: npt.NDArray[np.bool_], category: npt.NDArray[np.uint8], ids: npt.NDArray[np.int32]
) -> tuple[Rle, ...]:
    """Masks of the ignored objects."""
    keys = category.astype(np.int32) << 16 | ids
    return tuple(encode(skip & (keys == key)) for key in np.unique(keys[skip]))


def unpack(
    pixels: npt.NDArray[np.uint8],
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_], npt.NDArray[np.int32]]:
    """A bitmask uint8 (H, W, 4) as category, crowd or ignored, and object id, each (H, W)."""
    skip = (pixels[..., 1] & (CROWD | IGNORED)) > 0
    return pixels[..., 0], skip, pixels[..., 2].astype(np.int32) * 256 + pixels[..., 3]


def _rows(
    frame: int, file: Path, category: npt.NDArray[np.integer], ids: npt.NDArray[np.int32]
) -> list[ResultRow]:
    rows = []
    keys = category.astype(np.int32) << 16 | ids
    for key in np.unique(keys[category > 0]):
        class_id, id_ = int(key) >> 16, int(key) & 0xFFFF
        if class_id not in CLASSES:
            raise EvaluationError(f"{file}: category {class_id}, expected 1 to {len(CLASSES)}")
        rows.append(ResultRow(frame, id_, class_id, encode((keys == key) & (category > 0))))
    return rows


def _of_one_class(rows: list[ResultRow]) -> list[ResultRow]:
    """Rows with a new id wherever an id has another class than at first."""
    new = count(max((row.id for row in rows), default=0) + 1)
    ids: dict[tuple[int, int], int] = {}
    classes: dict[int, int] = {}
    for row in rows:
        first = classes.setdefault(row.id, row.class_id)
        if (row.id, row.class_id) not in ids:
            ids[row.id, row.class_id] = row.id if row.class_id == first else next(new)
    return [replace(row, id=ids[row.id, row.class_id]) for row in rows]
