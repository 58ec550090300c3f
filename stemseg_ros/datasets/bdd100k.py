"""BDD100K segmentation tracking: RGBA bitmasks (class, attributes, object id on two bytes).

Layout: ``images/seg_track_20/train/<video>/<video>-0000001.jpg``,
``labels/seg_track_20/bitmasks/train/<video>/<video>-0000001.png``. Crowd and ignored objects are
ignored.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from stemseg_ros.datasets.classes import ClassMap, class_targets, compose
from stemseg_ros.datasets.folders import first_folder, paired_folders, subfolders
from stemseg_ros.datasets.sequence import IGNORE_LABEL, LabelArray, LabelFiles, LabelledSequence
from stemseg_ros.formats.bdd100k_bitmasks import CLASSES, unpack
from stemseg_ros.formats.label_pngs import read_png


def load(root: Path, split: str, classes: Sequence[str], source: str) -> list[LabelledSequence]:
    """Every video of a split. Raises DataError."""
    decode = partial(_decode, {0: 0, **class_targets(CLASSES, classes, str(root))})
    images = first_folder(root, f"images/seg_track_20/{split}")
    labels = first_folder(root, f"labels/seg_track_20/bitmasks/{split}")
    sequences = []
    for name in sorted({folder.name for folder in (*subfolders(images), *subfolders(labels))}):
        frames, files = paired_folders(images / name, labels / name)
        sequences.append(LabelledSequence(name, source, frames, LabelFiles(files, decode)))
    return sequences


def _decode(targets: ClassMap, file: Path) -> LabelArray:
    categories, skip, numbers = unpack(read_png(file, ("RGBA",)))
    labels = compose(categories, numbers, targets)
    labels[skip] = IGNORE_LABEL
    return labels
