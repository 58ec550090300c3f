"""Bags as recorders, copies and full disks leave them: what is whole is read, the rest named."""

from __future__ import annotations

import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zstandard
from mcap.writer import CompressionType
from mcap.writer import Writer as McapWriter
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer

from stemseg_ros.errors import BagError, MediaError
from stemseg_ros.media.bag_storage import StorageFile
from stemseg_ros.media.bags import IMAGE, bag_info, make_header, message_types, write_bag
from stemseg_ros.media.image_bag import ImageBagReader
from stemseg_ros.media.sources import open_source

COUNT = 12
FIRST, STEP = 10**9, 10**8
STAMPS = [FIRST + i * STEP for i in range(COUNT)]


def noise(index: int) -> np.ndarray:
    return np.random.default_rng(index).integers(0, 256, (60, 100, 3), dtype=np.uint8)


FRAMES = [(stamp, noise(index)) for index, stamp in enumerate(STAMPS)]


def cdr(stamp: int, image: np.ndarray) -> bytes:
    height, width = image.shape[:2]
    kind = message_types().types[IMAGE]
    header = make_header(stamp, "lens")
    message = kind(header, height, width, "bgr8", 0, 3 * width, image.reshape(-1))
    return bytes(message_types().serialize_cdr(message, IMAGE))


def written(path: Path) -> Path:
    write_bag(FRAMES, path)
    return path


def mcap(
    path: Path, *, profile: str = "ros2", order: int = 1, encoding: str = "cdr", **options: object
) -> Path:
    """As another writer makes it; order -1: the latest message first."""
    with path.open("wb") as file:
        writer = McapWriter(file, **options)  # type: ignore[arg-type]
        writer.start(profile=profile, library="another")
        text = message_types().generate_msgdef(IMAGE, ros_version=2)[0]
        schema = writer.register_schema(IMAGE, "ros2msg", text.encode())
        channel = writer.register_channel("/image", encoding, schema)
        for stamp, image in FRAMES[::order]:
            writer.add_message(channel, stamp, cdr(stamp, image), stamp)
        writer.finish()
    return path


UNINDEXED = {
    "use_chunking": False,
    "use_statistics": False,
    "use_summary_offsets": False,
    "repeat_channels": False,
    "repeat_schemas": False,
}
SMALL_CHUNKS = {"chunk_size": 30_000, "compression": CompressionType.ZSTD}


def compressed(path: Path, mode: CompressionMode, storage: StoragePlugin) -> Path:
    writer = Writer(path, version=9, storage_plugin=storage)
    writer.set_compression(mode, CompressionFormat.ZSTD)
    with writer:
        connection = writer.add_connection("/image", IMAGE, typestore=message_types())
        for stamp, image in FRAMES:
            writer.write(connection, stamp, cdr(stamp, image))
    return path


def without_metadata(path: Path) -> Path:
    (path / "metadata.yaml").unlink()
    return path


def metadata(path: Path, old: str, new: str) -> Path:
    file = path / "metadata.yaml"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    return path


def replaced_metadata(path: Path, text: str) -> Path:
    (path / "metadata.yaml").write_text(text)
    return path


def renamed(path: Path, name: str) -> Path:
    return path.rename(path.with_name(name))


def write_ahead_log(path: Path) -> Path:
    """A recorder was killed: half of its messages are only in the journal."""
    written(path)
    code = f"""
import os, sqlite3
database = sqlite3.connect({str(path)!r}, isolation_level=None)
rows = database.execute("SELECT id, topic_id, timestamp, data FROM messages").fetchall()
database.execute("DELETE FROM messages WHERE id > 6")
database.execute("PRAGMA journal_mode = WAL").fetchall()
for row in rows[6:]:
    database.execute("INSERT INTO messages VALUES (?, ?, ?, ?)", row)
os._exit(0)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    assert Path(f"{path}-wal").stat().st_size > 0
    return path


def linked(path: Path) -> Path:
    """The journal lies beside the file that the link points to."""
    link = path.parent / "links" / "link.db3"
    link.parent.mkdir()
    link.symlink_to(write_ahead_log(path))
    return link


def packed(path: Path, name: str) -> Path:
    """zstd under a name that does not say so."""
    out = path.with_name(name)
    out.write_bytes(zstandard.ZstdCompressor().compress(written(path).read_bytes()))
    path.unlink()
    return out


def parts(folder: Path, numbers: tuple[int, ...] = (0, 1, 10)) -> Path:
    """A split recording without metadata; part 10 comes behind part 1."""
    folder.mkdir()
    size = COUNT // len(numbers)
    for place, number in enumerate(numbers):
        write_bag(FRAMES[place * size : (place + 1) * size], folder / f"drive_{number}.mcap")
    return folder


WHOLE: dict[str, Callable[[Path], Path]] = {
    "capitals mcap": lambda d: renamed(written(d / "x.mcap"), "X.MCAP"),
    "capitals db3": lambda d: renamed(written(d / "x.db3"), "X.DB3"),
    "odd name": lambda d: renamed(written(d / "x.db3"), "a#b?c%41 d.db3"),
    "odd folder": lambda d: written(d / "a#b?c%41" / "x.mcap"),
    "file mcap": lambda d: compressed(d / "x", CompressionMode.FILE, StoragePlugin.MCAP),
    "file db3": lambda d: compressed(d / "x", CompressionMode.FILE, StoragePlugin.SQLITE3),
    "file, no metadata": lambda d: without_metadata(
        compressed(d / "x", CompressionMode.FILE, StoragePlugin.MCAP)
    ),
    "file alone": lambda d: (
        compressed(d / "x", CompressionMode.FILE, StoragePlugin.SQLITE3) / "x.db3.zstd"
    ),
    "message mcap": lambda d: compressed(d / "x", CompressionMode.MESSAGE, StoragePlugin.MCAP),
    "message db3, no metadata": lambda d: without_metadata(
        compressed(d / "x", CompressionMode.MESSAGE, StoragePlugin.SQLITE3)
    ),
    "profile": lambda d: mcap(d / "x.mcap", profile=""),
    "unindexed, disordered": lambda d: mcap(d / "x.mcap", order=-1, **UNINDEXED),
    "disordered": lambda d: mcap(d / "x.mcap", order=-1, **SMALL_CHUNKS),
    "wal": lambda d: write_ahead_log(d / "x.db3"),
    "wal behind a link": lambda d: linked(d / "x.db3"),
    "zstd without its suffix": lambda d: packed(d / "a.mcap", "x.mcap"),
    "plain with the suffix of zstd": lambda d: renamed(written(d / "x.db3"), "x.db3.zstd"),
    "a part listed twice": lambda d: metadata(
        written(d / "x"), "  - x.mcap\n", "  - x.mcap\n  - x.mcap\n"
    ),
    "empty metadata": lambda d: replaced_metadata(written(d / "x"), ""),
    "broken metadata": lambda d: replaced_metadata(written(d / "x"), "a: [b"),
    "other metadata": lambda d: replaced_metadata(written(d / "x"), "a: 3"),
    "storage": lambda d: metadata(
        written(d / "x"), "storage_identifier: mcap", "storage_identifier: ''"
    ),
    "qos": lambda d: metadata(
        written(d / "x"), "offered_qos_profiles: []", "offered_qos_profiles: 3"
    ),
    "type": lambda d: metadata(written(d / "x"), "name: /camera/image_raw", "name: /other"),
    "version": lambda d: metadata(written(d / "x"), "version: 9", "version: 99"),
    "parts": lambda d: parts(d / "x"),
}


@pytest.mark.parametrize("name", WHOLE)
def test_what_is_whole_is_read(tmp_path: Path, name: str) -> None:
    path = WHOLE[name](tmp_path)
    before = sorted((p.name, p.stat().st_size) for p in tmp_path.rglob("*"))
    with open_source(path) as source:
        assert isinstance(source, ImageBagReader)
        found = list(source)
        assert source.damage.losses == []
    assert [stamp for stamp, _ in found] == STAMPS
    assert all(np.array_equal(a, b) for (_, a), (_, b) in zip(found, FRAMES, strict=True))
    assert bag_info(path).messages == COUNT
    assert sorted((p.name, p.stat().st_size) for p in tmp_path.rglob("*")) == before


def cut(path: Path, share: float) -> Path:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


def damaged_chunk(path: Path) -> Path:
    data = bytearray(mcap(path, **SMALL_CHUNKS).read_bytes())
    middle = len(data) // 2
    data[middle : middle + 40] = bytes(40)
    path.write_bytes(data)
    return path


def missing_part(folder: Path) -> Path:
    written(folder)
    return metadata(folder, "  - x.mcap\n", "  - x.mcap\n  - x_1.mcap\n")


def cut_part(folder: Path) -> Path:
    cut(parts(folder) / "drive_10.mcap", 0.1)
    return folder


def cut_zstd(path: Path) -> Path:
    whole = mcap(path.with_suffix(".mcap"), **SMALL_CHUNKS)
    path.write_bytes(zstandard.ZstdCompressor().compress(whole.read_bytes()))
    whole.unlink()
    return cut(path, 0.7)


def cut_journal(path: Path) -> Path:
    cut(Path(f"{write_ahead_log(path)}-wal"), 0.5)
    return path


def damaged_journal(path: Path) -> Path:
    journal = Path(f"{write_ahead_log(path)}-wal")
    data = bytearray(journal.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 8] = bytes(8)
    journal.write_bytes(data)
    return path


def journal_without_header(path: Path) -> Path:
    journal = Path(f"{write_ahead_log(path)}-wal")
    journal.write_bytes(bytes(32) + journal.read_bytes()[32:])
    return path


LOST: dict[str, tuple[Callable[[Path], Path], str]] = {
    "chunks": (lambda d: cut(mcap(d / "x.mcap", **SMALL_CHUNKS), 0.6), "is cut off"),
    "no chunks": (lambda d: cut(mcap(d / "x.mcap", **UNINDEXED), 0.6), "is cut off"),
    "damage": (lambda d: damaged_chunk(d / "x.mcap"), "chunk at byte [0-9]+ is damaged"),
    "part": (lambda d: cut_part(d / "x"), "drive_10.mcap.* not readable"),
    "db3": (lambda d: cut(written(d / "x.db3"), 0.6), "cut off or damaged"),
    "zstd": (lambda d: cut_zstd(d / "x.mcap.zstd"), "is cut off"),
    "wal cut": (lambda d: cut_journal(d / "x.db3"), "x.db3-wal is cut off or damaged"),
    "wal damaged": (lambda d: damaged_journal(d / "x.db3"), "x.db3-wal is cut off or damaged"),
    "wal unreadable": (
        lambda d: journal_without_header(d / "x.db3"),
        "x.db3-wal is cut off or damaged",
    ),
}


@pytest.mark.parametrize("name", LOST)
def test_what_is_left_is_read_and_the_rest_named(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    make, words = LOST[name]
    with ImageBagReader(make(tmp_path)) as reader:
        found = list(reader)
        losses = "; ".join(reader.damage.losses)
    assert 2 <= len(found) < COUNT
    by_stamp = dict(FRAMES)
    assert all(np.array_equal(image, by_stamp[stamp]) for stamp, image in found)
    assert [stamp for stamp, _ in found] == sorted({stamp for stamp, _ in found})
    assert re.search(words, losses), losses
    assert re.search(words, caplog.text)


def test_an_index_that_is_cut_off_costs_no_message(tmp_path: Path) -> None:
    path = mcap(tmp_path / "x.mcap", **SMALL_CHUNKS)
    path.write_bytes(path.read_bytes()[:-100])
    with ImageBagReader(path) as reader:
        assert [stamp for stamp, _ in reader] == STAMPS
        assert reader.damage.losses == [
            "the file is cut off behind its last message: no message is lost, but its index"
        ]


def test_a_missing_part_is_named(tmp_path: Path) -> None:
    with ImageBagReader(missing_part(tmp_path / "x")) as reader:
        assert len(list(reader)) == COUNT
        assert reader.damage.losses == ["x_1.mcap, which metadata.yaml lists, is missing"]


def test_a_count_beyond_the_files_is_named(tmp_path: Path) -> None:
    path = metadata(written(tmp_path / "x"), f"message_count: {COUNT}", "message_count: 99")
    with ImageBagReader(path) as reader:
        assert reader.damage.losses == [
            f"metadata.yaml counts 99 messages, the files hold {COUNT}"
        ]


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"


@pytest.mark.parametrize("name", ["x.mcap", "x.db3", "x.mcap.zstd", "x.mp4", "x.png"])
@pytest.mark.parametrize(
    ("content", "words"), [(POINTER, "pointer of Git LFS"), (b"<html>", "an HTML page")]
)
def test_what_is_taken_for_a_recording_is_called_what_it_is(
    tmp_path: Path, name: str, content: bytes, words: str
) -> None:
    (tmp_path / name).write_bytes(content)
    path = tmp_path if name == "x.png" else tmp_path / name
    with pytest.raises(MediaError, match=words):
        open_source(path)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("x.mcap", b"", "it is empty"),
        ("x.mcap.zstd", b"", "it is empty"),
        ("x.mcap.zstd", zstandard.ZstdCompressor().compress(bytes(99))[:8], "cut off before"),
        ("x.db3", bytes(99), "neither an mcap nor a sqlite3 file"),
    ],
)
def test_files_without_content(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BagError, match=words):
        open_source(tmp_path / name)


def test_a_bag_of_which_damage_leaves_no_message(tmp_path: Path) -> None:
    """Its index promises some."""
    path = mcap(tmp_path / "x.mcap")
    data = path.read_bytes()
    middle = len(data) // 2
    path.write_bytes(data[:middle] + bytes(40) + data[middle + 40 :])
    with pytest.raises(BagError, match=r"x\.mcap.*chunk at byte [0-9]+ is damaged"):
        open_source(path)


@pytest.mark.parametrize(
    ("yields", "found", "losses"),
    [(0, COUNT, []), (7, 7, ["its index counts 12 messages, 7 came"])],
)
def test_an_index_that_leads_to_fewer_messages_than_it_counts(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    yields: int,
    found: int,
    losses: list[str],
) -> None:
    """As damaged ones do; without any message the file is read without it."""
    opened = StorageFile._open_indexed

    def open_indexed(self: StorageFile) -> Any:
        reader = opened(self)
        messages = reader.messages
        reader.messages = lambda *given: islice(messages(*given), yields)
        return reader

    monkeypatch.setattr(StorageFile, "_open_indexed", open_indexed)
    with ImageBagReader(written(tmp_path / "x.mcap")) as reader:
        assert len(list(reader)) == found
        assert reader.damage.losses[:1] == losses


def test_unrelated_files_are_no_parts(tmp_path: Path) -> None:
    written(tmp_path / "a.mcap")
    shutil.copy(tmp_path / "a.mcap", tmp_path / "b.mcap")
    with pytest.raises(BagError, match=r"name one of the files: a.mcap, b.mcap"):
        ImageBagReader(tmp_path)


@pytest.mark.parametrize(
    "form, words",
    [("ros1", "rosbags-convert --src"), ("json", "serialised as 'json', only 'cdr'")],
)
def test_foreign_serialisation_names_the_remedy(tmp_path: Path, form: str, words: str) -> None:
    path = mcap(tmp_path / "x.mcap", profile="", encoding=form)
    with pytest.raises(BagError, match=words):
        ImageBagReader(path)


def test_a_bag_of_ros_1_names_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "drive.bag").write_bytes(b"#ROSBAG V2.0\n" + bytes(100))
    for path in (tmp_path, tmp_path / "drive.bag"):
        with pytest.raises(BagError, match=r"bag of ROS 1.*rosbags-convert --src '.*drive.bag'"):
            ImageBagReader(path)


def test_sqlite_in_the_test_can_write_ahead(tmp_path: Path) -> None:
    """The journal of the fixture is what makes the difference: without it, six are there."""
    path = write_ahead_log(tmp_path / "x.db3")
    alone = tmp_path / "alone.db3"
    shutil.copy(path, alone)
    assert sqlite3.connect(alone).execute("SELECT count(*) FROM messages").fetchone() == (6,)
