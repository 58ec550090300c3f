"""Mapillary Vistas: uint16 label images, class * 256 + number, and a list of the classes.

Layout: ``training/images/*.jpg``; ``training/instances/*.png`` with ``config.json``, or
``training/v2.0/instances`` with ``config_v2.0.json`` (the same for v1.2).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from stemseg_ros.datasets.classes import ANY, IGNORED, ClassMap, class_targets, compose, target_of
from stemseg_ros.datasets.folders import first_folder, images_in, refuse_missing, refuse_orphans
from stemseg_ros.datasets.sequence import (
    DataError,
    LabelArray,
    LabelFiles,
    LabelledSequence,
    data_errors,
)
from stemseg_ros.formats.label_pngs import read_png

NUMBERS = 256
"""A label is class * 256 + number of the object."""
SPLITS = {"train": "training", "val": "validation"}
LAYOUTS = (
    ("v2.0/instances", "config_v2.0.json"),
    ("v1.2/instances", "config_v1.2.json"),
    ("instances", "config.json"),
)
"""Folder of the label images below that of the split, and the list of classes for it."""
VOID = "void--"
"""Classes with this prefix are ignored."""


def load(root: Path, split: str, classes: Sequence[str], source: str) -> list[LabelledSequence]:
    """Stills of a split. Raises DataError."""
    folder = first_folder(root, SPLITS.get(split, split))
    labels = first_folder(folder, *(name for name, _ in LAYOUTS))
    config = root / next(file for name, file in LAYOUTS if folder / name == labels)
    decode = partial(_decode, _targets(config, classes))
    images = images_in(folder / "images")
    refuse_missing((labels / f"{image.stem}.png" for image in images), "an image has no labels")
    refuse_orphans(labels.glob("*.png"), (labels / f"{image.stem}.png" for image in images))
    return [
        LabelledSequence(
            image.stem, source, (image,), LabelFiles(((labels / f"{image.stem}.png",),), decode)
        )
        for image in images
    ]


def _targets(config: Path, classes: Sequence[str]) -> ClassMap:
    """ClassMap of all classes, which are numbered by their position in the list."""
    try:
        content = json.loads(config.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise DataError(f"{config}: not readable as JSON: {error}") from error
    with data_errors(str(config)):
        names = {i: str(label["name"]) for i, label in enumerate(content["labels"])}
        things = {i for i, label in enumerate(content["labels"]) if label["instances"]}
    wanted = class_targets({i: _short(names[i]) for i in sorted(things)}, classes, str(config))
    return {
        i: wanted[i] if i in things else _stuff_target(name, classes) for i, name in names.items()
    }


def _stuff_target(name: str, classes: Sequence[str]) -> int:
    """Without objects a class is background, unless it is void or a crowd of what is wanted."""
    named = [other for other in classes if other != ANY]
    return IGNORED if name.startswith(VOID) or target_of(_short(name), named) else 0


def _short(name: str) -> str:
    """``object--vehicle--car`` is a car; ``human--person--individual`` (2.0) a person."""
    last = name.split("--")[-1]
    return "person" if last == "individual" else last


def _decode(targets: ClassMap, file: Path) -> LabelArray:
    values = read_png(file, ("I;16", "I;16B", "I")).astype(np.int32)
    return compose(values // NUMBERS, values % NUMBERS + 1, targets)
