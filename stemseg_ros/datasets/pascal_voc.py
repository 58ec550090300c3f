"""Pascal VOC 2012: ``JPEGImages``, ``SegmentationObject`` and ``SegmentationClass``.

The root is the folder that holds them, or one above (``VOC2012``, ``VOCdevkit/VOC2012``). Both
label images have 255 on contours and difficult objects: ignored.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from stemseg_ros.datasets.classes import IGNORED, ClassMap, class_targets, compose
from stemseg_ros.datasets.folders import first_folder, list_file, refuse_missing
from stemseg_ros.datasets.sequence import LabelArray, LabelFiles, LabelledSequence
from stemseg_ros.formats.label_pngs import read_png

NAMES = (
    "aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike "
    "person pottedplant sheep sofa train tvmonitor"
)
CLASSES = dict(enumerate(NAMES.split(), start=1))
VOID = 255


def load(root: Path, split: str, classes: Sequence[str], source: str) -> list[LabelledSequence]:
    """Stills of the segmentation lists (train, val, trainval). Raises DataError."""
    targets = {0: 0, **class_targets(CLASSES, classes, str(root)), VOID: IGNORED}
    base = first_folder(
        root,
        "SegmentationObject",
        "VOC2012/SegmentationObject",
        "VOCdevkit/VOC2012/SegmentationObject",
    ).parent
    names = list_file(base / "ImageSets" / "Segmentation" / f"{split}.txt")
    sequences = []
    for name in names:
        image = base / "JPEGImages" / f"{name}.jpg"
        files = (
            base / "SegmentationObject" / f"{name}.png",
            base / "SegmentationClass" / f"{name}.png",
        )
        labels = LabelFiles((files,), partial(_decode, targets))
        sequences.append(LabelledSequence(name, source, (image,), labels))
    why = f"the list '{split}' names it"
    refuse_missing((sequence.images[0] for sequence in sequences), why)
    refuse_missing(
        (
            base / kind / f"{name}.png"
            for name in names
            for kind in ("SegmentationObject", "SegmentationClass")
        ),
        why,
    )
    return sequences


def _decode(targets: ClassMap, objects: Path, categories: Path) -> LabelArray:
    numbers = read_png(objects, ("P", "L")).astype(np.int32)
    classes = read_png(categories, ("P", "L")).astype(np.int32)
    if numbers.shape != classes.shape:
        raise ValueError(f"its size differs from that of {categories}")
    of_object = np.zeros(VOID + 1, np.int32)
    for number in np.unique(numbers[(numbers > 0) & (numbers < VOID)]):
        found = classes[(numbers == number) & (classes > 0) & (classes < VOID)]
        if found.size == 0:
            raise ValueError(f"object {number} has no class in {categories}")
        of_object[number] = np.bincount(found).argmax()
    of_object[VOID] = VOID
    return compose(of_object[numbers], numbers, targets)
