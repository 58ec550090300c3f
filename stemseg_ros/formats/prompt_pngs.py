"""Masks of objects to follow, as label images: pixel value = object; and results in the same form.

The layout is that of DAVIS and YouTube-VOS: indexed PNGs named like the frames.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image as PillowImage

from stemseg_ros.errors import MediaError, PromptError

MOST = 255
"""Highest id that an 8-bit label image holds."""
VOID = 255
"""Beside other objects this value marks pixels without a label, as in DAVIS; alone it is the
object, as in DAVIS 2016."""
Labels = npt.NDArray[np.uint8]
"""uint8 (H, W): id of the object of each pixel, 0 background."""


@dataclass(frozen=True, slots=True)
class PromptMasks:
    """Label images by the number of their frame."""

    labels: Mapping[int, Labels]
    files: Mapping[int, Path]

    def starts(self) -> dict[int, tuple[int, ...]]:
        """Ids by the number of the frame in which they appear first; later masks of an object
        are no prompts."""
        seen: set[int] = set()
        starts = {}
        for frame in sorted(self.labels):
            new = set(np.unique(self.labels[frame]).tolist()) - seen - {0}
            if new:
                starts[frame] = tuple(sorted(new))
            seen |= new
        return starts


def read_prompt_masks(path: Path, names: Sequence[str] | None) -> PromptMasks:
    """One PNG for the first frame, or a folder of PNGs named like frames.

    names: of all frames, without suffix; None if frames have numbers alone, from 0. Raises
    PromptError for masks that cannot be read, belong to no frame, or show no object.
    """
    files = _files_by_frame(path, names)
    labels = {frame: _read_labels(file) for frame, file in files.items()}
    found = {value for image in labels.values() for value in np.unique(image).tolist()} - {0}
    if not found:
        raise PromptError(f"{path}: no object; pixels of an object have its number, 1 to {MOST}")
    if VOID in found and len(found) > 1:
        labels = {frame: np.where(image == VOID, 0, image) for frame, image in labels.items()}
    return PromptMasks(labels, files)


def save_labels(path: Path, labels: Labels) -> None:
    """Write an indexed PNG with DAVIS' palette. Raises MediaError."""
    image = PillowImage.fromarray(labels)
    image.putpalette(davis_palette())
    try:
        image.save(path)
    except OSError as error:
        raise MediaError(f"cannot write {path}: {error.strerror or error}") from error


def davis_palette() -> list[int]:
    """Red, green, blue of 256 indices, as in DAVIS and PASCAL VOC: each three bits of an index
    set one bit of the colours, from the highest down."""
    colors = np.zeros((256, 3), np.uint8)
    index = np.arange(256)
    for bit in range(8):
        for channel in range(3):
            colors[:, channel] |= (((index >> (3 * bit + channel)) & 1) << (7 - bit)).astype(
                np.uint8
            )
    return colors.ravel().tolist()


def _files_by_frame(path: Path, names: Sequence[str] | None) -> dict[int, Path]:
    if path.is_file():
        return {0: path}
    if not path.is_dir():
        raise PromptError(f"no masks at {path}; expected a PNG or a folder of PNGs")
    files = sorted(file for file in path.iterdir() if file.suffix.lower() == ".png")
    if not files:
        raise PromptError(f"{path}: no PNGs in this folder")
    if names is None:
        frames = {file.stem: int(file.stem) for file in files if file.stem.isdecimal()}
        known = "are numbered from 00000"
    else:
        frames = {name: frame for frame, name in enumerate(names)}
        known = f"are named {names[0]} to {names[-1]}"
    unknown = [file for file in files if file.stem not in frames]
    if unknown:
        raise PromptError(
            f"{unknown[0]}: no frame of this name ({len(unknown)} of {len(files)} masks); "
            f"frames {known}"
        )
    return {frames[file.stem]: file for file in files}


def _read_labels(file: Path) -> Labels:
    try:
        with PillowImage.open(file) as image:
            decoded = image.convert("L") if image.mode == "1" else image
            pixels, mode = np.asarray(decoded), decoded.mode
    except (OSError, SyntaxError, ValueError, PillowImage.DecompressionBombError) as error:
        raise PromptError(f"{file}: not readable as an image: {error}") from error
    if mode in ("RGB", "RGBA"):
        return _from_colors(file, pixels[..., :3])
    if mode not in ("P", "L") and not mode.startswith("I"):
        raise PromptError(f"{file}: image mode {mode}; expected an indexed or grey PNG")
    if pixels.size and int(pixels.max()) > MOST:
        raise PromptError(
            f"{file}: object {int(pixels.max())}; label images hold the numbers 1 to {MOST}"
        )
    return pixels.astype(np.uint8)


def _from_colors(file: Path, pixels: npt.NDArray[np.uint8]) -> Labels:
    """Colours of the palette back to indices; black and white to an object 255."""
    codes = pixels.astype(np.int64) @ np.array([1 << 16, 1 << 8, 1])
    palette = np.array(davis_palette(), np.int64).reshape(256, 3) @ [1 << 16, 1 << 8, 1]
    known = {int(code): index for index, code in enumerate(palette)} | {0xFFFFFF: VOID}
    found, where = np.unique(codes, return_inverse=True)
    unknown = [int(code) for code in found if int(code) not in known]
    if unknown:
        raise PromptError(
            f"{file}: the colour #{unknown[0]:06x} is none of DAVIS' palette; expected an "
            "indexed or grey PNG whose pixel values are the numbers of objects"
        )
    values = np.array([known[int(code)] for code in found], np.uint8)
    labels: Labels = values[where.reshape(codes.shape)]
    return labels
