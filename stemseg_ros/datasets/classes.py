"""Maps the classes of datasets, by name, to those of a configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from stemseg_ros.datasets.sequence import CLASS_STEP, IGNORE_LABEL, DataError, LabelArray

IGNORED = -1
"""Target of classes whose pixels count neither as background nor as an object."""
ANY = "object"
"""A configured class of this name takes all that the others leave (DAVIS)."""
SYNONYMS = {
    "person": "pedestrian",
    "people": "pedestrian",
    "sedan": "car",
    "motorbike": "motorcycle",
    "bike": "bicycle",
    "aeroplane": "airplane",
    "tvmonitor": "tv",
    "sofa": "couch",
    "pottedplant": "potted_plant",
    "diningtable": "dining_table",
}
"""Synonyms."""
LOOKALIKES = {
    "rider": "pedestrian",
    "bicyclist": "pedestrian",
    "motorcyclist": "pedestrian",
    "other_rider": "pedestrian",
    "person_group": "pedestrian",
    "van": "car",
    "vehicle": "car",
    "vehicle_group": "car",
    "caravan": "car",
    "trailer": "car",
    "large_vehicle": "car",
}
"""Ignored where the other class is wanted and they are not: datasets disagree about them."""

ClassMap = dict[int, int]
"""Class id of a dataset -> class id of the configuration from 1, 0 background, IGNORED."""


def class_targets(names: Mapping[int, str], classes: Sequence[str], place: str) -> ClassMap:
    """Targets of a dataset's classes.

    Raises DataError if no class of the dataset is wanted.
    """
    found = {id_: target_of(name, classes) for id_, name in names.items()}
    if not any(target > 0 for target in found.values()):
        raise DataError(
            f"{place}: network.classes ({', '.join(classes)}) has none of its classes "
            f"({', '.join(names.values())})"
        )
    return found


def target_of(name: str, classes: Sequence[str]) -> int:
    """Class id from 1, 0 for background, or IGNORED."""
    plain = [_plain(other) for other in classes]
    common = [_common(other) for other in plain]
    name = _plain(name)
    if name in plain:
        return plain.index(name) + 1
    if _common(name) in common:
        return common.index(_common(name)) + 1
    if ANY in plain:
        return plain.index(ANY) + 1
    return IGNORED if LOOKALIKES.get(name) in common else 0


def label_of(target: int, number: int) -> int:
    """Label of the number-th object (from 1) of a target. Raises ValueError above 999."""
    if target == IGNORED:
        return IGNORE_LABEL
    if not 1 <= number < CLASS_STEP:
        raise ValueError(
            f"object number {number}; labels hold at most {CLASS_STEP - 1} objects of a class"
        )
    return target * CLASS_STEP + number


def compose(
    categories: npt.NDArray[np.integer], numbers: npt.NDArray[np.integer], targets: ClassMap
) -> LabelArray:
    """Labels from class ids of the dataset, from 0, and object numbers from 1, both (H, W).

    Raises ValueError for a category that the dataset does not have, or a number above 999.
    """
    present = np.flatnonzero(np.bincount(categories.ravel())).tolist()
    unknown = [category for category in present if category not in targets]
    if unknown:
        raise ValueError(f"category {unknown[0]} is unknown")
    table = np.zeros(max(present) + 1, np.int32)
    table[present] = [targets[category] for category in present]
    wanted = table[categories]
    highest = int(numbers[wanted > 0].max(initial=0))
    if highest:
        label_of(1, highest)
    objects = wanted * CLASS_STEP + numbers.astype(np.int32)
    return np.where(wanted > 0, objects, np.where(wanted == IGNORED, IGNORE_LABEL, 0)).astype(
        np.int32
    )


def _plain(name: str) -> str:
    return name.strip().lower().replace(" ", "_").replace("-", "_")


def _common(name: str) -> str:
    return SYNONYMS.get(name, name)
