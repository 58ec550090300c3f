"""Stills with masks of objects of any class: a label PNG beside every JPEG.

Searched with subfolders. A value of a label PNG is an object; 0 is background, 10000 is ignored,
and so are other multiples of 1000, which in KITTI-MOTS' notation are pixels whose objects are not
separated.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from stemseg_ros.datasets.folders import refuse_missing
from stemseg_ros.datasets.sequence import (
    CLASS_STEP,
    IGNORE_LABEL,
    DataError,
    LabelArray,
    LabelFiles,
    LabelledSequence,
)
from stemseg_ros.media.sources import natural_key

SUFFIXES = (".jpg", ".jpeg")


def load(root: Path, split: str, classes: Sequence[str], source: str) -> list[LabelledSequence]:
    """Every still below ``root`` as a video of one frame. Raises DataError."""
    if split != "train" or len(classes) != 1:
        raise DataError(f"{root}: stills have the split train and a single class of objects")
    if not root.is_dir():
        raise DataError(f"{root}: no such folder")
    images = [file for file in root.rglob("*") if file.suffix.lower() in SUFFIXES]
    if not images:
        raise DataError(f"{root}: no *.jpg images in it or its subfolders")
    images.sort(key=natural_key)
    labels = [image.with_suffix(".png") for image in images]
    refuse_missing(labels, "an image has no label image")
    return [
        LabelledSequence(
            f"{source}/{image.relative_to(root).with_suffix('')}",
            source,
            (image,),
            LabelFiles(((label,),), read_labels),
        )
        for image, label in zip(images, labels, strict=True)
    ]


def read_labels(path: Path) -> LabelArray:
    """Objects as class 1, numbered by ascending value, from 1. Raises DataError."""
    found = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if found is None or found.ndim != 2 or found.dtype not in (np.uint8, np.uint16):
        raise DataError(f"{path}: no label image of one channel of 8 or 16 bits")
    present = np.bincount(found.reshape(-1)) > 0
    values = np.arange(len(present))
    ignored = (values > 0) & (values % CLASS_STEP == 0)
    objects = present & (values > 0) & ~ignored
    if np.count_nonzero(objects) >= CLASS_STEP:
        raise DataError(f"{path}: more than {CLASS_STEP - 1} objects")
    numbers = CLASS_STEP + np.cumsum(objects)
    table = np.where(objects, numbers, np.where(ignored, IGNORE_LABEL, 0)).astype(np.int32)
    return np.asarray(table[found], np.int32)
