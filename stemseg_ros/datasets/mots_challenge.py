"""MOTSChallenge: ``train/MOTS20-02/`` with ``img1/000001.jpg``, ``gt/gt.txt``, ``seqinfo.ini``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from stemseg_ros.datasets.classes import class_targets
from stemseg_ros.datasets.folders import first_folder, images_in, refuse_missing, subfolders
from stemseg_ros.datasets.kitti_mots import mask_labels
from stemseg_ros.datasets.sequence import LabelledSequence, data_errors
from stemseg_ros.formats.mots_challenge_text import CLASSES, read_truth


def load(root: Path, split: str, classes: Sequence[str], source: str) -> list[LabelledSequence]:
    """Every sequence with ground truth. Raises DataError."""
    targets = class_targets(CLASSES, classes, str(root))
    folder = first_folder(root, split)
    texts = (entry / "gt" / "gt.txt" for entry in subfolders(folder))
    refuse_missing(texts, "a sequence has no ground truth")
    with data_errors(str(folder)):
        truths = read_truth(folder)
    sequences = []
    for name, masks in truths.items():
        images = tuple(images_in(folder / name / "img1"))
        labels = mask_labels(folder / name / "gt" / "gt.txt", masks, images, targets)
        sequences.append(LabelledSequence(name, source, images, labels))
    return sequences
