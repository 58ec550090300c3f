"""Scans storage files of bags from front to back: those without a usable index, cut or damaged
ones.

A scan finds every complete message, remembers its position (not its data), and yields the messages
in order of their log times. ``losses`` names what could not be read.
"""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, Protocol
from urllib.parse import quote

from mcap.data_stream import ReadDataStream
from mcap.opcode import Opcode
from mcap.records import Channel, Chunk, Schema
from mcap.stream_reader import get_chunk_data_stream
from rosbags.interfaces import (
    Connection,
    ConnectionExtRosbag2,
    MessageDefinition,
    MessageDefinitionFormat,
)

MCAP_MAGIC = b"\x89MCAP0\r\n"
SQLITE_MAGIC = b"SQLite format 3\0"
_COMPRESSIONS = ("", "lz4", "zstd")
_DEFINITIONS = {
    "ros2msg": MessageDefinitionFormat.MSG,
    "ros2idl": MessageDefinitionFormat.IDL,
    "omgidl": MessageDefinitionFormat.IDL,
}
_RECORD = struct.Struct("<BQ")
"""Opcode and length of the content that follows."""
_MESSAGE = struct.Struct("<HIQQ")
"""Channel, sequence number, log time, publish time."""


@dataclass(frozen=True, slots=True)
class _Place:
    """Position of a message."""

    log_ns: int
    connection: int
    offset: int
    """mcap: of the data, in the file or in its chunk; sqlite3: row."""
    length: int = 0
    """Bytes of data."""
    chunk: int = -1
    """Offset of the chunk's content in the file; -1 for a message outside of chunks."""
    chunk_length: int = 0


class Scan(Protocol):
    """The complete messages of a storage file."""

    connections: list[Connection]
    places: list[_Place]
    losses: list[str]

    def data(self, place: _Place) -> bytes | None:
        """The serialised message; None if it proves damaged."""

    def close(self) -> None:
        """Release the file."""


def scan(path: Path) -> Scan:
    """Scan a file of the type that its first bytes show. Raises ValueError, OSError, sqlite3.Error
    if nothing can be read."""
    with path.open("rb") as file:
        start = file.read(len(SQLITE_MAGIC))
    if start.startswith(MCAP_MAGIC):
        return McapScan(path)
    if start == SQLITE_MAGIC:
        return Sqlite3Scan(path)
    raise ValueError("neither an mcap nor a sqlite3 file")


def messages_of(
    found: Scan, connections: Collection[Connection]
) -> Iterator[tuple[Connection, int, bytes]]:
    """(connection, log time, data) in order of log time, ties in order of the file."""
    wanted = {connection.id: connection for connection in connections}
    places = [place for place in found.places if place.connection in wanted]
    for place in sorted(places, key=lambda place: place.log_ns):
        data = found.data(place)
        if data is not None:
            yield wanted[place.connection], place.log_ns, data


class McapScan:
    """An mcap file without its summary: whole chunks, and whole messages outside of chunks."""

    def __init__(self, path: Path) -> None:
        self.losses: list[str] = []
        self.places: list[_Place] = []
        self._schemas: dict[int, Schema] = {}
        self._channels: dict[int, Channel] = {}
        self._size = path.stat().st_size
        self._file = path.open("rb")
        # Messages of one chunk are read in succession, those of two chunks alternately.
        self._chunk = lru_cache(maxsize=4)(self._read_chunk)
        try:
            self._scan_file()
        except BaseException:
            self.close()
            raise
        counts: dict[int, int] = {}
        for place in self.places:
            counts[place.connection] = counts.get(place.connection, 0) + 1
        self.connections = [
            self._connection(channel, counts.get(channel.id, 0))
            for channel in self._channels.values()
        ]

    def data(self, place: _Place) -> bytes | None:
        if place.chunk < 0:
            self._file.seek(place.offset)
            return self._file.read(place.length)
        content = self._chunk(place.chunk, place.chunk_length)
        return content[place.offset : place.offset + place.length]

    def close(self) -> None:
        self._chunk.cache_clear()
        self._file.close()

    def _scan_file(self) -> None:
        self._file.seek(len(MCAP_MAGIC))
        for opcode, at, length in _records(self._file, self._size):
            if opcode == Opcode.DATA_END:
                self._check_end()
                return
            if opcode == Opcode.CHUNK:
                self._scan_chunk(at, length)
            else:
                self._take(opcode, self._file, at, length)
        self.losses.append("the file is cut off: what was recorded after its end is lost")

    def _check_end(self) -> None:
        """Record an index that was cut off; all messages precede it."""
        self._file.seek(max(0, self._size - len(MCAP_MAGIC)))
        if self._file.read() != MCAP_MAGIC:
            self.losses.append(
                "the file is cut off behind its last message: no message is lost, but its index"
            )

    def _scan_chunk(self, at: int, length: int) -> None:
        try:
            content = self._chunk(at, length)
        except Exception as error:  # of any kind: damage meets three decompressors
            reason = str(error) or type(error).__name__
            self.losses.append(
                f"the chunk at byte {at} is damaged, its messages are lost: {reason}"
            )
            return
        stream = BytesIO(content)
        for opcode, inside, size in _records(stream, len(content)):
            self._take(opcode, stream, inside, size, at, length)

    def _take(
        self,
        opcode: int,
        stream: BinaryIO,
        at: int,
        length: int,
        chunk: int = -1,
        chunk_length: int = 0,
    ) -> None:
        """Record a schema, a channel, or the position of a message."""
        stream.seek(at)
        if opcode == Opcode.MESSAGE and length >= _MESSAGE.size:
            channel, _, log_ns, _ = _MESSAGE.unpack(stream.read(_MESSAGE.size))
            if channel in self._channels:
                at, length = at + _MESSAGE.size, length - _MESSAGE.size
                self.places.append(_Place(log_ns, channel, at, length, chunk, chunk_length))
        elif opcode == Opcode.SCHEMA:
            schema = Schema.read(ReadDataStream(BytesIO(stream.read(length))))
            self._schemas[schema.id] = schema
        elif opcode == Opcode.CHANNEL:
            found = Channel.read(ReadDataStream(BytesIO(stream.read(length))))
            self._channels[found.id] = found

    def _read_chunk(self, at: int, length: int) -> bytes:
        """Read the records of a chunk. Raises errors of many kinds for a damaged one."""
        self._file.seek(at)
        chunk = Chunk.read(ReadDataStream(BytesIO(self._file.read(length))))
        if chunk.compression not in _COMPRESSIONS:
            raise ValueError(f"unknown compression '{chunk.compression}'")
        stream, size = get_chunk_data_stream(chunk, validate_crc=True)
        if size != chunk.uncompressed_size:
            raise ValueError(f"{size} bytes instead of {chunk.uncompressed_size}")
        return stream.read(size)

    def _connection(self, channel: Channel, messages: int) -> Connection:
        schema = self._schemas.get(channel.schema_id)
        kind = _DEFINITIONS.get(schema.encoding if schema else "", MessageDefinitionFormat.NONE)
        text = schema.data.decode(errors="replace") if schema else ""
        return Connection(
            id=channel.id,
            topic=channel.topic,
            msgtype=schema.name if schema else "",
            msgdef=MessageDefinition(kind, text),
            digest="",
            msgcount=messages,
            ext=ConnectionExtRosbag2(channel.message_encoding, []),
            owner=self,
        )


def _records(stream: BinaryIO, size: int) -> Iterator[tuple[int, int, int]]:
    """(opcode, offset of the content, its length) of each whole record from here on."""
    at = stream.tell()
    while at + _RECORD.size <= size:
        stream.seek(at)
        opcode, length = _RECORD.unpack(stream.read(_RECORD.size))
        at += _RECORD.size
        # 0 is no opcode: a file system may leave zeros behind what was written last.
        if opcode == 0 or at + length > size:
            return
        yield opcode, at, length
        at += length


class Sqlite3Scan:
    """A sqlite3 file row by row, as far as its pages are there."""

    def __init__(self, path: Path) -> None:
        self.losses: list[str] = []
        self.places: list[_Place] = []
        address = f"file:{quote(str(path.resolve()))}?mode=ro&immutable=1"
        self._database = sqlite3.connect(address, uri=True)
        try:
            # SQLite refuses a file that is shorter than it says, but not under this setting.
            self._database.execute("PRAGMA writable_schema = ON")
            topics = self._database.execute(
                "SELECT id, name, type, serialization_format FROM topics"
            ).fetchall()
            self._scan_rows()
        except BaseException:
            self.close()
            raise
        counts: dict[int, int] = {}
        for place in self.places:
            counts[place.connection] = counts.get(place.connection, 0) + 1
        none = MessageDefinition(MessageDefinitionFormat.NONE, "")
        self.connections = [
            Connection(
                id=number,
                topic=name,
                msgtype=kind,
                msgdef=none,
                digest="",
                msgcount=counts.get(number, 0),
                ext=ConnectionExtRosbag2(encoding, []),
                owner=self,
            )
            for number, name, kind, encoding in topics
        ]

    def data(self, place: _Place) -> bytes | None:
        try:
            row = self._database.execute(
                "SELECT data FROM messages WHERE id = ?", (place.offset,)
            ).fetchone()
        except sqlite3.Error:
            row = None
        if row is None or not isinstance(row[0], bytes):
            self.losses.append(f"the message in row {place.offset} is damaged")
            return None
        return row[0]

    def close(self) -> None:
        self._database.close()

    def _scan_rows(self) -> None:
        damaged = 0
        try:
            for row, topic, log_ns in self._database.execute(
                "SELECT id, topic_id, timestamp FROM messages ORDER BY id"
            ):
                if isinstance(topic, int) and isinstance(log_ns, int):
                    self.places.append(_Place(log_ns, topic, row))
                else:
                    damaged += 1
        except sqlite3.Error as error:
            self.losses.append(
                f"the file is cut off or damaged behind row {len(self.places)}, later messages "
                f"are lost: {error}"
            )
        if damaged:
            self.losses.append(f"{damaged} rows have no topic or time: their messages are lost")
