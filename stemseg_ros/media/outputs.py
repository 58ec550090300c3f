"""Folders for results, and files that appear in them together, or not at all."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from stemseg_ros.errors import MediaError


@contextmanager
def output_folder(folder: Path) -> Iterator[None]:
    """Create a folder, and make sure that files can be written there, before the work starts.

    A folder that was created for it and is still empty at the end of the block goes again. Raises
    MediaError.
    """
    created: list[Path] = []
    try:
        try:
            created = [place for place in (folder, *folder.parents) if not place.exists()]
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except (FileExistsError, NotADirectoryError) as error:
            places = (folder, *folder.parents)
            file = next((p for p in places if p.exists() and not p.is_dir()), folder)
            raise MediaError(
                f"cannot write to the folder {folder}: {file} is no folder"
            ) from error
        except OSError as error:
            raise MediaError(f"cannot write to the folder {folder}: {error.strerror}") from error
        yield
    finally:
        with suppress(OSError):  # not empty, or never created
            for place in created:
                place.rmdir()


@contextmanager
def appear_together(folder: Path, last: str) -> Iterator[Path]:
    """A folder to write into; at the end of the block its files move into ``folder``.

    An error in the block leaves ``folder`` with what was there before, as ``output_folder`` does;
    a folder of the block replaces one of the same name. The file named ``last`` moves last, and is
    taken away first: while it is there, all files are of one run. Raises MediaError.
    """
    with output_folder(folder):
        partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=folder))
        try:
            yield partial
            _move(partial, folder, last)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def _move(partial: Path, folder: Path, last: str) -> None:
    try:
        (folder / last).unlink(missing_ok=True)
        for file in sorted(partial.iterdir(), key=lambda file: (file.name == last, file.name)):
            if file.is_dir() and (folder / file.name).is_dir():
                shutil.rmtree(folder / file.name)
            file.replace(folder / file.name)
    except OSError as error:
        raise MediaError(f"cannot write to the folder {folder}: {error.strerror}") from error
