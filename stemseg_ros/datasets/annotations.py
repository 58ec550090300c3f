"""Labels of images and videos whose masks lie in a large JSON file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from stemseg_ros.datasets.classes import IGNORED, label_of
from stemseg_ros.datasets.sequence import IGNORE_LABEL, LabelArray, data_errors, paint
from stemseg_ros.formats.json_entries import Json, Span, read_entries
from stemseg_ros.records import Rle

MaskOf = Callable[[Json, int, tuple[int, int]], Rle | None]
"""(entry, frame, size) -> mask, none where it is not visible. Raises ValueError, KeyError."""


@dataclass(frozen=True, slots=True)
class JsonLabels:
    """Masks of the objects of a video or a still, in an annotation file."""

    file: Path
    image_size: tuple[int, int]
    objects: tuple[tuple[int, Span], ...]
    """(label, entry) of each object."""
    mask_of: MaskOf

    def read(self, index: int) -> LabelArray:
        with data_errors(self.place(index)):
            entries = read_entries(self.file, tuple(span for _, span in self.objects))
            masks = [
                (label, self.mask_of(entry, index, self.image_size))
                for (label, _), entry in zip(self.objects, entries, strict=True)
            ]
        return paint(self.image_size, [(label, mask) for label, mask in masks if mask is not None])

    def size(self, index: int) -> tuple[int, int]:
        return self.image_size

    def place(self, index: int) -> str:
        return f"{self.file}, frame {index}"


@dataclass(slots=True)
class Objects:
    """The wanted objects of one image or video, while its annotations are read."""

    places: list[tuple[int, Span]] = field(default_factory=list)
    """(label, entry)."""
    numbers: Counter[int] = field(default_factory=Counter)
    """Objects so far of each class; ids of a file count through all its images."""

    def add(self, target: int, crowd: bool, span: Span) -> None:
        """Note an object of a class of the configuration; groups of objects are ignored regions.
        Raises ValueError for too many objects."""
        if target == IGNORED or (target > 0 and crowd):
            self.places.append((IGNORE_LABEL, span))
        elif target > 0:
            self.numbers[target] += 1
            self.places.append((label_of(target, self.numbers[target]), span))
