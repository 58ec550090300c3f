"""DAVIS 2016, 2017, 2019 unsupervised: ``JPEGImages/480p/bear/00000.jpg``, a PNG per frame.

Labels: ``Annotations/480p`` (2016: one foreground object; 2017: one value per object), or
``Annotations_unsupervised/480p`` (2019; 255 is void). Sequences: ``ImageSets/<year>/<split>.txt``,
in the original 2016 download ``ImageSets/480p/<split>.txt`` with a pair of paths per line.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from stemseg_ros.datasets.classes import IGNORED, ClassMap, class_targets, compose
from stemseg_ros.datasets.folders import first_file, first_folder, list_file, paired_folders
from stemseg_ros.datasets.sequence import LabelArray, LabelFiles, LabelledSequence
from stemseg_ros.formats.davis_pngs import CLASSES, VOID
from stemseg_ros.formats.label_pngs import read_png

MODES = ("P", "L", "1")


def load_2016(
    root: Path, split: str, classes: Sequence[str], source: str
) -> list[LabelledSequence]:
    """One foreground object per sequence. Raises DataError."""
    names = list_file(
        first_file(root, f"ImageSets/2016/{split}.txt", f"ImageSets/480p/{split}.txt")
    )
    folders = [Path(line.split()[0]).parent.name if "/" in line else line for line in names]
    decode = partial(_decode_binary, class_targets(CLASSES, classes, str(root)))
    return _sequences(root, "Annotations/480p", list(dict.fromkeys(folders)), source, decode)


def load_2017(
    root: Path, split: str, classes: Sequence[str], source: str
) -> list[LabelledSequence]:
    """Several objects per sequence. Raises DataError."""
    names = list_file(first_file(root, f"ImageSets/2017/{split}.txt"))
    decode = partial(_decode, class_targets(CLASSES, classes, str(root)))
    return _sequences(root, "Annotations/480p", names, source, decode)


def load_2019(
    root: Path, split: str, classes: Sequence[str], source: str
) -> list[LabelledSequence]:
    """The unsupervised annotation, in which 255 is void. Raises DataError."""
    names = list_file(
        first_file(root, f"ImageSets/2017/{split}.txt", f"ImageSets/2019/{split}.txt")
    )
    decode = partial(_decode, class_targets(CLASSES, classes, str(root)))
    return _sequences(root, "Annotations_unsupervised/480p", names, source, decode)


def _sequences(
    root: Path,
    annotations: str,
    names: list[str],
    source: str,
    decode: Callable[[Path], LabelArray],
) -> list[LabelledSequence]:
    images, labels = first_folder(root, "JPEGImages/480p"), first_folder(root, annotations)
    sequences = []
    for name in names:
        frames, files = paired_folders(images / name, labels / name)
        sequences.append(LabelledSequence(name, source, frames, LabelFiles(files, decode)))
    return sequences


def _decode(targets: ClassMap, file: Path) -> LabelArray:
    values = read_png(file, MODES).astype(np.int32)
    categories = np.where(values == VOID, VOID, np.minimum(values, 1))
    return compose(categories, values, {0: 0, **targets, VOID: IGNORED})


def _decode_binary(targets: ClassMap, file: Path) -> LabelArray:
    foreground = (read_png(file, MODES) > 0).astype(np.int32)
    return compose(foreground, foreground, {0: 0, **targets})
