"""Label images on disk, one PNG per frame in a folder per sequence: what DAVIS and BDD100K have in
common."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image as PillowImage

from stemseg_ros.formats.sequence_masks import EvaluationError, SequenceMasks, refuse_missing
from stemseg_ros.media.sources import natural_key


def sequence_folders(path: Path) -> dict[str, list[Path]]:
    """The PNGs of every folder below ``path`` that holds some, in natural order. Raises
    EvaluationError."""
    folders = {
        folder.name: sorted(folder.glob("*.png"), key=natural_key)
        for folder in sorted(path.glob("*"))
        if folder.is_dir()
    }
    found = {name: files for name, files in folders.items() if files}
    if not found:
        raise EvaluationError(f"{path}: no label images (sequence/00000.png, ...) in this folder")
    return found


def matching_folders(path: Path, truths: Mapping[str, SequenceMasks]) -> dict[str, list[Path]]:
    """Result folders of the ground truth's sequences; they must have its frames. Raises
    EvaluationError."""
    folders = sequence_folders(path)
    refuse_missing(truths, folders, str(path))
    for name, truth in truths.items():
        names = tuple(file.stem for file in folders[name])
        missing = sorted(set(truth.files) ^ set(names))
        if missing:
            side = "results lack" if missing[0] in truth.files else "the ground truth lacks"
            raise EvaluationError(
                f"{path / name}: {side} frame {missing[0]} (of {len(missing)} that differ)"
            )
    return {name: folders[name] for name in truths}


def read_pngs(
    files: list[Path], mode: tuple[str, ...]
) -> Iterator[tuple[int, Path, npt.NDArray[np.uint8]]]:
    """(frame, file, pixels) of each image; all have one size and one of the modes. Raises
    EvaluationError."""
    size = None
    for frame, file in enumerate(files):
        pixels = read_png(file, mode)
        size = size or pixels.shape[:2]
        if pixels.shape[:2] != size:
            raise EvaluationError(
                f"{file}: {pixels.shape[1]}x{pixels.shape[0]} pixels, the first frame has "
                f"{size[1]}x{size[0]}"
            )
        yield frame, file, pixels


def read_png(file: Path, mode: tuple[str, ...]) -> npt.NDArray[Any]:
    """Pixels of an image, undecoded palette indices if it has such. Raises EvaluationError."""
    try:
        with PillowImage.open(file) as image:
            if image.mode not in mode:
                raise EvaluationError(
                    f"{file}: image mode {image.mode}, expected {' or '.join(mode)}"
                )
            return np.asarray(image)
    except (OSError, SyntaxError, ValueError) as error:
        raise EvaluationError(f"{file}: not readable as an image: {error}") from error


def save_png(file: Path, image: PillowImage.Image) -> None:
    """Raises EvaluationError."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        image.save(file)
    except OSError as error:
        raise EvaluationError(f"cannot write {file}: {error.strerror or error}") from error


def frame_names(sequence: SequenceMasks) -> list[str]:
    """Names of the frames' files; 00000, 00001, ... where the sequence brings none."""
    return list(sequence.files) or [f"{frame:05d}" for frame in range(sequence.frames)]
