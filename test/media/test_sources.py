"""Videos and image folders in; every unreadable one is named."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from pathlib import Path

import av
import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stemseg_ros.errors import MediaError
from stemseg_ros.media.damage import Damage
from stemseg_ros.media.overlay import VideoWriter
from stemseg_ros.media.sources import (
    ImageFolder,
    Video,
    natural_key,
    numbered_frames,
    open_source,
    read_image,
)

Image = npt.NDArray[np.uint8]


def gray(value: int, height: int = 32, width: int = 48) -> Image:
    return np.full((height, width, 3), value, np.uint8)


def write_video(path: Path, images: list[Image], fps: float = 25) -> Path:
    with VideoWriter(path, fps) as writer:
        for image in images:
            writer.write(image)
    return path


def write_folder(path: Path, names: list[str]) -> Path:
    path.mkdir(exist_ok=True)
    for i, name in enumerate(names):
        cv2.imwrite(str(path / name), gray(10 * i))
    return path


def test_video_frames_and_stamps(tmp_path: Path) -> None:
    path = write_video(tmp_path / "drive.mp4", [gray(v) for v in (20, 90, 160, 230)])
    with open_source(path) as source:
        assert isinstance(source, Video)
        assert (source.name, source.fps, source.frames, source.size) == (
            "drive",
            25.0,
            4,
            (32, 48),
        )
        frames = list(source)
    assert [stamp for stamp, _ in frames] == [0, 40_000_000, 80_000_000, 120_000_000]
    assert [round(image.mean() / 10) for _, image in frames] == [2, 9, 16, 23]
    assert len(list(source)) == 4, "a source can be read again"


def test_given_frame_rate_replaces_the_stamps_of_a_video(tmp_path: Path) -> None:
    path = write_video(tmp_path / "drive.mp4", [gray(20), gray(90)])
    source = open_source(path, fps=4)
    assert source.fps == 4
    assert [stamp for stamp, _ in source] == [0, 250_000_000]


def test_colours_of_a_video_are_bgr(tmp_path: Path) -> None:
    blue = np.zeros((32, 48, 3), np.uint8)
    blue[..., 0] = 200
    ((_, image),) = open_source(write_video(tmp_path / "blue.mp4", [blue]))
    assert image[..., 0].mean() > 180 and image[..., 2].mean() < 20


def test_rotation_that_a_phone_records_is_applied(tmp_path: Path) -> None:
    image = gray(0)
    image[:, :12] = 255  # white at the left
    path = write_video(tmp_path / "phone.mp4", [image] * 2)
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 4 + 40  # 90 degrees clockwise, 16.16 fixed point
    struct.pack_into(">9i", data, matrix, 0, 1 << 16, 0, -1 << 16, 0, 0, 32 << 16, 0, 1 << 30)
    path.write_bytes(data)
    source = open_source(path)
    assert source.size == (48, 32)
    turned = next(iter(source))[1]
    assert turned[:10].mean() > 200 and turned[16:].mean() < 20, "left comes to lie at the top"


def test_folder_in_natural_order_at_the_given_rate(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "seq", ["f10.png", "f2.png", "f1.jpg", "F3.PNG"])
    (folder / "notes.txt").write_text("no image")
    (folder / "._f1.jpg").write_bytes(b"no image either")
    with open_source(folder, fps=20) as source:
        assert isinstance(source, ImageFolder)
        assert (source.name, source.fps, source.frames, source.size) == ("seq", 20, 4, (32, 48))
        assert [path.name for path in source.paths] == ["f1.jpg", "f2.png", "F3.PNG", "f10.png"]
        assert [stamp for stamp, _ in source] == [0, 50_000_000, 100_000_000, 150_000_000]


def test_pattern_chooses_images_of_a_folder(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "seq", ["0.png", "0.jpg", "1.png", "1.jpg"])
    assert [image.mean() for _, image in open_source(folder / "*.png")] == [0, 20]


def test_images_of_mixed_size_are_passed_on(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "seq", ["0.png"])
    cv2.imwrite(str(folder / "1.png"), gray(5, 20, 30))
    assert [image.shape for _, image in open_source(folder)] == [(32, 48, 3), (20, 30, 3)]


@given(st.lists(st.integers(0, 10**6), min_size=1, unique=True))
def test_natural_order_is_numeric(numbers: list[int]) -> None:
    paths = sorted((Path(f"frame_{n}.png") for n in numbers), key=natural_key)
    assert paths == [Path(f"frame_{n}.png") for n in sorted(numbers)]


@given(st.lists(st.text("ab1_.-", min_size=1, max_size=6), min_size=1))
def test_any_names_can_be_ordered(names: list[str]) -> None:
    assert sorted(
        sorted(map(Path, names), key=natural_key, reverse=True), key=natural_key
    ) == sorted(map(Path, names), key=natural_key)


COLOR = np.random.default_rng(0).integers(0, 256, (8, 6, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    "stored, expected",
    [
        (COLOR, COLOR),
        (np.dstack([COLOR, COLOR[..., :1]]), COLOR),
        (COLOR[..., 0], np.repeat(COLOR[..., :1], 3, axis=2)),
        (COLOR[..., 0].astype(np.uint16) * 256 + 255, np.repeat(COLOR[..., :1], 3, axis=2)),
    ],
    ids=["colour", "with alpha", "gray", "16-bit gray"],
)
def test_png_of_any_kind_becomes_bgr(
    tmp_path: Path, stored: npt.NDArray[np.generic], expected: Image
) -> None:
    cv2.imwrite(str(tmp_path / "i.png"), stored)
    image = read_image(tmp_path / "i.png")
    assert image.dtype == np.uint8 and np.array_equal(image, expected)


def missing(tmp_path: Path) -> Path:
    return tmp_path / "nowhere.mp4"


def text_named_video(tmp_path: Path) -> Path:
    (tmp_path / "bad.mp4").write_text("this is no video")
    return tmp_path / "bad.mp4"


def empty_video(tmp_path: Path) -> Path:
    (tmp_path / "bad.mp4").touch()
    return tmp_path / "bad.mp4"


def video_without_index(tmp_path: Path) -> Path:
    path = write_video(tmp_path / "bad.mp4", [gray(20)] * 3)
    path.write_bytes(path.read_bytes()[:200])
    return path


def video_without_frames(tmp_path: Path) -> Path:
    path = write_video(tmp_path / "bad.mp4", [gray(20)] * 3)
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"mdat") + 4])
    return path


def sound_only(tmp_path: Path) -> Path:
    with av.open(str(tmp_path / "bad.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(
            np.zeros((1, 1024), np.float32), format="fltp", layout="mono"
        )
        frame.sample_rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return tmp_path / "bad.mp4"


def folder_without_images(tmp_path: Path) -> Path:
    (tmp_path / "notes.txt").write_text("nothing")
    return tmp_path


def truncated_image(suffix: str) -> Callable[[Path], Path]:
    def write(tmp_path: Path) -> Path:
        noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        data = cv2.imencode(suffix, noise)[1].tobytes()
        (tmp_path / f"0{suffix}").write_bytes(data[: len(data) // 2])
        return tmp_path

    return write


def labels_beside_images(tmp_path: Path) -> Path:
    return write_folder(tmp_path, ["0.jpg", "0.png"])


def single_image(tmp_path: Path) -> Path:
    return write_folder(tmp_path, ["0.png"]) / "0.png"


def unknown_type(tmp_path: Path) -> Path:
    (tmp_path / "data.xyz").write_text("?")
    return tmp_path / "data.xyz"


@pytest.mark.parametrize(
    "make, words",
    [
        (missing, "no such file or folder: .*nowhere.mp4"),
        (text_named_video, "bad.mp4: not readable as a video"),
        (empty_video, "bad.mp4: not readable as a video"),
        (video_without_index, r"bad.mp4: the file has no video stream, or is cut off"),
        (video_without_frames, "bad.mp4: (the video holds no frames|not readable as a video)"),
        (sound_only, "bad.mp4: the file has no video stream"),
        (folder_without_images, "no images in this folder match '\\*'"),
        (truncated_image(".jpg"), "0.jpg: not readable as an image"),
        (truncated_image(".png"), "0.png: not readable as an image"),
        (labels_beside_images, r"both 0.jpg and 0.png.*pattern such as '.*\*.jpg'"),
        (single_image, "0.png is a single image; give the folder"),
        (unknown_type, "data.xyz: unknown type '.xyz'; expected a video"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_unreadable_input_is_named(
    tmp_path: Path, make: Callable[[Path], Path], words: str
) -> None:
    with pytest.raises(MediaError, match=words), open_source(make(tmp_path)) as source:
        list(source)


def folder_with_a_bad_image(folder: Path, bad: int) -> Path:
    write_folder(folder, ["0.png", "1.png", "2.png"])
    file = folder / f"{bad}.png"
    file.write_bytes(file.read_bytes()[:40])
    return folder


def video_with_bad_frames(path: Path, bad: tuple[int, ...], share: float = 1) -> Path:
    """Motion JPEG, twelve frames of noise; the bad ones are overwritten."""
    rng = np.random.default_rng(0)
    sizes = []
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=10)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuvj420p"
        for _ in range(12):
            image = rng.integers(0, 256, (32, 48, 3), dtype=np.uint8)
            for packet in stream.encode(av.VideoFrame.from_ndarray(image, format="bgr24")):
                sizes.append(bytes(packet))
                container.mux(packet)
        container.mux(stream.encode(None))
    data = path.read_bytes()
    for index in bad:
        data = data.replace(sizes[index], bytes(len(sizes[index])))
    path.write_bytes(data[: int(len(data) * share)])
    return path


@pytest.mark.parametrize("bad", [0, 1, 2])
def test_a_bad_image_is_skipped_and_the_others_keep_their_stamps(tmp_path: Path, bad: int) -> None:
    source = open_source(folder_with_a_bad_image(tmp_path / "seq", bad))
    for _ in range(2):  # a source can be read again
        stamps = [stamp for stamp, _ in source]
        assert stamps == [100_000_000 * i for i in range(3) if i != bad]
        assert [item.frame for item in source.damage.skipped] == [bad]
        assert f"{bad}.png: not readable" in source.damage.skipped[0].reason


@pytest.mark.parametrize("bad", [(0,), (5,), (3, 4, 11)])
@pytest.mark.parametrize("suffix", [".avi", ".mkv"])
def test_bad_frames_of_a_video_are_skipped(
    tmp_path: Path, suffix: str, bad: tuple[int, ...]
) -> None:
    source = open_source(video_with_bad_frames(tmp_path / f"x{suffix}", bad))
    stamps = [stamp for stamp, _ in source]
    assert stamps == [100_000_000 * i for i in range(12) if i not in bad]
    assert len(source.damage.skipped) == len(bad)
    assert source.damage.losses == []


@pytest.mark.parametrize(
    "suffix, words", [(".avi", "announces 12 frames"), (".mkv", r"announces 1\.20 s")]
)
def test_a_cut_video_yields_its_frames_and_a_report(
    tmp_path: Path, suffix: str, words: str
) -> None:
    source = open_source(video_with_bad_frames(tmp_path / f"x{suffix}", (), share=0.5))
    assert 2 <= len(list(source)) < 9
    assert re.search(words, "".join(source.damage.losses))


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi", ".webm"])
def test_a_whole_video_has_no_losses(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x{suffix}"
    codec = "libvpx" if suffix == ".webm" else "libx264"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        for value in range(9):
            frame = av.VideoFrame.from_ndarray(gray(20 * value), format="bgr24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    source = open_source(path)
    assert len(list(source)) == 9
    assert not source.damage


@pytest.mark.parametrize(
    "make",
    [lambda d: folder_with_a_bad_image(d, 1), lambda d: video_with_bad_frames(d / "x.avi", (1,))],
)
def test_frames_keep_their_numbers_behind_a_bad_one(
    tmp_path: Path, make: Callable[[Path], Path]
) -> None:
    source = open_source(make(tmp_path))
    found = [(number, stamp) for number, stamp, _ in numbered_frames(source)]
    assert [number for number, _ in found] == [0, *range(2, len(found) + 1)]
    assert all(stamp == 100_000_000 * number for number, stamp in found)


def test_many_bad_frames_are_few_lines() -> None:
    damage = Damage()
    for number in range(30):
        damage.skip(number, MediaError("bad"))
    assert len(damage.lines()) == 11
    assert damage.lines()[-1] == "20 more frames are skipped"


def test_names_may_hold_colons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    name = Path("2024-01-01T12:30:05.mp4")
    write_video(name, [gray(20)] * 3)
    assert len(list(open_source(name))) == 3


@pytest.mark.parametrize(
    "address", ["rtsp://camera/stream", "http://a.example/x.mp4", "/dev/zero"]
)
def test_streams_say_what_to_do(address: str) -> None:
    with pytest.raises(MediaError, match=r"not a recording: .*ros2 launch stemseg camera"):
        open_source(address)


def test_options_that_do_not_apply_are_refused(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "seq", ["0.png"])
    with pytest.raises(MediaError, match="is no ROS 2 bag, so it has no topic '/image'"):
        open_source(folder, topic="/image")
    with pytest.raises(MediaError, match="frame rate must be above 0, not 0"):
        open_source(folder, fps=0)
    (tmp_path / "bag.mcap").touch()
    with pytest.raises(MediaError, match="is a bag, whose frames have stamps already"):
        open_source(tmp_path / "bag.mcap", fps=10)
