"""Finds and opens the storage files of a bag.

The content of the files counts, not metadata.yaml, which gives their order and shows what is
missing. A compressed file, or a sqlite3 file beside which a journal was left, is read from a
temporary copy, so that a recording is never changed.
"""

from __future__ import annotations

import heapq
import logging
import re
import shutil
import sqlite3
import tempfile
from collections.abc import Collection, Iterator
from contextlib import ExitStack
from itertools import chain, islice, pairwise
from operator import itemgetter
from pathlib import Path, PurePath
from typing import Any, Literal
from urllib.parse import quote

import yaml
import zstandard
from rosbags.interfaces import Connection
from rosbags.rosbag2 import Reader

from stemseg_ros.errors import BagError
from stemseg_ros.media.bag_scan import MCAP_MAGIC, SQLITE_MAGIC, Scan, messages_of, scan
from stemseg_ros.media.mistaken_files import mistaken_file
from stemseg_ros.media.sqlite_journal import journals_of, take_in
from stemseg_ros.media.sqlite_pages import drop_incomplete_page, ends_within_page

log = logging.getLogger(__name__)

Storage = Literal["mcap", "sqlite3"]
STORAGE_OF_SUFFIX: dict[str, Storage] = {".mcap": "mcap", ".db3": "sqlite3"}
COMPRESSED_SUFFIXES = (".zstd", ".zst")
ROS1_MAGIC = b"#ROSBAG V"
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_NUMBERED = re.compile(r"(.*)_([0-9]+)")


def is_storage(path: Path) -> bool:
    """Whether a file is named like a storage file, compressed or not, in small letters or
    capitals."""
    return _plain_suffix(path) in STORAGE_OF_SUFFIX


def _plain_suffix(path: Path) -> str:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in COMPRESSED_SUFFIXES:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


class StorageFiles:
    """The opened storage files of a bag, in order of time. Raises BagError."""

    def __init__(self, path: Path) -> None:
        self.losses: list[str] = []
        """Parts of the recording that could not be read so far."""
        self.files: list[StorageFile] = []
        self._stack = ExitStack()
        self._path = path
        try:
            names, declared = _find(path)
            for name in names:
                self._open(name, alone=len(names) == 1)
            if not self.files:
                raise BagError("; ".join(self.losses))
            if not any(map(_cdr, self.connections)):
                refuse_foreign(path, self.connections)
            self._compare(names, declared)
        except BaseException:
            self.close()
            raise
        self.files.sort(key=lambda file: file.start_ns)

    @property
    def connections(self) -> list[Connection]:
        """Of all files."""
        return [connection for file in self.files for connection in file.connections]

    def messages(self, connections: Collection[Connection]) -> Iterator[tuple[int, bytes]]:
        """(log time, serialised message) in order of log time. Raises BagError."""
        streams = [self._of_file(file, connections) for file in self.files]
        filled = [file for file in self.files if file.count]
        if all(a.end_ns <= b.start_ns for a, b in pairwise(filled)):
            yield from chain.from_iterable(streams)
        else:
            yield from heapq.merge(*streams, key=itemgetter(0))

    def _of_file(
        self, file: StorageFile, connections: Collection[Connection]
    ) -> Iterator[tuple[int, bytes]]:
        known = len(file.losses)
        for _, log_ns, data in file.messages([c for c in connections if c in file.connections]):
            # A message starts with its byte order, so this cannot be one: it is compressed.
            packed = data[:4] == ZSTD_MAGIC
            yield log_ns, bytes(zstandard.ZstdDecompressor().decompress(data)) if packed else data
        for loss in file.losses[known:]:
            self.lose(self._named(file.name, loss))

    def lose(self, what: str) -> None:
        """Record and log a loss."""
        self.losses.append(what)
        log.warning("%s: %s", self._path, what)

    def close(self) -> None:
        """Release the files; a second call does nothing."""
        self._stack.close()

    def _open(self, path: Path, *, alone: bool) -> None:
        """Open one file; one of several that is damaged from its start on is a loss."""
        try:
            file = StorageFile(path, self._stack)
        except BagError as error:
            if alone:
                raise
            self.lose(str(error))
            return
        self.files.append(file)
        for loss in file.losses:
            self.lose(self._named(path.name, loss))

    def _named(self, file: str, loss: str) -> str:
        return loss if file == self._path.name else f"{file}: {loss}"

    def _compare(self, names: list[Path], declared: dict[str, Any]) -> None:
        """Record what metadata.yaml lists and is missing."""
        listed = declared.get("relative_file_paths")
        present = {name.name for name in names}
        for name in listed if isinstance(listed, list) else ():
            if PurePath(str(name)).name not in present:
                self.lose(f"{name}, which metadata.yaml lists, is missing")
        count, found = declared.get("message_count"), sum(file.count for file in self.files)
        if isinstance(count, int) and count > found:
            self.lose(f"metadata.yaml counts {count} messages, the files hold {found}")


def _find(path: Path) -> tuple[list[Path], dict[str, Any]]:
    """List storage files in order, and the content of metadata.yaml (empty without a readable
    one)."""
    if not path.exists():
        raise BagError(f"no bag at '{path}'")
    if not path.is_dir():
        return [path], {}
    try:
        files = sorted(filter(is_storage, path.iterdir()), key=_part)
    except OSError as error:
        raise BagError(f"cannot read '{path}': {error.strerror}") from error
    if not files:
        raise BagError(_no_bag(path))
    declared = _read_metadata(path / "metadata.yaml")
    listed = declared.get("relative_file_paths")
    if isinstance(listed, list):
        by_name = {file.name: file for file in files}
        names = dict.fromkeys(PurePath(str(name)).name for name in listed)
        if chosen := [by_name[name] for name in names if name in by_name]:
            return chosen, declared
    # A recorder that was killed leaves its files without the metadata.
    if len({_part(file)[0] for file in files}) > 1:
        raise BagError(
            f"'{path}' has {len(files)} files of different names but no metadata.yaml that lists "
            f"them; name one of the files: {', '.join(file.name for file in files[:5])}"
        )
    return files, declared


def _part(file: Path) -> tuple[str, int]:
    """Name of the recording and number of the part, as in drive_2.mcap."""
    name = file.name[: file.name.lower().rindex(_plain_suffix(file))]
    match = _NUMBERED.fullmatch(name)
    return (match[1], int(match[2])) if match else (name, -1)


def _no_bag(path: Path) -> str:
    ros1 = sorted(path.glob("*.bag"))
    if ros1:
        return ros1_advice(ros1[0])
    return f"'{path}' is no ROS 2 bag: expected a .mcap or .db3 file, or a folder with such"


def ros1_advice(path: Path) -> str:
    """Describe the remedy for a bag of ROS 1."""
    return (
        f"'{path}' is a bag of ROS 1; convert it first: rosbags-convert --src '{path}' "
        f"--dst '{path.with_suffix('')}'"
    )


def _read_metadata(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        declared = content["rosbag2_bagfile_information"]
        if isinstance(declared, dict):
            return declared
        reason = "rosbag2_bagfile_information is no mapping"
    except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
    log.warning("%s: not readable (%s); the bag is read by its files", path, reason)
    return {}


class StorageFile:
    """One opened storage file: through its index, or by a scan where it has none that can be
    used."""

    def __init__(self, path: Path, stack: ExitStack) -> None:
        """stack: closes the file, and removes its temporary copy."""
        self.losses: list[str] = []
        self._stack = stack
        self._path = path
        self.name = path.name
        try:
            self._local = _readable(path, stack, self.losses)
            with self._local.open("rb") as file:
                start = file.read(len(SQLITE_MAGIC))
        except (OSError, sqlite3.Error, zstandard.ZstdError) as error:
            raise BagError(f"cannot read '{path}': {error}") from error
        if start.startswith(ROS1_MAGIC):
            raise BagError(ros1_advice(path))
        self.storage: Storage = "sqlite3" if start == SQLITE_MAGIC else "mcap"
        if start != SQLITE_MAGIC and not start.startswith(MCAP_MAGIC):
            if not is_storage(path):
                raise BagError(_no_bag(path))
            reason = mistaken_file(path) or "neither an mcap nor a sqlite3 file"
            if not start:
                cut = path.stat().st_size > 0  # of a compressed file
                reason = "it is cut off before its first whole block" if cut else "it is empty"
            raise BagError(f"'{path}' is not readable as a ROS 2 bag: {reason}")
        self._indexed = self._open_indexed()
        self._scan = None if self._indexed else self._open_scan()
        source = self._indexed or self._scan
        self.connections: list[Connection] = list(source.connections) if source else []
        self.count = sum(connection.msgcount for connection in self.connections)
        self.start_ns, self.end_ns = self._times()
        """Log times of the first and the last message; 0 without any."""

    def messages(
        self, connections: Collection[Connection]
    ) -> Iterator[tuple[Connection, int, bytes]]:
        """(connection, log time, data as it is stored) in order of log time. Damage that shows
        only now costs the messages it lies in, and is added to ``losses``. Raises BagError."""
        done = 0
        if self._indexed is not None:
            try:
                for item in self._indexed.messages(connections):
                    yield item
                    done += 1
                expected = sum(connection.msgcount for connection in connections)
                if done or not expected:
                    loss = f"its index counts {expected} messages, {done} came"
                    if done < expected and loss not in self.losses:
                        self.losses.append(loss)
                    return
            except Exception as error:  # damaged files make the parsers fail in any way
                log.debug("%s: %s", self._path, error)
        found = self._scan or self._open_scan()
        self._scan = found
        # What came before the damage comes first again: it lies in other chunks or rows.
        known = len(found.losses)
        yield from islice(messages_of(found, connections), done, None)
        self.losses += found.losses[known:]

    def _open_indexed(self) -> Any:
        """The reader of rosbags; None where it refuses the file or would read it out of order."""
        suffix = ".db3" if self.storage == "sqlite3" else ".mcap"
        # rosbags puts the path of a database into an address as it is.
        local = self._local.resolve()
        reader = Reader.STORAGE_PLUGINS[suffix](
            Path(quote(str(local))) if self.storage == "sqlite3" else local
        )
        try:
            reader.open()
        except Exception as error:  # of any kind, see above
            log.debug("%s: %s", self._path, error)
            return None
        self._stack.callback(reader.close)
        count = reader.metadata.message_count
        unindexed = self.storage == "mcap" and not getattr(reader, "chunks", True)
        if count and (unindexed or not reader.connections):
            return None
        return reader

    def _open_scan(self) -> Scan:
        try:
            found = scan(self._local)
        except Exception as error:  # of any kind, see above
            reason = str(error).rstrip(".") or type(error).__name__
            raise BagError(
                f"'{self._path}' is not readable as a ROS 2 bag, damaged or cut short: {reason}"
            ) from error
        self._stack.callback(found.close)
        if found.losses and not found.places:
            raise BagError(
                f"'{self._path}' is not readable as a ROS 2 bag, damaged or cut short: no whole "
                f"message; {found.losses[0]}"
            )
        self.losses += found.losses
        return found

    def _times(self) -> tuple[int, int]:
        if not self.count:
            return 0, 0
        if self._indexed is not None:
            return self._indexed.metadata.start_time, self._indexed.metadata.end_time - 1
        assert self._scan is not None
        times = [place.log_ns for place in self._scan.places]
        return min(times), max(times)


def _readable(path: Path, stack: ExitStack, losses: list[str]) -> Path:
    """Return the file itself, or a temporary copy: decompressed, with what is left in its journal,
    or without the incomplete page at its end; appends what the journal has lost to ``losses``."""
    with path.open("rb") as file:
        compressed = file.read(len(ZSTD_MAGIC)) == ZSTD_MAGIC
    if not compressed and not journals_of(path) and not ends_within_page(path):
        return path
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="stemseg-")))
    copy = folder / ("bag" + _plain_suffix(path))
    if compressed:
        _decompress(path, copy)
    elif journals_of(path):
        losses += take_in(path, copy)
    else:
        shutil.copyfile(path, copy)
    drop_incomplete_page(copy)
    return copy


def _decompress(path: Path, copy: Path) -> None:
    with path.open("rb") as packed, copy.open("wb") as unpacked:
        decompressor = zstandard.ZstdDecompressor()
        with decompressor.stream_reader(packed, read_across_frames=True) as stream:
            # A cut file gives what is whole of it, then ends.
            shutil.copyfileobj(stream, unpacked)


def _cdr(connection: Connection) -> bool:
    return getattr(connection.ext, "serialization_format", "cdr") == "cdr"


def refuse_foreign(path: Path, connections: Collection[Connection]) -> None:
    """Raises BagError that says what to do where a topic is serialised in a form other than
    ROS 2's CDR."""
    foreign = [connection for connection in connections if not _cdr(connection)]
    if not foreign:
        return
    form = getattr(foreign[0].ext, "serialization_format", "")
    named = f"'{path}': {foreign[0].topic} ({foreign[0].msgtype or 'no type'})"
    if form == "ros1":
        raise BagError(
            f"{named} holds messages of ROS 1; convert the bag of ROS 1 itself: "
            "rosbags-convert --src DRIVE.bag --dst DRIVE"
        )
    raise BagError(
        f"{named} is serialised as '{form}', only 'cdr' can be read, which ros2 bag record "
        "writes: publish the images as sensor_msgs/msg/Image or CompressedImage and record that "
        "topic"
    )
