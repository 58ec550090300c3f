"""DAVIS: one PNG per frame, ``blackswan/00000.png``, pixel value = object.

2017 and 2019 unsupervised (INSTANCES): 0 background, 1 to 254 an object, 255 in the ground truth
void. 2017 semi-supervised (FOLLOWED): the same, and the objects of results have the values that
the first masks gave them. 2016 (BINARY): any value above 0 is the foreground; the objects of
results are united to one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image as PillowImage
from pycocotools import mask as coco_mask

from stemseg_ros.formats.kitti_lines import ResultRow
from stemseg_ros.formats.label_pngs import (
    frame_names,
    matching_folders,
    read_pngs,
    save_png,
    sequence_folders,
)
from stemseg_ros.formats.sequence_masks import EvaluationError, SequenceMasks, check_pair
from stemseg_ros.masks import decode, encode
from stemseg_ros.media.overlay import track_color
from stemseg_ros.records import Rle

CLASSES = {1: "object"}
VOID = 255
"""Value of ground truth pixels that are not scored."""


@dataclass(frozen=True, slots=True)
class DavisFormat:
    """The functions that the package documentation lists."""

    binary: bool
    keep_ids: bool = False
    """Whether ids are the values of pixels, else they are numbered anew."""

    def read_truth(self, path: Path) -> dict[str, SequenceMasks]:
        """Every folder of PNGs (``Annotations_unsupervised/480p``). Raises EvaluationError."""
        return {
            name: self._read(name, files, truth=True)
            for name, files in sequence_folders(path).items()
        }

    def read_results(
        self, path: Path, truths: Mapping[str, SequenceMasks]
    ) -> dict[str, SequenceMasks]:
        """The folders that belong to the ground truth. Raises EvaluationError."""
        results = {
            name: self._read(name, files, truth=False)
            for name, files in matching_folders(path, truths).items()
        }
        for name, truth in truths.items():
            check_pair(truth, results[name])
        return results

    def write(self, path: Path, sequences: Iterable[SequenceMasks], truth: bool = False) -> None:
        """Palette PNGs; objects are numbered from 1 in ascending order of id, unless
        their ids are kept. Raises EvaluationError."""
        for sequence in sequences:
            for name, labels in zip(frame_names(sequence), self._images(sequence), strict=True):
                image = PillowImage.fromarray(labels)
                image.putpalette(_palette())
                save_png(path / sequence.name / f"{name}.png", image)

    def _read(self, name: str, files: list[Path], truth: bool) -> SequenceMasks:
        rows: list[ResultRow] = []
        ignored: dict[int, Rle] = {}
        size = (0, 0)
        for frame, _, pixels in read_pngs(files, ("P", "L", "1")):
            values = pixels.astype(np.uint8)
            size = (values.shape[0], values.shape[1])
            if self.binary:
                values = (values > 0).astype(np.uint8)
            elif truth and (values == VOID).any():
                ignored[frame] = encode(values == VOID)
            rows += [
                ResultRow(frame, int(i), 1, encode(values == i))
                for i in np.unique(values)
                if i and not (truth and i == VOID)
            ]
        sequence = SequenceMasks.of_files(name, size, files, CLASSES, rows, ignored)
        numbers = [row.id for row in rows if row.frame == 0 or not truth]
        return sequence if self.binary else replace(sequence, objects=max(numbers, default=0))

    def _images(self, sequence: SequenceMasks) -> Iterable[npt.NDArray[np.uint8]]:
        ids = sorted({row.id for row in sequence.rows})
        if self.keep_ids and ids and not 0 < ids[0] <= ids[-1] < VOID:
            raise EvaluationError(
                f"sequence {sequence.name}: object ids from {ids[0]} to {ids[-1]}, DAVIS holds "
                f"1 to {VOID - 1}"
            )
        if len(ids) >= VOID and not self.binary:
            raise EvaluationError(
                f"sequence {sequence.name}: {len(ids)} objects, DAVIS holds {VOID - 1}"
            )
        number = {id_: n for n, id_ in enumerate(ids, start=1)}
        if self.binary or self.keep_ids:
            number = {id_: 1 if self.binary else id_ for id_ in ids}
        for frame, rows in enumerate(sequence.by_frame()):
            labels = np.zeros(sequence.size, np.uint8)
            for row in rows:
                labels[decode(row.rle)] = number[row.id]
            if frame in sequence.ignored:
                labels[decode(sequence.ignored[frame])] = VOID
            yield labels


def united(sequence: SequenceMasks) -> SequenceMasks:
    """All objects of a frame as one foreground object."""
    rows = tuple(
        ResultRow(frame, 1, 1, coco_mask.merge([row.rle for row in rows]))
        for frame, rows in enumerate(sequence.by_frame())
        if rows
    )
    return replace(sequence, rows=rows, classes=CLASSES)


def _palette() -> list[int]:
    colors = [(0, 0, 0), *(track_color(n)[::-1] for n in range(1, VOID)), (255, 255, 255)]
    return [channel for color in colors for channel in color]


INSTANCES = DavisFormat(binary=False)
FOLLOWED = DavisFormat(binary=False, keep_ids=True)
BINARY = DavisFormat(binary=True)
