"""The one type that every dataset is read as."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from stemseg_ros.errors import StemsegError

CLASS_STEP = 1000
"""A label is class * 1000 + track id, as in KITTI-MOTS; 0 is background."""
IGNORE_LABEL = 10000
"""Label of pixels about which nothing is known."""


class DataError(StemsegError):
    """A dataset is missing, incomplete or mangled; the message names the file."""


@dataclass(frozen=True, slots=True, eq=False)
class LabelledFrame:
    """One image with the identity of every pixel."""

    image: npt.NDArray[np.uint8]
    """uint8 (H, W, 3), BGR."""
    labels: npt.NDArray[np.int32]
    """int32 (H, W): 0 background, class * 1000 + track id, IGNORE_LABEL."""


@dataclass(frozen=True, slots=True)
class LabelledSequence:
    """A labelled video, or a still as a video of one frame."""

    name: str
    """Unique in its dataset, for messages."""
    source: str
    """Part of the dataset it comes from; training mixes parts by weight."""
    images: tuple[Path, ...]
    labels: tuple[Path, ...]
    """One label file per image, same order."""

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int, classes: int) -> LabelledFrame:
        """Decode one frame.

        Raises DataError for an unreadable file, a size mismatch or a class above ``classes``.
        """
        image, labels = _read_image(self.images[index]), _read_labels(self.labels[index], classes)
        if image.shape[:2] != labels.shape:
            raise DataError(f"{self.labels[index]}: {labels.shape[1]}x{labels.shape[0]} labels for an image "
                            f"of {image.shape[1]}x{image.shape[0]}")
        return LabelledFrame(image, labels)


def class_of(labels: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """Class of each label; 0 for background and ignored pixels."""
    return np.where(labels == IGNORE_LABEL, 0, labels // CLASS_STEP).astype(np.int32)


def read_all(sequences: Sequence[LabelledSequence], classes: int) -> list[list[LabelledFrame]]:
    """Every frame of every sequence, decoded. Raises DataError at the first bad file."""
    return [[sequence.read(index, classes) for index in range(len(sequence))] for sequence in sequences]


def _read_image(path: Path) -> npt.NDArray[np.uint8]:
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise DataError(f"{path}: not readable as an image")
    return np.asarray(image, dtype=np.uint8)


def _read_labels(path: Path, classes: int) -> npt.NDArray[np.int32]:
    labels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if labels is None:
        raise DataError(f"{path}: not readable as a label image")
    if labels.dtype != np.uint16 or labels.ndim != 2:
        raise DataError(f"{path}: expected one channel of 16 bits, found {labels.dtype} {labels.shape}")
    known = labels[labels != IGNORE_LABEL]
    if known.size and known.max() // CLASS_STEP > classes:
        raise DataError(f"{path}: label {known.max()} has class {known.max() // CLASS_STEP}, "
                        f"the configuration has {classes} classes (network.classes)")
    if np.any((known > 0) & (known < CLASS_STEP)):
        raise DataError(f"{path}: labels between 1 and {CLASS_STEP - 1} have no class "
                        f"(expected class * {CLASS_STEP} + track id)")
    return labels.astype(np.int32)
