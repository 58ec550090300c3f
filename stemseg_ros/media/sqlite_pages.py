"""Pages of a sqlite3 file that was cut off."""

from __future__ import annotations

import os
from pathlib import Path

from stemseg_ros.media.bag_scan import SQLITE_MAGIC

_HEADER = 18
_PAGE_SIZE = slice(16, 18)
"""Big-endian; 1 stands for 65536."""


def ends_within_page(path: Path) -> bool:
    """Check whether a file is a sqlite3 database whose last page is incomplete. Raises OSError."""
    return _incomplete_bytes(path) > 0


def drop_incomplete_page(path: Path) -> None:
    """Truncate a sqlite3 database to whole pages, in place: SQLite fills an incomplete one with
    zeros, and reads rows without values from it. Raises OSError."""
    if left := _incomplete_bytes(path):
        os.truncate(path, path.stat().st_size - left)


def _incomplete_bytes(path: Path) -> int:
    """Return the size of an incomplete last page; 0 for any other file."""
    with path.open("rb") as file:
        header = file.read(_HEADER)
    if len(header) < _HEADER or not header.startswith(SQLITE_MAGIC):
        return 0
    page_size = int.from_bytes(header[_PAGE_SIZE], "big")
    page_size = 65536 if page_size == 1 else page_size
    return path.stat().st_size % page_size if page_size else 0
