"""The common type of all datasets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, SupportsIndex, overload

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image as PillowImage
from pycocotools import mask as coco_mask

from stemseg_ros.errors import StemsegError
from stemseg_ros.masks import decode
from stemseg_ros.records import Rle

CLASS_STEP = 1000
"""A label is class * 1000 + track id, as in KITTI-MOTS; 0 is background."""
IGNORE_LABEL = 10000
"""Label of pixels about which nothing is known. Number 0 of a class, as in 1000, labels a group:
pixels of that class whose instances are not separated."""
END_MARKS = {".png": (b"IEND", 64), ".jpg": (b"\xff\xd9", 4096), ".jpeg": (b"\xff\xd9", 4096)}
"""Bytes near the end of a complete file, and how near."""

LabelArray = npt.NDArray[np.int32]
"""int32 (H, W): 0 background, class * 1000 + track id, IGNORE_LABEL."""


class DataError(StemsegError):
    """A dataset is missing, incomplete or mangled; the message names the file."""


@dataclass(frozen=True, slots=True, eq=False)
class LabelledFrame:
    """One image with the identity of every pixel."""

    image: npt.NDArray[np.uint8]
    """uint8 (H, W, 3), BGR."""
    labels: LabelArray
    """int32 (H, W): 0 background, class * 1000 + track id (0: a group), IGNORE_LABEL."""


Sources = Mapping[str, Sequence[Sequence[LabelledFrame]]]
"""Sequences by entry of the training mix; frames are decoded before, or when they are indexed."""


class Labels(Protocol):
    """The labels of a sequence, decoded on request."""

    def read(self, index: int) -> LabelArray:
        """Labels of one frame. Raises DataError."""

    def size(self, index: int) -> tuple[int, int]:
        """(H, W) of one frame's labels; looks for damage, decodes nothing. Raises DataError."""

    def place(self, index: int) -> str:
        """Source of the labels of a frame, for messages."""


@dataclass(frozen=True, slots=True)
class LabelFiles:
    """Label images."""

    files: tuple[tuple[Path, ...], ...]
    """The file or files of each frame."""
    decode: Callable[..., LabelArray]
    """Takes the files of a frame. Raises StemsegError, or ValueError for impossible content."""

    def read(self, index: int) -> LabelArray:
        for file in self.files[index]:
            _refuse_cut_off(file)
        with data_errors(self.place(index)):
            return self.decode(*self.files[index])

    def size(self, index: int) -> tuple[int, int]:
        sizes = [image_size(file, checksums=True) for file in self.files[index]]
        if len(set(sizes)) > 1:
            raise DataError(
                f"{self.place(index)}: its size differs from that of {self.files[index][1]}"
            )
        return sizes[0]

    def place(self, index: int) -> str:
        return str(self.files[index][0])


@dataclass(frozen=True, slots=True)
class MaskLabels:
    """Run lengths kept in memory, a few hundred bytes a mask."""

    file: Path
    image_size: tuple[int, int]
    frames: tuple[tuple[tuple[int, Rle], ...], ...]
    """(label, mask) of each object of each frame."""

    def read(self, index: int) -> LabelArray:
        return paint(self.image_size, self.frames[index])

    def size(self, index: int) -> tuple[int, int]:
        return self.image_size

    def place(self, index: int) -> str:
        return f"{self.file}, frame {index}"


@dataclass(frozen=True, slots=True)
class GroupLabels:
    """Labels of which only the classes count: all objects of a class are one group."""

    labels: Labels

    def read(self, index: int) -> LabelArray:
        labels = self.labels.read(index)
        grouped: LabelArray = np.where(
            labels == IGNORE_LABEL, IGNORE_LABEL, labels // CLASS_STEP * CLASS_STEP
        ).astype(np.int32)
        return grouped

    def size(self, index: int) -> tuple[int, int]:
        return self.labels.size(index)

    def place(self, index: int) -> str:
        return self.labels.place(index)


@dataclass(frozen=True, slots=True)
class LabelledSequence(Sequence[LabelledFrame]):
    """A labelled video, or a still as a video of one frame; frames are read when indexed."""

    name: str
    """Unique in its dataset, for messages."""
    source: str
    """Entry of the training mix, or part of the driving pack."""
    images: tuple[Path, ...]
    labels: Labels

    def __len__(self) -> int:
        return len(self.images)

    @overload
    def __getitem__(self, index: SupportsIndex) -> LabelledFrame: ...
    @overload
    def __getitem__(self, index: slice) -> list[LabelledFrame]: ...
    def __getitem__(self, index: SupportsIndex | slice) -> LabelledFrame | list[LabelledFrame]:
        if isinstance(index, slice):
            return [self.read(i) for i in range(*index.indices(len(self)))]
        return self.read(range(len(self))[index])

    def read(self, index: int, classes: int | None = None) -> LabelledFrame:
        """Decode one frame.

        Raises DataError for an unreadable file, a size mismatch or a class above ``classes``.
        """
        image, labels = _read_image(self.images[index]), self.labels.read(index)
        self._compare(index, (image.shape[0], image.shape[1]), (labels.shape[0], labels.shape[1]))
        if classes is not None:
            self._refuse_classes_above(classes, index, labels)
        return LabelledFrame(image, labels)

    def _refuse_classes_above(self, classes: int, index: int, labels: LabelArray) -> None:
        highest = int(labels[labels != IGNORE_LABEL].max(initial=0))
        if highest // CLASS_STEP > classes:
            raise DataError(
                f"{self.labels.place(index)}: label {highest} has class {highest // CLASS_STEP}, "
                f"the configuration has {classes} classes (network.classes)"
            )

    def check(self) -> None:
        """Look at every file, its header and its end, without decoding it. Raises DataError."""
        for index, image in enumerate(self.images):
            self._compare(index, image_size(image), self.labels.size(index))

    def _compare(self, index: int, image: tuple[int, int], labels: tuple[int, int]) -> None:
        if image != labels:
            raise DataError(
                f"{self.labels.place(index)}: {labels[1]}x{labels[0]} labels for an image "
                f"of {image[1]}x{image[0]} ({self.images[index].name})"
            )


def class_of(labels: LabelArray) -> LabelArray:
    """Class of each label; 0 for background and ignored pixels."""
    return np.where(labels == IGNORE_LABEL, 0, labels // CLASS_STEP).astype(np.int32)


def is_object(labels: npt.NDArray[np.integer]) -> npt.NDArray[np.bool_]:
    """Where labels are those of single objects."""
    return np.asarray((labels % CLASS_STEP != 0) & (labels != 0), dtype=np.bool_)


def is_group(labels: LabelArray) -> npt.NDArray[np.bool_]:
    """Where labels have a class but no instance."""
    groups = (labels % CLASS_STEP == 0) & (labels != 0) & (labels != IGNORE_LABEL)
    return np.asarray(groups, dtype=np.bool_)


def read_all(sequences: Sequence[LabelledSequence], classes: int) -> list[list[LabelledFrame]]:
    """Decode every frame of every sequence. Raises DataError at the first bad file."""
    return [
        [sequence.read(index, classes) for index in range(len(sequence))] for sequence in sequences
    ]


def paint(size: tuple[int, int], masks: Iterable[tuple[int, Rle]]) -> LabelArray:
    """(label, mask) pairs as one label image: ignored regions below, small objects on top."""
    labels = np.zeros(size, np.int32)
    order = sorted(
        masks, key=lambda pair: (pair[0] != IGNORE_LABEL, -int(coco_mask.area(pair[1])))
    )
    for label, rle in order:
        labels[decode(rle)] = label
    return labels


def image_size(path: Path, *, checksums: bool = False) -> tuple[int, int]:
    """(H, W) by the header. Raises DataError for a missing file, no image, or one cut off.

    checksums: also compare those of a PNG, for which the whole file is read.
    """
    try:
        with PillowImage.open(path) as image:
            width, height = image.size
            if checksums:
                image.verify()
    except FileNotFoundError as error:
        raise DataError(f"{path}: missing") from error
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"{path}: not readable as an image") from error
    _refuse_cut_off(path)
    return height, width


@contextmanager
def data_errors(place: str) -> Iterator[None]:
    """Raise errors inside as a DataError that names the place."""
    try:
        yield
    except DataError:
        raise
    except StemsegError as error:  # names the file already
        raise DataError(str(error)) from error
    except KeyError as error:
        raise DataError(f"{place}: {error} is missing") from error
    except (TypeError, ValueError, IndexError, AttributeError) as error:
        raise DataError(f"{place}: {error}") from error


def _refuse_cut_off(path: Path) -> None:
    """Decoders fill what a cut-off JPEG lacks with grey. Raises DataError."""
    if path.suffix.lower() not in END_MARKS:
        return
    mark, reach = END_MARKS[path.suffix.lower()]
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - reach))
            complete = mark in file.read()
    except OSError as error:
        raise DataError(f"{path}: not readable: {error.strerror}") from error
    if not complete:
        raise DataError(f"{path}: is cut off before its end, or no {path.suffix[1:].upper()} file")


def _read_image(path: Path) -> npt.NDArray[np.uint8]:
    # Labels lie on the pixels as they are stored, whatever orientation a camera wrote beside them.
    image = cv2.imread(str(path), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if image is None:
        raise DataError(f"{path}: not readable as an image")
    _refuse_cut_off(path)
    return np.asarray(image, dtype=np.uint8)
