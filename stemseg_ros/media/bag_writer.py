"""Additions to the writer of rosbags: topic names that ROS 2 accepts, paths with any
characters."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote

from rosbags.rosbag2 import StoragePlugin, Writer

from stemseg_ros.errors import BagError

_TOPIC = re.compile(r"/?[A-Za-z_][A-Za-z0-9_]*(/[A-Za-z_][A-Za-z0-9_]*)*")


def check_topic(topic: str) -> None:
    """Raises BagError for a name that ROS 2 refuses."""
    if _TOPIC.fullmatch(topic) is None:
        parts = [re.sub(r"\W", "_", part, flags=re.ASCII) for part in topic.split("/") if part]
        near = "".join(f"/_{part}" if part[0].isdigit() else f"/{part}" for part in parts)
        raise BagError(
            f"'{topic}' is no name of a ROS 2 topic: letters, digits and _, parted by single "
            f"slashes, no part beginning with a digit, as in {near or '/camera/image_raw'}"
        )


def _sqlite3_storage(path: Path, compression: Any) -> Any:
    """rosbags puts the path of a database into an address as it is, so it is quoted here."""
    storage: Any = Writer.STORAGE_PLUGINS[StoragePlugin.SQLITE3](
        Path(quote(str(path))), compression
    )
    storage.path = path / f"{path.name}.db3"
    return storage


class QuotingWriter(Writer):
    """The writer of rosbags, for folders and files of any name."""

    STORAGE_PLUGINS: ClassVar[Any] = {  # type: ignore[misc]  # an instance's, for mypy
        **Writer.STORAGE_PLUGINS,
        StoragePlugin.SQLITE3: _sqlite3_storage,
    }
