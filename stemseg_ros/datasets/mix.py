"""Finds and checks the datasets of ``training.mix`` before training."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from stemseg_ros.config import Config, ConfigError
from stemseg_ros.datasets import (
    bdd100k,
    cityscapes,
    coco,
    davis,
    driving,
    kitti_mots,
    labelled_stills,
    mapillary,
    mots_challenge,
    ovis,
    pascal_voc,
    youtube_vis,
)
from stemseg_ros.datasets.classes import target_of
from stemseg_ros.datasets.sequence import CLASS_STEP, DataError, GroupLabels, LabelledSequence
from stemseg_ros.datasets.settings import DatasetConfig

Loader = Callable[[Path, str, Sequence[str], str], list[LabelledSequence]]
"""(folder, split, class names, name of the entry) -> sequences, not decoded. Raises DataError."""

FORMATS: dict[str, Loader] = {
    "driving": driving.load,
    "kitti_mots": kitti_mots.load,
    "kitti_mots_txt": kitti_mots.load_text,
    "mots_challenge": mots_challenge.load,
    "davis2016": davis.load_2016,
    "davis2017": davis.load_2017,
    "davis2019": davis.load_2019,
    "youtube_vis": youtube_vis.load,
    "ovis": ovis.load,
    "bdd100k": bdd100k.load,
    "coco": coco.load,
    "pascal_voc": pascal_voc.load,
    "mapillary": mapillary.load,
    "cityscapes": cityscapes.load,
    "stills": labelled_stills.load,
}


def entries(config: Config) -> dict[str, DatasetConfig]:
    """Select the entries of the mix with a weight, in alphabetical order.

    Raises ConfigError for a format that does not exist, DataError if there are no entries.
    """
    found = {
        name: entry for name, entry in sorted(config.training.mix.items()) if entry.weight > 0
    }
    if not found:
        raise DataError("training.mix gives no weight to any dataset")
    for name, entry in found.items():
        if entry.format not in FORMATS:
            close = difflib.get_close_matches(entry.format, FORMATS, n=1)
            raise ConfigError(
                f"training.mix.{name}.format: no format '{entry.format}'"
                f"{f'; did you mean {close[0]!r}?' if close else ''}; "
                f"formats: {', '.join(FORMATS)}"
            )
    return found


def load_entry(config: Config, data: Path, name: str) -> list[LabelledSequence]:
    """Find the sequences of one entry of the mix, those that show its ``focus`` if it has one;
    only then are labels decoded. Raises DataError, ConfigError."""
    entry = config.training.mix[name]
    source = name if entry.folder is None else entry.folder
    root = data / Path(entry.root).expanduser()
    sequences = FORMATS[entry.format](root, entry.split, config.classes, source)
    if entry.focus:
        focus = _focus_class(config, name, entry.focus)
        sequences = [sequence for sequence in sequences if _shows(sequence, focus)]
        if not sequences:
            raise DataError(f"{root}: no sequence of '{source}' shows a {entry.focus}")
    if entry.instances:
        return sequences
    return [replace(sequence, labels=GroupLabels(sequence.labels)) for sequence in sequences]


def _focus_class(config: Config, name: str, focus: str) -> int:
    class_id = target_of(focus, config.classes)
    if class_id < 1:
        raise ConfigError(
            f"training.mix.{name}.focus: '{focus}' is none of the model's classes: "
            f"{', '.join(config.classes)}"
        )
    return class_id


def _shows(sequence: LabelledSequence, class_id: int) -> bool:
    return any(
        np.any(sequence.labels.read(index) // CLASS_STEP == class_id)
        for index in range(len(sequence))
    )


def load_mix(config: Config, data: Path) -> dict[str, list[LabelledSequence]]:
    """Find the sequences of every entry with a weight; their files are checked. Labels are
    decoded only for entries with a ``focus``.

    data: folder that the entries' roots are relative to. Raises ConfigError, DataError.
    """
    mix = {name: load_entry(config, data, name) for name in entries(config)}
    for sequences in mix.values():
        for sequence in sequences:
            sequence.check()
    return mix
