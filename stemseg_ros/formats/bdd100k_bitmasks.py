"""BDD100K segmentation tracking: one RGBA PNG ("bitmask") per frame in a folder per video.

R category 1 to 8, G attributes (truncated * 8 + occluded * 4 + crowd * 2 + ignored), B * 256 + A
object id. Ground truth pixels with crowd or ignored set are ignored; results with ignored set are
left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
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
    numbers = {name: class_id for class_id, name in CLASSES.items()}
    for sequence in sequences:
        kept = {
            class_id: numbers[name]
            for class_id, name in sequence.classes.items()
            if name in numbers
        }
        ids = {id_: n for n, id_ in enumerate(sorted({row.id for row in sequence.rows}), start=1)}
        if len(ids) > 0xFFFF:
            raise EvaluationError(
                f"sequence {sequence.name}: {len(ids)} objects, a bitmask holds 65535"
            )
        for frame, (name, rows) in enumerate(
            zip(frame_names(sequence), sequence.by_frame(), strict=True)
        ):
            pixels = np.zeros((*sequence.size, 4), np.uint8)
            for row in rows:
                if row.class_id in kept:
                    pixels[decode(row.rle)] = (
                        kept[row.class_id],
                        0,
                        ids[row.id] >> 8,
                        ids[row.id] & 0xFF,
                    )
            if frame in sequence.ignored:
                pixels[decode(sequence.ignored[frame])] = (1, IGNORED, 0, 0)
            save_png(path / sequence.name / f"{name}.png", PillowImage.fromarray(pixels))


def _read(name: str, files: list[Path], truth: bool) -> SequenceMasks:
    rows: list[ResultRow] = []
    ignored: dict[int, Rle] = {}
    apart: dict[int, tuple[Rle, ...]] = {}
    size = (0, 0)
    for frame, file, pixels in read_pngs(files, ("RGBA",)):
        size = (pixels.shape[0], pixels.shape[1])
        category, skip, ids = unpack(pixels)
        if truth and skip.any():
            ignored[frame] = encode(skip)
            apart[frame] = _objects(skip, category, ids)
        left_out = skip if truth else (pixels[..., 1] & IGNORED) > 0
        rows += _rows(frame, file, np.where(left_out, 0, category), ids)
    _check_tracks(files[0].parent, rows)
    sequence = SequenceMasks.of_files(name, size, files, CLASSES, rows, ignored)
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


def _check_tracks(folder: Path, rows: list[ResultRow]) -> None:
    classes: dict[int, int] = {}
    for row in rows:
        if classes.setdefault(row.id, row.class_id) != row.class_id:
            raise EvaluationError(
                f"{folder}: object {row.id} is a {CLASSES[classes[row.id]]} first and a "
                f"{CLASSES[row.class_id]} in frame {row.frame}"
            )
