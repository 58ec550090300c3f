"""ROS 2 bags (mcap, sqlite3) read and written one message at a time, without ROS.

A bag is a folder with metadata.yaml or a bare .mcap or .db3 file. All times are nanoseconds;
stamps are those of the message headers, log times those at which the recorder received the
message.
"""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt
from rosbags.interfaces import Connection
from rosbags.rosbag2 import StoragePlugin
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from stemseg_ros.errors import BagError, MediaError
from stemseg_ros.media.bag_storage import (
    STORAGE_OF_SUFFIX,
    Storage,
    StorageFiles,
    refuse_foreign,
)
from stemseg_ros.media.bag_writer import QuotingWriter, check_topic
from stemseg_ros.media.outputs import output_folder
from stemseg_ros.resources import resource_path

IMAGE = "sensor_msgs/msg/Image"
COMPRESSED_IMAGE = "sensor_msgs/msg/CompressedImage"
IMAGE_TYPES = (IMAGE, COMPRESSED_IMAGE)
INSTANCE_ARRAY = "stemseg/msg/InstanceArray"
PROMPTS = "/prompts"
"""End of the names of topics with InstanceArrays that are no results but the objects given to the
node; chosen by their name alone."""

_JPEG_QUALITY = 95


@cache
def message_types() -> Typestore:
    """The message types of ROS 2 Jazzy and those of this package."""
    store = get_typestore(Stores.ROS2_JAZZY)
    for name in ("Instance", "InstanceArray"):
        text = resource_path(f"msg/{name}.msg").read_text(encoding="utf-8")
        store.register(get_types_from_msg(text, f"stemseg/msg/{name}"))
    return store


def make_header(stamp: int, frame_id: str) -> Any:
    """A std_msgs/Header for messages that a BagWriter writes. Raises BagError for times out of
    range."""
    if not 0 <= stamp < 2**31 * 1_000_000_000:
        raise BagError(f"a message cannot hold the time {stamp} ns (0 up to 2^31 s)")
    types = message_types().types
    seconds, nanoseconds = divmod(stamp, 1_000_000_000)
    time = types["builtin_interfaces/msg/Time"](sec=seconds, nanosec=nanoseconds)
    return types["std_msgs/msg/Header"](stamp=time, frame_id=frame_id)


@dataclass(frozen=True, slots=True)
class TopicInfo:
    """One topic of a bag."""

    name: str
    type: str
    messages: int

    def __str__(self) -> str:
        return f"{self.name} ({self.type}, {self.messages} messages)"


@dataclass(frozen=True, slots=True)
class BagInfo:
    """Content of a bag."""

    path: Path
    storage: Storage
    start_ns: int
    """Log time of the first message; 0 for an empty bag."""
    duration_ns: int
    """From the first to the last message."""
    topics: tuple[TopicInfo, ...]

    @property
    def messages(self) -> int:
        """Number of messages of all topics."""
        return sum(topic.messages for topic in self.topics)


def bag_info(path: str | Path) -> BagInfo:
    """Topics, times and storage of a bag. Raises BagError."""
    path = Path(path)
    files = StorageFiles(path)
    try:
        filled = [file for file in files.files if file.count]
        start = min((file.start_ns for file in filled), default=0)
        end = max((file.end_ns for file in filled), default=0)
        return BagInfo(
            path, files.files[0].storage, start, end - start, _topics(files.connections)
        )
    finally:
        files.close()


class BagReader:
    """The messages of one topic, in the order of recording; holds one message at a time.

    ``types`` are the accepted message types; without ``topic`` there has to be exactly one topic
    of these, beside those of PROMPTS. Raises BagError on construction and while iterating.
    """

    def __init__(self, path: str | Path, types: Collection[str], topic: str | None = None) -> None:
        self.path = Path(path)
        self._files = StorageFiles(self.path)
        try:
            self._connections = _select(self.path, self._files.connections, types, topic)
        except BaseException:
            self.close()
            raise
        self.topic: str = self._connections[0].topic
        self.type: str = self._connections[0].msgtype
        self.count: int = sum(connection.msgcount for connection in self._connections)

    @property
    def losses(self) -> list[str]:
        """Parts of the recording that could not be read so far; logged as well."""
        return self._files.losses

    def raw(self) -> Iterator[tuple[int, bytes]]:
        """(log time, serialised message) of each message."""
        with _reading(self.path):
            yield from self._files.messages(self._connections)

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        """(log time, message) of each message."""
        for log_ns, data in self.raw():
            yield log_ns, self.decode(data)

    def decode(self, data: bytes) -> Any:
        """The message of one of ``raw``. Raises BagError."""
        with _reading(self.path):
            return message_types().deserialize_cdr(data, self.type)

    def close(self) -> None:
        """Release the file; a second call does nothing."""
        self._files.close()

    def __enter__(self) -> BagReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class BagWriter:
    """Writes the messages of one topic, or of more (second_topic), to a new bag.

    Bags are read by log time. Where it does not advance within a topic, as with the stamps of a
    looped stream, the message gets the one after that of the message before, so that the order of
    writing is kept; headers stay as they are.

    A path that ends in .mcap or .db3 becomes a bare file, any other a folder with metadata.yaml.
    The bag appears under its name when the ``with`` block ends without an error; else nothing is
    left.
    """

    def __init__(
        self, path: str | Path, topic: str, message_type: str, storage: Storage | None = None
    ) -> None:
        self.path = Path(path)
        self.count = 0
        self._message_type = message_type
        chosen = _storage(self.path, storage)
        check_topic(topic)
        if self.path.exists():
            raise BagError(f"'{self.path}' exists already; remove it or choose another name")
        self._bare = self.path.suffix in STORAGE_OF_SUFFIX
        self._stack = ExitStack()
        try:
            self._stack.enter_context(output_folder(self.path.parent))
        except MediaError as error:
            raise BagError(f"cannot write '{self.path}': {error}") from error
        self._folder = Path(tempfile.mkdtemp(prefix=f".{self.path.name}.", dir=self.path.parent))
        self._stack.callback(shutil.rmtree, self._folder, ignore_errors=True)
        self._writer = QuotingWriter(
            self._folder / (self.path.stem if self._bare else self.path.name),
            version=9,
            storage_plugin=StoragePlugin[chosen.upper()],
        )
        self._log_ns: dict[int, int] = {}
        try:
            with self._errors_named():
                self._writer.open()
                self._connection = self._writer.add_connection(
                    topic, message_type, typestore=message_types()
                )
        except BaseException:
            self._stack.close()
            raise

    def write(self, log_ns: int, message: Any) -> None:
        """Append a message of rosbags' type (``message_types().types``)."""
        self.write_raw(log_ns, bytes(message_types().serialize_cdr(message, self._message_type)))

    def second_topic(self, topic: str, message_type: str) -> Callable[[int, Any], None]:
        """A function that appends messages of another topic: log time in ns, message of rosbags'
        type."""
        check_topic(topic)
        connection = self._writer.add_connection(topic, message_type, typestore=message_types())
        return lambda log_ns, message: self._append(
            connection, log_ns, bytes(message_types().serialize_cdr(message, message_type))
        )

    def write_raw(self, log_ns: int, data: bytes) -> None:
        """Append a message that is serialised already (CDR)."""
        self._append(self._connection, log_ns, data)
        self.count += 1

    def _append(self, connection: Connection, log_ns: int, data: bytes) -> None:
        log_ns = max(log_ns, self._log_ns.get(connection.id, -1) + 1)
        self._log_ns[connection.id] = log_ns
        with self._errors_named():
            self._writer.write(connection, log_ns, data)

    @contextmanager
    def _errors_named(self) -> Iterator[None]:
        try:
            yield
        except (OSError, sqlite3.Error) as error:
            reason = getattr(error, "strerror", None) or error
            raise BagError(f"cannot write '{self.path}': {reason}") from error

    def _publish(self) -> None:
        """Finish the files and rename them to their final name."""
        self._writer.close()
        written = self._writer.path
        if self._bare:
            written = written / f"{written.name}{self.path.suffix}"
        written.rename(self.path)

    def __enter__(self) -> BagWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                with self._errors_named():
                    self._publish()
            else:
                with suppress(OSError, sqlite3.Error):  # a full disk has been reported
                    self._writer.abort()
        finally:
            self._stack.close()


class ImageBagWriter:
    """Writes images, as sensor_msgs/Image (``bgr8``) or as CompressedImage (``jpeg``)."""

    def __init__(
        self,
        path: str | Path,
        topic: str = "/camera/image_raw",
        frame_id: str = "camera",
        encoding: Literal["bgr8", "jpeg"] = "bgr8",
        storage: Storage | None = None,
    ) -> None:
        self._bag = BagWriter(
            path, topic, IMAGE if encoding == "bgr8" else COMPRESSED_IMAGE, storage
        )
        self._frame_id = frame_id
        self._make = _raw_image if encoding == "bgr8" else _jpeg_image
        self.second_topic = self._bag.second_topic

    def write(self, stamp: int, image: npt.NDArray[np.uint8]) -> None:
        """Append one image, uint8 (H, W, 3) BGR, with its stamp in ns, from which BagWriter takes
        the log time."""
        self._bag.write(stamp, self._make(make_header(stamp, self._frame_id), image))

    def __enter__(self) -> ImageBagWriter:
        return self

    def __exit__(self, *error: Any) -> None:
        self._bag.__exit__(*error)


def write_bag(
    source: Iterable[tuple[int, npt.NDArray[np.uint8]]],
    out: str | Path,
    *,
    topic: str = "/camera/image_raw",
    frame_id: str = "camera",
    encoding: Literal["bgr8", "jpeg"] = "bgr8",
    storage: Storage | None = None,
    progress: Callable[[int], None] | None = None,
) -> int:
    """Write (stamp in ns, BGR image) pairs to a new bag; returns their number.

    ``progress`` is called with the number of frames written so far. Raises BagError, also for no
    frames.
    """
    count = 0
    with ImageBagWriter(out, topic, frame_id, encoding, storage) as bag:
        for count, (stamp, image) in enumerate(source, start=1):
            bag.write(stamp, image)
            if progress is not None:
                progress(count)
        if count == 0:
            raise BagError(f"no frames to write to '{out}'")
    return count


def _raw_image(header: Any, image: npt.NDArray[np.uint8]) -> Any:
    height, width = image.shape[:2]
    data = np.ascontiguousarray(image).reshape(-1)
    # header, height, width, encoding, is_bigendian, step, data
    return message_types().types[IMAGE](header, height, width, "bgr8", 0, width * 3, data)


def _jpeg_image(header: Any, image: npt.NDArray[np.uint8]) -> Any:
    _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    # The format that image_transport's compressed plugin writes.
    text = "bgr8; jpeg compressed bgr8"
    return message_types().types[COMPRESSED_IMAGE](header=header, format=text, data=data)


def _storage(path: Path, storage: Storage | None) -> Storage:
    by_suffix = STORAGE_OF_SUFFIX.get(path.suffix)
    if storage and by_suffix and storage != by_suffix:
        raise BagError(f"'{path}' names a {by_suffix} bag, but {storage} is asked for")
    return by_suffix or storage or "mcap"


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except BagError:
        raise
    except Exception as error:  # damaged files make the parsers below fail in any way
        reason = str(error).rstrip(".") or type(error).__name__
        raise BagError(
            f"'{path}' is not readable as a ROS 2 bag, damaged or cut short: {reason}"
        ) from error


def _topics(connections: Iterable[Connection]) -> tuple[TopicInfo, ...]:
    infos: dict[tuple[str, str], int] = {}
    for connection in connections:
        key = (connection.topic, connection.msgtype)
        infos[key] = infos.get(key, 0) + connection.msgcount
    return tuple(TopicInfo(name, kind, count) for (name, kind), count in sorted(infos.items()))


def _is_meant(name: str, topic: str | None) -> bool:
    return name == topic if topic is not None else not name.endswith(PROMPTS)


def _select(
    path: Path, connections: list[Connection], types: Collection[str], topic: str | None
) -> list[Connection]:
    """Find the connections of the requested topic, in all files."""
    topics = _topics(connections)
    fitting = [t for t in topics if t.type in types and _is_meant(t.name, topic)]
    filled = [t for t in fitting if t.messages]
    wanted = " or ".join(sorted(types))
    there = "topics there are: " + (", ".join(map(str, topics)) or "none")
    if not fitting:
        named = f"named '{topic}' " if topic else ""
        raise BagError(f"'{path}' has no topic {named}of type {wanted}; {there}")
    if not filled:
        raise BagError(f"'{path}' has no message on {fitting[0].name}; {there}")
    if len(filled) > 1:
        raise BagError(f"'{path}' has several topics of type {wanted}: choose one; {there}")
    meant = (filled[0].name, filled[0].type)
    chosen = [c for c in connections if (c.topic, c.msgtype) == meant]
    refuse_foreign(path, chosen)
    expected = message_types().hash_rihs01(filled[0].type)
    if any(c.digest and c.digest != expected for c in chosen):
        raise BagError(f"'{path}' was recorded with another definition of {filled[0].type}")
    return chosen
