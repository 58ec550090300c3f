"""Finds the files of a dataset; errors name what is missing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from stemseg_ros.datasets.sequence import DataError
from stemseg_ros.media.sources import natural_key

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")


def first_folder(root: Path, *names: str) -> Path:
    """Find the first of the folders below ``root`` that exists. Raises DataError, which lists
    them."""
    for name in names:
        if (root / name).is_dir():
            return root / name
    raise DataError(
        f"{root}: no folder {' or '.join(names)} there"
        if root.is_dir()
        else f"{root}: no such folder"
    )


def first_file(root: Path, *names: str) -> Path:
    """Find the first of the files below ``root`` that exists. Raises DataError, which lists
    them."""
    for name in names:
        if (root / name).is_file():
            return root / name
    raise DataError(
        f"{root}: no file {' or '.join(names)} there"
        if root.is_dir()
        else f"{root}: no such folder"
    )


def subfolders(folder: Path) -> list[Path]:
    """List the subfolders by name. Raises DataError for none."""
    found = sorted((entry for entry in folder.iterdir() if entry.is_dir()), key=natural_key)
    if not found:
        raise DataError(f"{folder}: no folders in it, one per sequence expected")
    return found


def images_in(folder: Path) -> list[Path]:
    """List JPEG and PNG files in natural order. Raises DataError for none."""
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    found = [file for file in folder.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES]
    refuse_empty(found, folder, "no images in this folder")
    return sorted(found, key=natural_key)


def refuse_missing(files: Iterable[Path], why: str) -> None:
    """Check that all files exist. Raises DataError, which names the first missing one and their
    number."""
    missing = [file for file in files if not file.is_file()]
    if missing:
        more = f" ({len(missing)} missing in all)" if len(missing) > 1 else ""
        raise DataError(f"{missing[0]}: missing; {why}{more}")


def refuse_orphans(found: Iterable[Path], known: Iterable[Path]) -> None:
    """Check that every label file belongs to an image. Raises DataError."""
    orphans = sorted(set(found) - set(known))
    if orphans:
        more = f" ({len(orphans)} in all)" if len(orphans) > 1 else ""
        raise DataError(f"{orphans[0]}: its image is missing{more}")


def paired_folders(
    images: Path, labels: Path
) -> tuple[tuple[Path, ...], tuple[tuple[Path, ...], ...]]:
    """Pair the images of a sequence with the label images of the same names. Raises DataError."""
    found = images_in(images)
    files = [labels / f"{image.stem}.png" for image in found]
    refuse_missing(files, "an image has no labels")
    refuse_orphans(labels.glob("*.png"), files)
    return tuple(found), tuple((file,) for file in files)


def list_file(file: Path) -> list[str]:
    """Read the non-empty lines. Raises DataError."""
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: not readable as a list: {error}") from error
    if not any(lines):
        raise DataError(f"{file}: an empty list")
    return [line for line in lines if line]


def refuse_empty(found: Sequence[object], place: Path | str, what: str) -> None:
    """Check that something was found. Raises DataError."""
    if not found:
        raise DataError(f"{place}: {what}")
