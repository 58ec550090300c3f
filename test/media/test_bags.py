"""Bags: what is written is read again, and every fault is named."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from mcap_ros2.reader import read_ros2_messages

from stemseg_ros.media.bags import (
    IMAGE,
    BagError,
    BagReader,
    BagWriter,
    ImageBagWriter,
    bag_info,
    make_header,
    message_types,
    write_bag,
)
from stemseg_ros.media.image_bag import ImageBagReader
from stemseg_ros.media.result_bag import InstanceBagReader, InstanceBagWriter
from stemseg_ros.records import FrameResult, Instance, Rle

IMAGES = hnp.arrays(np.uint8, st.tuples(st.integers(1, 6), st.integers(1, 7), st.just(3)))
PATHS = ["clip.mcap", "clip.db3", "clip", "clip.v2"]
"""A bare mcap file, a bare sqlite3 file, and two folders."""


def frames(count: int, height: int = 4, width: int = 6) -> list[tuple[int, np.ndarray]]:
    return [
        (10**9 + i * 40_000_000, np.full((height, width, 3), i, np.uint8)) for i in range(count)
    ]


def result(stamp_ns: int, epoch: int = 0, tracks: int = 1) -> FrameResult:
    instances = tuple(
        Instance(i + 1, 1, "car", 0.5, Rle(size=[4, 6], counts=bytes([49 + i, 50])), (1, 2, 3, 2))
        for i in range(tracks)
    )
    return FrameResult(0, stamp_ns, 4, 6, epoch, instances)


@pytest.mark.parametrize("name", PATHS)
@given(
    images=st.lists(IMAGES, min_size=1, max_size=4),
    first=st.integers(0, 2**31 * 10**9 - 10**9),
    step=st.integers(1, 10**8),
)
@settings(max_examples=15, deadline=None)
def test_raw_images_come_back_bit_for_bit(
    tmp_path_factory: pytest.TempPathFactory,
    name: str,
    images: list[np.ndarray],
    first: int,
    step: int,
) -> None:
    path = tmp_path_factory.mktemp("bag") / name
    sent = [(first + i * step, image) for i, image in enumerate(images)]
    assert write_bag(sent, path, topic="/front", frame_id="lens") == len(images)
    with ImageBagReader(path) as reader:
        assert (reader.topic, reader.frames, reader.frame_id) == ("/front", len(images), "lens")
        assert reader.size == images[0].shape[:2]
        received = list(reader)
    assert [stamp for stamp, _ in received] == [stamp for stamp, _ in sent]
    assert all(np.array_equal(a, b) for (_, a), (_, b) in zip(sent, received, strict=True))
    assert [p.name for p in path.parent.iterdir()] == [name]


def test_sqlite_folder_and_rate(tmp_path: Path) -> None:
    write_bag(frames(5), tmp_path / "clip", storage="sqlite3")
    assert (tmp_path / "clip" / "clip.db3").is_file()
    with ImageBagReader(tmp_path / "clip") as reader:
        assert reader.fps == 25.0
    info = bag_info(tmp_path / "clip")
    assert (info.storage, info.start_ns) == ("sqlite3", 10**9)
    assert (info.duration_ns, info.messages) == (160_000_000, 5)


LOOPED = [10, 11, 12, 10, 11, 12]
"""Stamps of a stream that starts again, in ns."""


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("stamps", [LOOPED, [7, 7, 7], [5, 4, 3, 9, 0]])
def test_order_is_kept_where_stamps_do_not_advance(
    tmp_path: Path, name: str, stamps: list[int]
) -> None:
    write_bag(
        [(stamp, np.full((2, 2, 3), i, np.uint8)) for i, stamp in enumerate(stamps)],
        tmp_path / name,
    )
    with ImageBagReader(tmp_path / name) as reader:
        assert [(stamp, int(image[0, 0, 0])) for stamp, image in reader] == [
            (stamp, i) for i, stamp in enumerate(stamps)
        ]
    with BagReader(tmp_path / name, (IMAGE,)) as bag:
        log_times = [log_ns for log_ns, _ in bag.raw()]
    assert all(log >= stamp for log, stamp in zip(log_times, stamps, strict=True))
    assert all(later > earlier for earlier, later in pairwise(log_times))


@pytest.mark.parametrize("name", PATHS)
def test_results_of_a_looped_stream_keep_their_order(tmp_path: Path, name: str) -> None:
    sent = [result(stamp, epoch=i // 3, tracks=i) for i, stamp in enumerate(LOOPED)]
    with InstanceBagWriter(tmp_path / name) as writer:
        for item in sent:
            writer.write(item)
    with InstanceBagReader(tmp_path / name) as reader:
        found = [(r.stamp_ns, r.epoch, r.index, len(r.instances)) for r in reader]
    assert found == [(stamp, i // 3, i % 3, i) for i, stamp in enumerate(LOOPED)]


def test_one_frame_has_no_rate(tmp_path: Path) -> None:
    write_bag(frames(1), tmp_path / "one.mcap")
    with ImageBagReader(tmp_path / "one.mcap") as reader:
        assert reader.fps is None


def test_jpeg_bag_holds_compressed_images(tmp_path: Path) -> None:
    ramp = np.repeat(np.linspace(0, 255, 64).astype(np.uint8)[None, :, None], 48, 0).repeat(3, 2)
    write_bag([(5, ramp)], tmp_path / "jpeg.mcap", encoding="jpeg")
    assert [t.type for t in bag_info(tmp_path / "jpeg.mcap").topics] == [
        "sensor_msgs/msg/CompressedImage"
    ]
    with ImageBagReader(tmp_path / "jpeg.mcap") as reader:
        ((stamp, image),) = reader
    assert stamp == 5
    assert cv2.absdiff(image, ramp).max() <= 4


def test_another_mcap_reader_agrees(tmp_path: Path) -> None:
    """The file follows the mcap profile of ROS 2: a reader of other authors decodes it by its
    schemas."""
    write_bag(frames(3), tmp_path / "images.mcap", frame_id="lens")
    with InstanceBagWriter(tmp_path / "results.mcap", frame_id="lens") as writer:
        writer.write(result(7, tracks=2))
    images = list(read_ros2_messages(tmp_path / "images.mcap"))
    assert [(m.log_time_ns, m.ros_msg.encoding, m.ros_msg.step) for m in images] == [
        (stamp, "bgr8", 18) for stamp, _ in frames(3)
    ]
    (message,) = read_ros2_messages(tmp_path / "results.mcap")
    assert message.schema.name == "stemseg/msg/InstanceArray"
    assert [i.track_id for i in message.ros_msg.instances] == [1, 2]
    assert bytes(message.ros_msg.instances[1].mask_rle) == bytes([50, 50])


@pytest.mark.parametrize("name", PATHS)
def test_results_come_back(tmp_path: Path, name: str) -> None:
    sent = [result(1), result(2, tracks=0), result(1, epoch=1, tracks=3)]
    with InstanceBagWriter(tmp_path / name) as writer:
        for item in sent:
            writer.write(item)
    with InstanceBagReader(tmp_path / name) as reader:
        received = sorted(reader, key=lambda item: (item.epoch, item.stamp_ns))
    assert [item.instances for item in received] == [item.instances for item in sent]
    assert [(item.stamp_ns, item.height, item.width, item.epoch) for item in received] == [
        (1, 4, 6, 0),
        (2, 4, 6, 0),
        (1, 4, 6, 1),
    ]


def two_topics(path: Path) -> Path:
    """A folder's file that another recorder wrote: two image topics in one bag."""
    from rosbags.rosbag2 import StoragePlugin, Writer

    store = message_types()
    with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        for topic in ("/left", "/right"):
            connection = writer.add_connection(topic, IMAGE, typestore=store)
            pixels = np.zeros(3, np.uint8)
            image = store.types[IMAGE](make_header(1, "lens"), 1, 1, "bgr8", 0, 3, pixels)
            writer.write(connection, 1, store.serialize_cdr(image, IMAGE))
    return path


def another_definition(path: Path) -> Path:
    from rosbags.rosbag2 import StoragePlugin, Writer

    with Writer(path, version=9, storage_plugin=StoragePlugin.SQLITE3) as writer:
        connection = writer.add_connection(
            "/image", IMAGE, msgdef="uint8 gray\n", rihs01="RIHS01_0"
        )
        writer.write(connection, 1, bytes(8))
    return path


def cut(path: Path, keep: float) -> Path:
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * keep)])
    return path


def written(path: Path) -> Path:
    write_bag(frames(3, 40, 60), path)
    return path


def with_results(path: Path) -> Path:
    with InstanceBagWriter(path) as writer:
        writer.write(result(1))
    return path


def with_image(path: Path, **fields: object) -> Path:
    store = message_types()
    values = {
        "header": make_header(1, ""),
        "height": 2,
        "width": 2,
        "encoding": "bgr8",
        "is_bigendian": 0,
        "step": 6,
        "data": np.zeros(12, np.uint8),
    } | fields
    with BagWriter(path, "/image", IMAGE) as writer:
        writer.write(1, store.types[IMAGE](**values))
    return path


def no_messages(path: Path) -> Path:
    with BagWriter(path, "/image", IMAGE):
        return path


def text(path: Path) -> Path:
    path.write_text("not a bag")
    return path


FAULTS: list[tuple[str, Callable[[Path], Path], str | None, str]] = [
    ("missing", lambda d: d / "none.mcap", None, "no bag at"),
    ("empty folder", lambda d: d, None, "expected a .mcap or .db3 file"),
    ("foreign file", lambda d: text(d / "clip.mp4"), None, "no ROS 2 bag"),
    ("text named mcap", lambda d: text(d / "x.mcap"), None, "not readable"),
    ("text named db3", lambda d: text(d / "x.db3"), None, "not readable"),
    ("empty file", lambda d: cut(written(d / "x.mcap"), 0), None, "not readable"),
    ("truncated mcap", lambda d: cut(written(d / "x.mcap"), 0.6), None, "not readable"),
    ("truncated db3", lambda d: cut(written(d / "x.db3"), 0.6), None, "not readable"),
    (
        "truncated in folder",
        lambda d: cut(written(d / "x") / "x.mcap", 0.6).parent,
        None,
        "not readable",
    ),
    ("no messages", lambda d: no_messages(d / "x.mcap"), None, "no message on /image"),
    (
        "wrong topic",
        lambda d: written(d / "x.mcap"),
        "/lidar",
        r"named '/lidar'.*/camera/image_raw \(sensor",
    ),
    ("two topics", lambda d: two_topics(d / "x"), None, r"choose one; .*/left .*/right"),
    (
        "results only",
        lambda d: with_results(d / "x.mcap"),
        None,
        r"no topic of type .*/stemseg/instances",
    ),
    (
        "old definition",
        lambda d: another_definition(d / "x"),
        None,
        "another definition of sensor_msgs",
    ),
    (
        "encoding",
        lambda d: with_image(d / "x.mcap", encoding="jp2"),
        None,
        "message 0 .*'jp2' is not",
    ),
    (
        "too few pixels",
        lambda d: with_image(d / "x.mcap", height=9),
        None,
        "truncated image: 12 bytes",
    ),
    ("no pixels", lambda d: with_image(d / "x.mcap", height=0), None, "without pixels"),
    ("short step", lambda d: with_image(d / "x.mcap", step=5), None, "step of 5 bytes"),
]


@pytest.mark.parametrize(
    "make, topic, message", [f[1:] for f in FAULTS], ids=[f[0] for f in FAULTS]
)
def test_faults_are_named(
    tmp_path: Path, make: Callable[[Path], Path], topic: str | None, message: str
) -> None:
    path = make(tmp_path)
    with pytest.raises(BagError, match=message), ImageBagReader(path, topic) as reader:
        list(reader)


@pytest.mark.parametrize("position", [0.3, 0.5, 0.9])
def test_flipped_bytes_never_pass_as_a_crash(tmp_path: Path, position: float) -> None:
    """Damage inside is either reported as BagError or leaves all messages readable: nothing else
    escapes."""
    path = written(tmp_path / "x.mcap")
    data = bytearray(path.read_bytes())
    start = int(len(data) * position)
    data[start : start + 64] = bytes(255 - b for b in data[start : start + 64])
    path.write_bytes(data)
    try:
        with ImageBagReader(path) as reader:
            assert len(list(reader)) == 3
    except BagError as error:
        assert str(path) in str(error)


def test_one_of_two_topics(tmp_path: Path) -> None:
    with ImageBagReader(two_topics(tmp_path / "x"), "/right") as reader:
        assert (reader.topic, len(list(reader))) == ("/right", 1)


def test_folder_without_metadata_is_read(tmp_path: Path) -> None:
    """A killed recorder leaves no metadata.yaml."""
    path = written(tmp_path / "x")
    (path / "metadata.yaml").unlink()
    with ImageBagReader(path) as reader:
        assert len(list(reader)) == 3


@pytest.mark.parametrize("name", PATHS)
def test_existing_bag_is_kept(tmp_path: Path, name: str) -> None:
    written(tmp_path / name)
    with pytest.raises(BagError, match="exists already"):
        write_bag(frames(1), tmp_path / name)
    with ImageBagReader(tmp_path / name) as reader:
        assert len(list(reader)) == 3


@pytest.mark.parametrize("name", PATHS)
def test_failed_writing_leaves_nothing(tmp_path: Path, name: str) -> None:
    with pytest.raises(RuntimeError), ImageBagWriter(tmp_path / name) as writer:
        writer.write(*frames(1)[0])
        raise RuntimeError("the source failed")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BagError, match="no frames"):
        write_bag([], tmp_path / "x.mcap")
    for stamp in (-1, 2**31 * 10**9):
        with pytest.raises(BagError, match=f"cannot hold the time {stamp} ns"):
            write_bag([(stamp, frames(1)[0][1])], tmp_path / "x.mcap")
    with pytest.raises(BagError, match="names a mcap bag"):
        write_bag(frames(1), tmp_path / "x.mcap", storage="sqlite3")
    (tmp_path / "file").touch()
    with pytest.raises(BagError, match="cannot write"):
        write_bag(frames(1), tmp_path / "file" / "x.mcap")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_progress_counts_frames(tmp_path: Path) -> None:
    seen: list[int] = []
    write_bag(frames(3), tmp_path / "x.mcap", progress=seen.append)
    assert seen == [1, 2, 3]


def spoiled(path: Path) -> Path:
    """Message 1 is cut, message 3 has an encoding that nobody knows."""
    store = message_types()
    with BagWriter(path, "/image", IMAGE) as writer:
        for i, (stamp, image) in enumerate(frames(5)):
            encoding = "jp2" if i == 3 else "bgr8"
            header = make_header(stamp, "lens")
            message = store.types[IMAGE](header, 4, 6, encoding, 0, 18, image.reshape(-1))
            data = bytes(store.serialize_cdr(message, IMAGE))
            writer.write_raw(stamp, data[:30] if i == 1 else data)
    return path


def test_bad_messages_are_skipped_by_number(tmp_path: Path) -> None:
    with ImageBagReader(spoiled(tmp_path / "x.mcap")) as reader:
        stamps = [stamp for stamp, _ in reader]
        skipped = reader.damage.skipped
    assert stamps == [frames(5)[i][0] for i in (0, 2, 4)]
    assert [item.frame for item in skipped] == [1, 3]
    assert "message 1 of /image" in skipped[0].reason
    assert "message 3 of /image: image encoding 'jp2'" in skipped[1].reason


@pytest.mark.parametrize("topic", ["image raw", "", "/", "/a//b", "/a/", "/2d/x", "/a-b", "/ä"])
def test_a_topic_that_ros_refuses_is_not_written(tmp_path: Path, topic: str) -> None:
    with pytest.raises(BagError, match=r"is no name of a ROS 2 topic"):
        write_bag(frames(1), tmp_path / "x.mcap", topic=topic)
    assert list(tmp_path.iterdir()) == []


def test_the_near_name_of_a_topic(tmp_path: Path) -> None:
    with pytest.raises(BagError, match=r"as in /_2d/image_raw$"):
        write_bag(frames(1), tmp_path / "x.mcap", topic="/2d/image raw")


@pytest.mark.parametrize("topic", ["image", "/a_1/B2", "_x"])
def test_a_topic_that_ros_accepts_is_written(tmp_path: Path, topic: str) -> None:
    assert write_bag(frames(1), tmp_path / "x.mcap", topic=topic) == 1


@pytest.mark.parametrize("name", ["a#b?c%41.db3", "a#b?c%41.mcap", "a#b?c%41"])
def test_odd_names_are_written_as_they_are(tmp_path: Path, name: str) -> None:
    for storage in ("mcap", "sqlite3") if "." not in name else (None,):
        path = tmp_path / "o#d%20d" / f"{storage}" / name
        write_bag(frames(3), path, storage=storage)  # type: ignore[arg-type]
        with ImageBagReader(path) as reader:
            assert len(list(reader)) == 3
        assert [p.name for p in path.parent.iterdir()] == [name]


FULL_DISK = """
import resource, sys
import numpy as np
from stemseg_ros.errors import BagError
from stemseg_ros.media.bags import write_bag
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
noise = np.random.default_rng(0)
frames = ((10**9 + i, noise.integers(0, 255, (100, 100, 3), dtype=np.uint8)) for i in range(200))
try:
    write_bag(frames, sys.argv[1])
except BagError as error:
    print(error)
"""


@pytest.mark.parametrize("name", PATHS)
def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path, name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, tmp_path / name], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"cannot write '{tmp_path / name}': ")
    assert list(tmp_path.iterdir()) == []
