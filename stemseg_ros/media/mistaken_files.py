"""Files that are not what their names say: what a download left in place of the data."""

from __future__ import annotations

from pathlib import Path

_HEAD = 64
"""Bytes that are looked at."""


def describe_mistaken(head: bytes) -> str | None:
    """Return what a file with these first bytes is, and the remedy; None if all is well."""
    if head.startswith(b"version https://git-lfs"):
        return (
            "a pointer of Git LFS, not the file itself; fetch that with 'git lfs pull' in its "
            "repository, or download it"
        )
    if head.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        return (
            "an HTML page: the download met a page of the site (of consent or an error); open the "
            "link in a browser and save the file behind it"
        )
    return None


def mistaken_file(path: str | Path) -> str | None:
    """Return ``describe_mistaken`` of a file; None also if it cannot be opened."""
    try:
        with Path(path).open("rb") as file:
            return describe_mistaken(file.read(_HEAD))
    except OSError:
        return None
