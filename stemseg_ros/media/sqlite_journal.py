"""Journals that a killed recorder left beside a sqlite3 file."""

from __future__ import annotations

import shutil
import sqlite3
import struct
from contextlib import suppress
from pathlib import Path

_WAL, _JOURNAL = "-wal", "-journal"
_WAL_MAGIC = (0x377F0682, 0x377F0683)
_FRAME_HEADER = 24
_SALTS, _HEADER_SALTS = slice(8, 16), slice(16, 24)
"""In the header of a frame, and of the file; equal in all frames since the last reset."""


def journals_of(path: Path) -> list[Path]:
    """List the journals of a database that hold anything; SQLite looks for them beside the file
    that a link points to."""
    real = path.resolve()
    journals = (Path(f"{real}{end}") for end in (_WAL, _JOURNAL))
    return [file for file in journals if file.is_file() and file.stat().st_size]


def take_in(path: Path, copy: Path) -> list[str]:
    """Copy a database with the content of its journals to ``copy``; return what is lost of them.

    Raises OSError.
    """
    shutil.copyfile(path, copy)
    journals = journals_of(path)
    for journal in journals:
        shutil.copyfile(journal, f"{copy}{journal.name[len(path.resolve().name) :]}")
    taken = 0
    with suppress(sqlite3.DatabaseError):  # what is damaged is scanned later
        database = sqlite3.connect(copy)
        try:
            found = database.execute("PRAGMA wal_checkpoint").fetchone()
            taken = max(0, found[1]) if found else 0
            # Leaves one file.
            database.execute("PRAGMA journal_mode = DELETE").fetchall()
            database.execute("SELECT count(*) FROM sqlite_master").fetchall()
        finally:
            database.close()
    return [
        f"{journal.name} is cut off or damaged: what it held last is lost"
        for journal in journals
        if journal.name.endswith(_WAL) and taken < _pages(journal)
    ]


def _pages(wal: Path) -> int:
    """Count the pages, whole or not, that were written to a journal since its last reset; 1 for a
    journal without a readable header."""
    with wal.open("rb") as file:
        header = file.read(32)
        if len(header) < 32 or struct.unpack(">I", header[:4])[0] not in _WAL_MAGIC:
            return 1
        (page_size,) = struct.unpack(">I", header[8:12])
        pages = 0
        while frame := file.read(_FRAME_HEADER):
            if len(frame) == _FRAME_HEADER and frame[_SALTS] != header[_HEADER_SALTS]:
                break  # left over from before the reset
            pages += 1
            file.seek(page_size, 1)
        return pages
