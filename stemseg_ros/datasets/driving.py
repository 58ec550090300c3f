"""The driving pack: short clips and stills with KITTI-MOTS label images.

Layout: ``clips/<name>/<frame>.jpg|png`` are videos, ``stills_*/<frame>.jpg|png`` single images; beside every
JPEG lies a PNG of the same name, uint16, class * 1000 + track id, 0 background, 10000 ignored.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from stemseg_ros.datasets.sequence import DataError, LabelledSequence

Split = Literal["train", "development"]
HELD_OUT_CLIPS = frozenset({"0003"})
"""Clips that training never sees."""
HELD_OUT_STILL = 5
"""Every so-many-th still of a folder, from the first on, belongs to the development split."""


def load_driving(root: Path, split: Split) -> list[LabelledSequence]:
    """Clips and stills of one split; nothing is decoded yet.

    Raises DataError for a missing or incomplete pack.
    """
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; expected the driving pack with clips/ and stills_*/")
    held_out = split == "development"
    clips = [folder for folder in sorted((root / "clips").glob("*")) if folder.is_dir()]
    sequences = [_sequence(folder, "clips", _images(folder)) for folder in clips
                 if (folder.name in HELD_OUT_CLIPS) == held_out]
    for folder in sorted(root.glob("stills_*")):
        sequences += [_sequence(folder, folder.name, [image])
                      for position, image in enumerate(_images(folder))
                      if (position % HELD_OUT_STILL == 0) == held_out]
    if not sequences:
        raise DataError(f"{root}: no clips/<name>/*.jpg or stills_*/*.jpg of the {split} split found")
    return sequences


def _images(folder: Path) -> list[Path]:
    images = sorted(folder.glob("*.jpg"))
    if not images:
        raise DataError(f"{folder}: no *.jpg images")
    return images


def _sequence(folder: Path, source: str, images: list[Path]) -> LabelledSequence:
    labels = [image.with_suffix(".png") for image in images]
    for image, label in zip(images, labels, strict=True):
        if not label.is_file():
            raise DataError(f"{label}: missing; {image.name} has no label image")
    name = f"{source}/{folder.name if source == 'clips' else images[0].stem}"
    return LabelledSequence(name, source, tuple(images), tuple(labels))
