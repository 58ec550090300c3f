"""The driving pack: short clips and stills with KITTI-MOTS label images.

Layout: ``clips/<name>/<frame>.jpg`` are videos, ``stills_*/<frame>.jpg`` single images; beside
every JPEG (``.jpg``, ``.jpeg``) lies a PNG of the same name, uint16, class * 1000 + track id (from
0, as in KITTI-MOTS), 0 background, 10000 ignored.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from stemseg_ros.datasets.classes import IGNORED, ClassMap, class_targets, compose
from stemseg_ros.datasets.folders import refuse_missing, refuse_orphans
from stemseg_ros.datasets.sequence import (
    CLASS_STEP,
    IGNORE_LABEL,
    DataError,
    LabelArray,
    LabelFiles,
    LabelledSequence,
)
from stemseg_ros.media.sources import natural_key

Split = Literal["train", "development"]
CLIPS = "clips"
"""Folder of the videos."""
LAST_NUMBER = CLASS_STEP - 1
"""Object 0 of a class is called this, as 0 means a group elsewhere in the package."""
HELD_OUT_CLIPS = frozenset({"0003"})
"""Clips that training never sees."""
HELD_OUT_STILL = 5
"""Every n-th still of a folder, from the first, belongs to the development split."""
CLASSES = {1: "car", 2: "pedestrian", 3: "large_vehicle"}


def load(root: Path, split: str, classes: Sequence[str], source: str) -> list[LabelledSequence]:
    """The part of the pack that ``source`` names, mapped to the classes. Raises DataError."""
    if split not in ("train", "development"):
        raise DataError(
            f"{root}: the driving pack has the splits train and development, not '{split}'"
        )
    targets = class_targets(CLASSES, classes, str(root))
    part: Split = "train" if split == "train" else "development"
    if source != CLIPS and root.is_dir() and (root / source).is_dir():
        return load_stills(root / source, targets, part)
    sequences = load_driving(root, part, targets)
    chosen = [sequence for sequence in sequences if sequence.source == source]
    if not chosen:
        found = ", ".join(sorted({sequence.source for sequence in sequences}))
        raise DataError(f"{root}: no '{source}', which training.mix names; found {found}")
    return chosen


def load_driving(
    root: Path, split: Split, targets: ClassMap | None = None
) -> list[LabelledSequence]:
    """Clips and stills of one split, not decoded yet. Without targets labels stay as they are.

    Raises DataError for a missing or incomplete pack.
    """
    if not root.is_dir():
        raise DataError(
            f"{root}: no such folder; expected the driving pack with clips/ and stills_*/"
        )
    held_out = split == "development"
    clips = [folder for folder in sorted((root / CLIPS).glob("*")) if folder.is_dir()]
    sequences = [
        _sequence(folder, CLIPS, _images(folder), targets)
        for folder in clips
        if (folder.name in HELD_OUT_CLIPS) == held_out
    ]
    for folder in sorted(root.glob("stills_*")):
        sequences += load_stills(folder, targets, split)
    if not sequences:
        raise DataError(
            f"{root}: no clips/<name>/*.jpg or stills_*/*.jpg of the {split} split found"
        )
    return sequences


def load_stills(
    folder: Path, targets: ClassMap | None = None, split: Split | None = None
) -> list[LabelledSequence]:
    """The stills of one folder, by name, all or those of a split. Raises DataError."""
    return [
        _sequence(folder, folder.name, [image], targets)
        for position, image in enumerate(_images(folder))
        if split is None or (position % HELD_OUT_STILL == 0) == (split == "development")
    ]


def read_labels(targets: ClassMap | None, path: Path) -> LabelArray:
    """A label image, class * 1000 + track id; 10000 is ignored. Raises DataError, ValueError."""
    labels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if labels is None:
        raise DataError(f"{path}: not readable as a label image")
    if labels.dtype != np.uint16 or labels.ndim != 2:
        raise DataError(
            f"{path}: expected one channel of 16 bits, found {labels.dtype} {labels.shape}"
        )
    if np.any((labels > 0) & (labels < CLASS_STEP)):
        raise DataError(
            f"{path}: labels between 1 and {CLASS_STEP - 1} have no class "
            f"(expected class * {CLASS_STEP} + track id)"
        )
    wide = labels.astype(np.int32)
    wide[(wide % CLASS_STEP == 0) & (wide != 0) & (wide != IGNORE_LABEL)] += LAST_NUMBER
    if targets is None:
        return wide
    known = {0: 0, **targets, IGNORE_LABEL // CLASS_STEP: IGNORED}
    return compose(wide // CLASS_STEP, wide % CLASS_STEP, known)


def _images(folder: Path) -> list[Path]:
    found = [file for file in folder.iterdir() if file.suffix.lower() in (".jpg", ".jpeg")]
    if not found:
        raise DataError(f"{folder}: no *.jpg images")
    refuse_orphans(folder.glob("*.png"), [image.with_suffix(".png") for image in found])
    return sorted(found, key=natural_key)


def _sequence(
    folder: Path, source: str, images: list[Path], targets: ClassMap | None
) -> LabelledSequence:
    files = [image.with_suffix(".png") for image in images]
    refuse_missing(files, "an image has no label image")
    name = f"{source}/{folder.name if source == CLIPS else images[0].stem}"
    labels = LabelFiles(tuple((file,) for file in files), partial(read_labels, targets))
    return LabelledSequence(name, source, tuple(images), labels)
