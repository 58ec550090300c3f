"""KITTI-MOTS: label images (``instances``) or text with run lengths (``instances_txt``).

Layout: ``instances/0000/000000.png`` and ``instances_txt/0000.txt`` of the KITTI-MOTS download,
images of the KITTI tracking benchmark as ``training/image_02/0000/000000.png`` (or
``image_02/...``).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from stemseg_ros.datasets.classes import IGNORED, ClassMap, class_targets, compose, label_of
from stemseg_ros.datasets.folders import first_folder, images_in, paired_folders
from stemseg_ros.datasets.sequence import (
    CLASS_STEP,
    IGNORE_LABEL,
    DataError,
    LabelArray,
    LabelFiles,
    LabelledSequence,
    MaskLabels,
    data_errors,
    image_size,
)
from stemseg_ros.formats.kitti_mots_text import CLASSES, IGNORE_CLASS, read_file
from stemseg_ros.formats.label_pngs import read_png
from stemseg_ros.formats.sequence_masks import SequenceMasks
from stemseg_ros.records import Rle

TRAIN = (0, 1, 3, 4, 5, 9, 11, 12, 15, 17, 19, 20)
VAL = (2, 6, 7, 8, 10, 13, 14, 16, 18)
SPLITS = {"train": TRAIN, "val": VAL, "trainval": tuple(sorted(TRAIN + VAL))}
"""Sequence numbers."""


def load(root: Path, split: str, classes: Sequence[str], source: str) -> list[LabelledSequence]:
    """Sequences with label images. Raises DataError."""
    targets = {0: 0, **class_targets(CLASSES, classes, str(root)), IGNORE_CLASS: IGNORED}
    images, labels = (
        first_folder(root, "training/image_02", "image_02"),
        first_folder(root, "instances"),
    )
    sequences = []
    for name in _names(root, split):
        frames, files = paired_folders(images / name, labels / name)
        sequences.append(
            LabelledSequence(name, source, frames, LabelFiles(files, partial(_decode, targets)))
        )
    return sequences


def load_text(
    root: Path, split: str, classes: Sequence[str], source: str
) -> list[LabelledSequence]:
    """Sequences with text files. Raises DataError."""
    targets = class_targets(CLASSES, classes, str(root))
    images, texts = (
        first_folder(root, "training/image_02", "image_02"),
        first_folder(root, "instances_txt"),
    )
    sequences = []
    for name in _names(root, split):
        frames, file = tuple(images_in(images / name)), texts / f"{name}.txt"
        with data_errors(str(file)):
            masks = read_file(file, name, CLASSES, truth=True)
        sequences.append(
            LabelledSequence(name, source, frames, mask_labels(file, masks, frames, targets))
        )
    return sequences


def mask_labels(
    file: Path, masks: SequenceMasks, images: Sequence[Path], targets: ClassMap
) -> MaskLabels:
    """Run lengths of a sequence as labels of its images. Raises DataError."""
    if masks.frames > len(images):
        raise DataError(
            f"{file}: labels of {masks.frames} frames, {images[0].parent} has {len(images)} images"
        )
    frames: list[list[tuple[int, Rle]]] = [[] for _ in images]
    for frame, rle in masks.ignored.items():
        frames[frame].append((IGNORE_LABEL, rle))
    with data_errors(str(file)):
        for row in masks.rows:
            if targets[row.class_id]:
                label = label_of(
                    targets[row.class_id], row.id % CLASS_STEP + 1
                )  # ids count from 0 there
                frames[row.frame].append((label, row.rle))
    size = image_size(images[0]) if masks.size == (0, 0) else masks.size
    return MaskLabels(file, size, tuple(map(tuple, frames)))


def _names(root: Path, split: str) -> list[str]:
    if split not in SPLITS:
        raise DataError(f"{root}: KITTI-MOTS has the splits {', '.join(SPLITS)}, not '{split}'")
    return [f"{number:04d}" for number in SPLITS[split]]


def _decode(targets: ClassMap, file: Path) -> LabelArray:
    values = read_png(file, ("I;16", "I;16B", "I")).astype(np.int32)
    if np.any((values > 0) & (values < CLASS_STEP)):
        raise ValueError(
            f"labels between 1 and {CLASS_STEP - 1} have no class (expected class * 1000 + id)"
        )
    return compose(values // CLASS_STEP, values % CLASS_STEP + 1, targets)
