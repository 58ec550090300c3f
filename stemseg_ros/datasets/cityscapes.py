"""Cityscapes: ``leftImg8bit/train/<city>/*.png``, ``gtFine/.../*_gtFine_instanceIds.png``.

A label is class * 1000 + number from 0 for an object, the class alone for groups of objects that
could not be separated (ignored) and for stuff.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from stemseg_ros.datasets.classes import IGNORED, ClassMap, class_targets, compose
from stemseg_ros.datasets.folders import (
    first_folder,
    images_in,
    refuse_missing,
    refuse_orphans,
    subfolders,
)
from stemseg_ros.datasets.sequence import (
    CLASS_STEP,
    IGNORE_LABEL,
    LabelArray,
    LabelFiles,
    LabelledSequence,
)
from stemseg_ros.formats.label_pngs import read_png

CLASSES = {
    24: "person",
    25: "rider",
    26: "car",
    27: "truck",
    28: "bus",
    29: "caravan",
    30: "trailer",
    31: "train",
    32: "motorcycle",
    33: "bicycle",
}
UNKNOWN = range(4)
"""Unlabelled, ego vehicle, border of the rectification, out of the region of interest."""
STUFF = range(4, 24)


def load(root: Path, split: str, classes: Sequence[str], source: str) -> list[LabelledSequence]:
    """Stills of a split. Raises DataError."""
    targets = class_targets(CLASSES, classes, str(root))
    truth = first_folder(root, f"gtFine/{split}")
    sequences, labels = [], []
    for city in subfolders(first_folder(root, f"leftImg8bit/{split}")):
        for image in images_in(city):
            name = image.stem.removesuffix("_leftImg8bit")
            labels.append(truth / city.name / f"{name}_gtFine_instanceIds.png")
            sequences.append(
                LabelledSequence(
                    name, source, (image,), LabelFiles(((labels[-1],),), partial(_decode, targets))
                )
            )
    refuse_missing(labels, "an image has no labels")
    refuse_orphans(truth.glob("*/*_gtFine_instanceIds.png"), labels)
    return sequences


def _decode(targets: ClassMap, file: Path) -> LabelArray:
    values = read_png(file, ("I;16", "I;16B", "I")).astype(np.int32)
    is_object = values >= CLASS_STEP
    categories = np.where(is_object, values // CLASS_STEP, values)
    known = {**dict.fromkeys(STUFF, 0), **targets, **dict.fromkeys(UNKNOWN, IGNORED)}
    labels = compose(categories, values % CLASS_STEP + 1, known)
    labels[~is_object & (labels > 0)] = IGNORE_LABEL  # a group
    return labels
