"""Ways to damage the datasets of dataset_files.py, and the places of some of their files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from dataset_files import write_image

Spoil = Callable[[Path], Any]


def remove(path: str) -> Spoil:
    return lambda root: (root / path).unlink()


def remove_folder(path: str) -> Spoil:
    return lambda root: shutil.rmtree(root / path)


def twin(path: str) -> Spoil:
    """An empty file or folder of a similar name beside the other one."""

    def spoil(root: Path) -> None:
        known = root / path
        stem, mark, rest = known.name.partition("_gtFine")
        if known.is_dir():
            known.with_name(f"{known.name}-b").mkdir()
        elif mark:
            known.with_name(f"{stem}-b{mark}{rest}").touch()
        else:
            known.with_name(f"{known.stem}-b{known.suffix}").touch()

    return spoil


def cut(path: str, share: float = 0.6) -> Spoil:
    def spoil(root: Path) -> None:
        content = (root / path).read_bytes()
        (root / path).write_bytes(content[: int(len(content) * share)])

    return spoil


def flip(path: str) -> Spoil:
    """One wrong byte in the pixels of a PNG."""

    def spoil(root: Path) -> None:
        content = bytearray((root / path).read_bytes())
        content[content.index(b"IDAT") + 10] ^= 0xFF
        (root / path).write_bytes(content)

    return spoil


def text(path: str, content: str) -> Spoil:
    return lambda root: (root / path).write_text(content)


def image(path: str, pixels: np.ndarray) -> Spoil:
    return lambda root: write_image(root / path, pixels)


def replaced(path: str, old: str, new: str) -> Spoil:
    def spoil(root: Path) -> None:
        content = (root / path).read_text()
        assert old in content
        (root / path).write_text(content.replace(old, new, 1))

    return spoil


def edited(path: str, edit: Callable[[dict[str, Any]], Any]) -> Spoil:
    def spoil(root: Path) -> None:
        content = json.loads((root / path).read_text())
        edit(content)
        (root / path).write_text(json.dumps(content))

    return spoil


def small() -> np.ndarray:
    return np.zeros((10, 12), np.uint8)


KITTI_LABEL, KITTI_IMAGE = "instances/0003/000001.png", "training/image_02/0003/000001.png"
KITTI_TEXT, MOTS = "instances_txt/0003.txt", "train/MOTS20-02"
VIS, OVIS, COCO = "train.json", "annotations_train.json", "annotations/instances_train2017.json"
BDD_LABEL = "labels/seg_track_20/bitmasks/train/v1/v1-0000002.png"
VOC = "VOCdevkit/VOC2012"
CITY = "gtFine/train/ulm/ulm_000000_000019_gtFine_instanceIds.png"
CUT_OFF = "(is cut off before its end|not readable as an image)"
"""A decoder may notice it first."""
