"""Where frames come from: a video, a folder of images, or a ROS 2 bag, all read the same way.

with open_source("drive.mp4") as source:
    for stamp_ns, image in source:
        ...
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol, cast

import av
import av.container
import numpy as np
from PIL import Image as PillowImage
from PIL import ImageOps

from stemseg_ros.errors import MediaError
from stemseg_ros.media.damage import Damage
from stemseg_ros.media.mistaken_files import mistaken_file
from stemseg_ros.records import Image

IMAGE_SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}
)
VIDEO_SUFFIXES = frozenset(
    {
        ".mp4",
        ".m4v",
        ".mov",
        ".mkv",
        ".avi",
        ".webm",
        ".mpg",
        ".mpeg",
        ".ts",
        ".mts",
        ".m2ts",
        ".wmv",
        ".flv",
        ".ogv",
        ".gif",
        ".y4m",
    }
)
BAG_SUFFIXES = (".mcap", ".db3", ".mcap.zstd", ".db3.zstd", ".mcap.zst", ".db3.zst")
"""Of names in small letters."""
ROS1_SUFFIX = ".bag"
"""Of a ROS 1 bag, which the reader of bags refuses with what to do."""
_ESTIMATED = frozenset({"mpegts", "mpeg", "mpegvideo"})
"""Formats that announce no duration; FFmpeg guesses it."""
_LEAST_GAP_S = 0.25
"""Between announced and found end; sound may end a little later than pictures."""
DEFAULT_FPS = 10.0
"""Frame rate where none is recorded, as in image folders."""


class FrameSource(Protocol):
    """Frames in order of time; a context manager that closes its file. Reads one frame at a
    time."""

    @property
    def name(self) -> str:
        """File or folder name without suffix."""

    @property
    def fps(self) -> float | None:
        """Frames per second as recorded; None if unknown."""

    @property
    def frames(self) -> int | None:
        """How many frames the file announces; None if unknown."""

    @property
    def size(self) -> tuple[int, int] | None:
        """(H, W) of the first frame; None if unknown."""

    @property
    def damage(self) -> Damage:
        """What could not be read; complete at the end of an iteration."""

    def __enter__(self) -> FrameSource: ...

    def __exit__(self, *_: object) -> None: ...

    def __iter__(self) -> Iterator[tuple[int, Image]]:
        """Pairs of stamp in nanoseconds and image uint8 (H, W, 3), BGR, of the frames that can be
        read. Raises MediaError."""


def open_source(
    path: str | Path, topic: str | None = None, fps: float | None = None
) -> FrameSource:
    """Open a video, a folder of images (or a pattern, ``folder/*.jpg``) or a ROS 2 bag by what the
    path is.

    topic: image topic of a bag; none takes the only one. fps: frame rate of an image folder
    (default 10) or, for a video, one that replaces the recorded stamps. Raises MediaError if no
    frame can be read.
    """
    path = Path(path)
    _refuse_streams(path)
    if not path.exists() and "*" not in path.name:
        raise MediaError(f"no such file or folder: {path}")
    if is_bag(path):
        if fps is not None:
            raise MediaError(
                f"{path} is a bag, whose frames have stamps already; leave the frame rate out"
            )
        from stemseg_ros.media.image_bag import ImageBagReader  # rosbags is loaded for bags alone

        return ImageBagReader(path, topic)
    if topic is not None:
        raise MediaError(f"{path} is no ROS 2 bag, so it has no topic '{topic}'")
    if path.is_dir() or "*" in path.name:
        return ImageFolder(path, DEFAULT_FPS if fps is None else fps)
    return Video(path, fps)


def numbered_frames(source: FrameSource) -> Iterator[tuple[int, int, Image]]:
    """Yield number in the recording, stamp in ns and BGR image of each frame that can be read."""
    for index, (stamp_ns, image) in enumerate(source):
        yield index + len(source.damage.skipped), stamp_ns, image


def _refuse_streams(path: Path) -> None:
    """Addresses and cameras are no recordings."""
    # A Path makes one slash of two.
    match = re.match(r"([A-Za-z][A-Za-z0-9+.-]+):/+(.*)", str(path))
    if path.is_char_device():
        named, what = str(path), "a device, such as a camera"
    elif match and not path.exists():
        named, what = f"{match[1]}://{match[2]}", "an address"
    else:
        return
    raise MediaError(
        f"{named} is {what}, not a recording: let a camera driver of ROS 2 publish it and "
        "start 'ros2 launch stemseg camera.launch.py image_topic:=TOPIC', or save a part of "
        f"it as a video first, for example with ffmpeg -i '{named}' -t 60 clip.mp4"
    )


def is_bag(path: Path) -> bool:
    """Whether a path is a ROS 2 bag: its folder, a .mcap or a .db3 file."""
    if path.is_dir():
        return (path / "metadata.yaml").is_file() or any(_names_bag(p) for p in path.glob("*"))
    return _names_bag(path)


def _names_bag(path: Path) -> bool:
    return path.name.lower().endswith((*BAG_SUFFIXES, ROS1_SUFFIX))


def _check_rate(fps: float) -> None:
    if not 0 < fps < 1e6:
        raise MediaError(f"the frame rate must be above 0, not {fps:g}")


class Video:
    """A video file, decoded by FFmpeg; rotation that the file asks for is applied.

    The first frame is decoded at once, so that an unreadable file is reported before any other
    work.
    """

    def __init__(self, path: Path, fps: float | None = None) -> None:
        if path.is_dir():
            raise MediaError(f"{path} is a folder, not a video")
        if not path.exists():
            raise MediaError(f"no such file or folder: {path}")
        if path.suffix.lower() not in VIDEO_SUFFIXES:
            raise MediaError(_unknown_type(path))
        if fps is not None:
            _check_rate(fps)
        self.path = path
        self.name = path.stem
        self.damage = Damage()
        self._retimed = fps is not None
        with self._errors_named(), self._open() as container:
            if not container.streams.video:
                raise MediaError(f"{path}: the file has no video stream, or is cut off")
            stream = container.streams.video[0]
            rate = fps or stream.average_rate or stream.guessed_rate
            self._stream_index = stream.index
            self.fps = float(rate) if rate else None
            self.frames = stream.frames or None
        first = next(iter(self), None)
        if first is None:
            why = self.damage.skipped[0].reason if self.damage.skipped else ""
            raise MediaError(why or f"{path}: the video holds no frames")
        self.size = (first[1].shape[0], first[1].shape[1])

    def __enter__(self) -> Video:
        return self

    def __exit__(self, *_: object) -> None:
        pass  # the file is open only while an iteration lasts

    def __iter__(self) -> Iterator[tuple[int, Image]]:
        """All frames from the start; stamps are presentation times in nanoseconds."""
        self.damage.clear()
        count = discarded = 0
        end_s = 0.0
        with self._errors_named(), self._open() as container:
            container.streams.video[0].thread_type = "AUTO"
            for packet in self._packets(container):
                end_s = max(end_s, _end_s(packet))
                if packet.stream.type != "video" or packet.stream.index != self._stream_index:
                    continue
                discarded += packet.is_discard
                for frame in self._decode(packet, count):
                    yield self._stamp_ns(frame, count + len(self.damage.skipped)), _upright(frame)
                    count += 1
            self._compare(container, count + discarded, end_s)

    def _open(self) -> av.container.InputContainer:
        # Without "file:" a colon in a name would be taken for that behind a protocol.
        return av.open(f"file:{self.path}")

    def _packets(self, container: av.container.InputContainer) -> Iterator[av.Packet[Any]]:
        """Durations of all streams: that of the sound reveals a cut recording."""
        try:
            yield from container.demux()
        except av.FFmpegError as error:
            self.damage.lose(f"{self.path}: ends early, the file is damaged: {error.strerror}")

    def _decode(self, packet: av.Packet[Any], count: int) -> list[av.VideoFrame]:
        """The frames that a packet completes; count: of frames so far."""
        try:
            return list(packet.decode())
        except av.FFmpegError as error:
            reason = MediaError(f"{self.path}: not readable as a video: {error.strerror}")
            self.damage.skip(count + len(self.damage.skipped), reason)
            return []

    def _compare(self, container: av.container.InputContainer, count: int, end_s: float) -> None:
        """Note what the file announces and does not hold."""
        if (self.frames or 0) > count + len(self.damage.skipped):
            self.damage.lose(f"{self.path} announces {self.frames} frames, {count} came")
        elif container.duration and container.format.name not in _ESTIMATED:
            announced_s = container.duration / av.time_base
            if announced_s - end_s > max(_LEAST_GAP_S, 3 / (self.fps or DEFAULT_FPS)):
                self.damage.lose(
                    f"{self.path} announces {announced_s:.2f} s, its frames end at {end_s:.2f} s: "
                    "the file is cut off"
                )

    @contextmanager
    def _errors_named(self) -> Iterator[None]:
        try:
            yield
        except (av.FFmpegError, OSError) as error:
            reason = mistaken_file(self.path) or error.strerror or error
            raise MediaError(f"{self.path}: not readable as a video: {reason}") from error

    def _stamp_ns(self, frame: av.VideoFrame, index: int) -> int:
        if self._retimed or frame.pts is None or frame.time_base is None:
            return round(index * 10**9 / Fraction(self.fps or DEFAULT_FPS))
        return round(frame.pts * frame.time_base * 10**9)


def _end_s(packet: av.Packet[Any]) -> float:
    """When what a packet holds ends, seconds; 0 if it does not say."""
    at = packet.dts if packet.pts is None else packet.pts
    if at is None or packet.time_base is None:
        return 0.0
    return float((at + (packet.duration or 0)) * packet.time_base)


def _unknown_type(path: Path) -> str:
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return f"{path} is a single image; give the folder that holds the sequence"
    kinds = ", ".join(sorted(VIDEO_SUFFIXES))
    return (
        f"{path}: unknown type '{path.suffix}'; expected a video ({kinds}), a folder of images, "
        f"or a ROS 2 bag (its folder, .mcap, .db3)"
    )


def _upright(frame: av.VideoFrame) -> Image:
    """The frame as BGR, turned as its display matrix says (phones record lying images)."""
    image = cast("Image", frame.to_ndarray(format="bgr24"))
    turns = round(frame.rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(image, turns)) if turns else image


class ImageFolder:
    """The images of one folder in natural order of their names (2 before 10), at a constant rate.

    The path may end in a pattern (``folder/*.jpg``) that chooses among them.
    """

    def __init__(self, path: Path, fps: float = DEFAULT_FPS) -> None:
        _check_rate(fps)
        folder, pattern = (path.parent, path.name) if "*" in path.name else (path, "*")
        if not folder.is_dir():
            raise MediaError(f"no such folder: {folder}")
        self.paths = sorted((p for p in folder.glob(pattern) if _is_image(p)), key=natural_key)
        if not self.paths:
            raise MediaError(
                f"{folder}: no images in this folder match '{pattern}' "
                f"({', '.join(sorted(IMAGE_SUFFIXES))})"
            )
        _refuse_twins(self.paths)
        self.name = folder.resolve().name
        self.fps = fps
        self.frames = len(self.paths)
        self.damage = Damage()
        first = next(iter(self), None)
        if first is None:
            raise MediaError(self.damage.skipped[0].reason)
        self.size = (first[1].shape[0], first[1].shape[1])

    def __enter__(self) -> ImageFolder:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __iter__(self) -> Iterator[tuple[int, Image]]:
        """All images; stamps are index / fps in nanoseconds."""
        self.damage.clear()
        rate = Fraction(self.fps or DEFAULT_FPS)
        for index, path in enumerate(self.paths):
            try:
                image = read_image(path)
            except MediaError as error:
                self.damage.skip(index, error)
                continue
            yield round(index * 10**9 / rate), image


def _refuse_twins(paths: list[Path]) -> None:
    """Labels often lie beside their images under the same number; they are no frames."""
    for first, second in pairwise(paths):
        if first.stem == second.stem:
            raise MediaError(
                f"{first.parent}: both {first.name} and {second.name}, which are the frames? "
                f"Choose by a pattern such as '{first.parent / '*'}{first.suffix}'"
            )


def _is_image(path: Path) -> bool:
    return (
        path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()
    )


def natural_key(path: Path) -> tuple[list[str | int], str]:
    """Sort key under which runs of digits compare as numbers."""
    parts = re.split(r"([0-9]+)", path.name)
    return [int(part) if i % 2 else part.lower() for i, part in enumerate(parts)], path.name


def read_image(path: str | Path) -> Image:
    """An image file as uint8 (H, W, 3), BGR; 16-bit gray is scaled to 8 bits, transparency
    dropped.

    Raises MediaError, naming the file. Pillow and not OpenCV, which fills the rest of a truncated
    JPEG with gray and says nothing.
    """
    try:
        with PillowImage.open(path) as opened:
            opened.load()
            image = ImageOps.exif_transpose(opened)
            if image.mode.startswith("I"):
                gray = (np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)
                return np.repeat(gray[..., None], 3, axis=2)
            rgb: Image = np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, PillowImage.DecompressionBombError) as error:
        reason = mistaken_file(path) or error
        raise MediaError(f"{path}: not readable as an image: {reason}") from error
    return np.ascontiguousarray(rgb[..., ::-1])
