"""For pip: setup.cfg, and the files outside stemseg_ros/ where CMakeLists.txt installs them
too."""

from __future__ import annotations

from pathlib import Path

from setuptools import setup


def shared_files(*folders: str) -> list[tuple[str, list[str]]]:
    """(folder below the prefix, files) for everything in the folders."""
    root = Path(__file__).resolve().parent
    targets: dict[str, list[str]] = {}
    for path in sorted(
        path for folder in folders for path in (root / folder).rglob("*") if path.is_file()
    ):
        if "__pycache__" not in path.parts:
            relative = path.relative_to(root)
            targets.setdefault(f"share/stemseg/{relative.parent}", []).append(str(relative))
    return list(targets.items())


setup(data_files=shared_files("config", "launch", "media", "msg", "srv"))
