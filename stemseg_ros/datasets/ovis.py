"""OVIS: the JSON of YouTube-VIS as ``annotations_train.json``, images in ``train/<video>``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from stemseg_ros.datasets.folders import first_file, first_folder
from stemseg_ros.datasets.sequence import LabelledSequence
from stemseg_ros.datasets.youtube_vis import load_file


def load(root: Path, split: str, classes: Sequence[str], source: str) -> list[LabelledSequence]:
    """Every video with wanted objects. Raises DataError."""
    file = first_file(
        root,
        f"annotations_{split}.json",
        f"annotations/annotations_{split}.json",
        f"annotations/{split}.json",
        f"{split}.json",
    )
    images = first_folder(root, f"{split}/JPEGImages", split)
    return load_file(file, images, classes, source)
