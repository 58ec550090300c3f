"""COCO stills: ``train2017/*.jpg`` with ``annotations/instances_train2017.json``.

Objects marked ``iscrowd`` are ignored regions. Where masks overlap the smaller object lies on top.
Images without an object of a wanted class are left out.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from stemseg_ros.datasets.annotations import JsonLabels, Objects
from stemseg_ros.datasets.classes import class_targets
from stemseg_ros.datasets.folders import first_file, first_folder, refuse_empty, refuse_missing
from stemseg_ros.datasets.sequence import LabelledSequence, data_errors
from stemseg_ros.formats.coco_json import object_mask, read_stills, scan_objects
from stemseg_ros.formats.json_entries import Json
from stemseg_ros.records import Rle


def load(root: Path, split: str, classes: Sequence[str], source: str) -> list[LabelledSequence]:
    """Every image with wanted objects; the split "train" is that of 2017. Raises DataError."""
    split = f"{split}2017" if split in ("train", "val") else split
    file = first_file(root, f"annotations/instances_{split}.json")
    folder = first_folder(root, split, f"images/{split}")
    objects: defaultdict[int, Objects] = defaultdict(Objects)
    with data_errors(str(file)):
        stills, names = read_stills(file)
        targets = class_targets(names, classes, str(file))
        for found in scan_objects(file, stills, names):
            with data_errors(found.place):
                objects[found.still].add(targets[found.class_id], found.crowd, found.span)
    sequences = [
        LabelledSequence(
            Path(still.file).stem,
            source,
            (folder / still.file,),
            JsonLabels(file, still.size, tuple(objects[number].places), _mask),
        )
        for number, still in stills.items()
        if objects[number].numbers
    ]
    refuse_empty(sequences, file, "no object of a class in network.classes")
    refuse_missing((sequence.images[0] for sequence in sequences), f"{file.name} names it")
    return sequences


def _mask(entry: Json, index: int, size: tuple[int, int]) -> Rle | None:
    return object_mask(entry, size)
