"""Pixels of image messages: sensor_msgs/Image and CompressedImage as BGR arrays.

Works on anything with the fields of these messages, be it from rclpy or from a bag, and needs no
ROS.
"""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from stemseg_ros.errors import MediaError

SHOWN_CHARACTERS = 40
"""Of a text that came with a message; the rest could fill a log."""

Fault = Literal["stamp", "limit", "encoding", "size", "step", "length", "format", "content"]
"""What is wrong with an image message: its time stamp; more pixels or bytes than are accepted; an
unknown encoding; no pixels, or a number of them that the encoding cannot have; rows shorter than
their pixels; more or less data than the header says; no header of a known file format; a file or
pixels that cannot be decoded."""


class ImageMessageError(MediaError):
    """An image message cannot be read. ``fault`` is the kind of the reason, the text the reason
    itself."""

    def __init__(self, fault: Fault, text: str) -> None:
        super().__init__(text)
        self.fault = fault


@dataclass(frozen=True, slots=True)
class _File:
    """A format of compressed images."""

    name: str
    start: bytes
    ends: Callable[[bytes], bool]
    """Whether a file is complete; anything may follow its end, such as the rest of a camera's
    buffer."""
    reader: type[ImageFile]
    """Reads the header."""


_JPEG_MARKER = re.compile(rb"\xff+[^\x00\xff\xd0-\xd7]")
"""Any but a byte 0xff of the pixels, which 0 follows, and the restart markers among them."""
_JPEG_END, _JPEG_WITHOUT_LENGTH = 0xD9, (0x01, 0xD8)


def _jpeg_ends(data: bytes) -> bool:
    """Walks from marker to marker: a search for the end would find that of a thumbnail too."""
    at = 2
    while found := _JPEG_MARKER.search(data, at):
        marker, at = data[found.end() - 1], found.end()
        if marker == _JPEG_END:
            return True
        if marker not in _JPEG_WITHOUT_LENGTH:
            at += int.from_bytes(data[at : at + 2], "big")
    return False


def _png_ends(data: bytes) -> bool:
    at = 8
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        if kind == b"IEND":
            return True
        at += 12 + length
    return False


_FILES = (
    _File("JPEG", b"\xff\xd8", _jpeg_ends, JpegImageFile),
    _File("PNG", b"\x89PNG\r\n\x1a\n", _png_ends, PngImageFile),
)
"""Formats that cameras and image_transport publish. Others are refused: every decoder of untrusted
files adds attack surface."""


@dataclass(frozen=True, slots=True)
class _Encoding:
    """Layout of the bytes of a raw image."""

    channels: int
    to_bgr: int | None
    """OpenCV colour conversion; none where the pixels are BGR already."""
    dtype: type[np.uint8] | type[np.uint16] = np.uint8
    block: tuple[int, int] = (1, 1)
    """(rows, columns) of the pixels that share their colour."""
    rows: Fraction = Fraction(1)
    """Rows of data per row of pixels: more than one where the colours follow the brightness of
    the whole image."""

    @property
    def pixel_bytes(self) -> int:
        return self.channels * np.dtype(self.dtype).itemsize


# ROS names a Bayer pattern after its first row, as OpenCV's *RGGB2BGR names do.
_BAYER = {
    "rggb": cv2.COLOR_BayerRGGB2BGR,
    "bggr": cv2.COLOR_BayerBGGR2BGR,
    "gbrg": cv2.COLOR_BayerGBRG2BGR,
    "grbg": cv2.COLOR_BayerGRBG2BGR,
}
_ENCODINGS = {
    "bgr8": _Encoding(3, None),
    "rgb8": _Encoding(3, cv2.COLOR_RGB2BGR),
    "bgra8": _Encoding(4, cv2.COLOR_BGRA2BGR),
    "rgba8": _Encoding(4, cv2.COLOR_RGBA2BGR),
    "mono8": _Encoding(1, cv2.COLOR_GRAY2BGR),
    "8UC1": _Encoding(1, cv2.COLOR_GRAY2BGR),
    "8UC3": _Encoding(3, None),
    "8UC4": _Encoding(4, cv2.COLOR_BGRA2BGR),
    "mono16": _Encoding(1, cv2.COLOR_GRAY2BGR, np.uint16),
    "16UC1": _Encoding(1, cv2.COLOR_GRAY2BGR, np.uint16),
    "bgr16": _Encoding(3, None, np.uint16),
    "rgb16": _Encoding(3, cv2.COLOR_RGB2BGR, np.uint16),
    "bgra16": _Encoding(4, cv2.COLOR_BGRA2BGR, np.uint16),
    "rgba16": _Encoding(4, cv2.COLOR_RGBA2BGR, np.uint16),
    **{f"bayer_{pattern}8": _Encoding(1, code) for pattern, code in _BAYER.items()},
    **{f"bayer_{pattern}16": _Encoding(1, code, np.uint16) for pattern, code in _BAYER.items()},
    "yuv422": _Encoding(2, cv2.COLOR_YUV2BGR_UYVY, block=(1, 2)),
    "uyvy": _Encoding(2, cv2.COLOR_YUV2BGR_UYVY, block=(1, 2)),
    "yuv422_yuy2": _Encoding(2, cv2.COLOR_YUV2BGR_YUYV, block=(1, 2)),
    "yuyv": _Encoding(2, cv2.COLOR_YUV2BGR_YUYV, block=(1, 2)),
    "nv12": _Encoding(1, cv2.COLOR_YUV2BGR_NV12, block=(2, 2), rows=Fraction(3, 2)),
    "nv21": _Encoding(1, cv2.COLOR_YUV2BGR_NV21, block=(2, 2), rows=Fraction(3, 2)),
    "nv24": _Encoding(1, None, rows=Fraction(3)),
}
_LABEL_ENCODINGS = ("mono8", "8UC1", "mono16", "16UC1")
_COMPRESSED_WORDS = ("compressed", "jpeg", "jpg", "png")
_VIDEO_WORDS = ("h264", "h265", "hevc", "av1", "vp8", "vp9", "theora")
# Y, U, V, 1 to B, G, R, BT.601 in studio range as OpenCV has it for the other encodings.
_NV24_TO_BGR = np.array(
    [
        [1.164, 2.018, 0.0, -1.164 * 16 - 2.018 * 128],
        [1.164, -0.391, -0.813, -1.164 * 16 + (0.391 + 0.813) * 128],
        [1.164, 0.0, 1.596, -1.164 * 16 - 1.596 * 128],
    ]
)


def stamp_ns(message: Any) -> int:
    """Header stamp of a message in nanoseconds."""
    stamp = message.header.stamp
    return int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)


def image_size(message: Any) -> tuple[int, int]:
    """(width, height) that a message, or the header of its compressed file, declares; nothing is
    decoded. Raises ImageMessageError where a compressed message holds no known file."""
    if not hasattr(message, "format"):
        return int(message.width), int(message.height)
    if not len(message.data):
        raise ImageMessageError("length", f"compressed image ({_shown(message.format)}), no data")
    _refuse_format(str(message.format))
    try:
        data = bytes(memoryview(message.data))
        with _file(data).reader(io.BytesIO(data)) as file:
            return file.size
    except Exception as error:  # of any kind: the readers of Pillow promise none for broken files
        raise ImageMessageError(
            "format",
            f"compressed image ({_shown(message.format)}, {len(message.data)} bytes) has no "
            "readable header of JPEG or PNG",
        ) from error


def _refuse_format(text: str) -> None:
    """Formats of CompressedImage that hold no image of their own."""
    words = text.lower()
    if "compresseddepth" in words:
        what = "a depth image of compressed_depth_image_transport: choose the topic of the colours"
    elif any(word in words for word in _VIDEO_WORDS):
        what = "a packet of a video: republish the topic as raw or as JPEG (image_transport)"
    else:
        return
    raise ImageMessageError("format", f"compressed image ({_shown(text)}) is {what}")


def check_layout(message: Any) -> None:
    """Raise ImageMessageError unless encoding, size, step and length of a raw image
    (sensor_msgs/Image) fit each other. Reads no pixels."""
    _layout(message)


def bgr_from_message(message: Any) -> npt.NDArray[np.uint8]:
    """Pixels of a sensor_msgs/Image or sensor_msgs/CompressedImage.

    Returns uint8 (H, W, 3), BGR, contiguous, a copy of its own. 16-bit images are scaled to
    0..255. Raises ImageMessageError, which names the fault.
    """
    if hasattr(message, "format"):
        return _decompress(message)
    return _convert(message)


def labels_from_message(message: Any) -> npt.NDArray[np.uint16]:
    """Values of a sensor_msgs/Image of one channel (mono8, 8UC1, mono16, 16UC1).

    Returns uint16 (H, W), a copy of its own. Raises ImageMessageError that says what is wrong with
    the message.
    """
    if message.encoding not in _LABEL_ENCODINGS:
        raise ImageMessageError(
            "encoding",
            f"encoding {_shown(message.encoding)} holds no labels; one of "
            f"{', '.join(_LABEL_ENCODINGS)} is needed",
        )
    encoding, step = _layout(message)
    return _pixels(message, encoding, step)[..., 0].astype(np.uint16)


def _file(data: bytes) -> _File:
    """The format of a file by its first bytes. Raises StopIteration for an unknown one."""
    return next(file for file in _FILES if data.startswith(file.start))


def _decompress(message: Any) -> npt.NDArray[np.uint8]:
    width, height = image_size(message)
    encoded = np.frombuffer(message.data, np.uint8)
    file = _file(encoded[:8].tobytes())
    # OpenCV silently fills the missing part of a truncated JPEG with grey.
    if not file.ends(encoded.tobytes()):
        raise ImageMessageError(
            "length", f"truncated {file.name} image ({encoded.size} bytes without end marker)"
        )
    try:
        image = cv2.imdecode(encoded, cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise ImageMessageError("content", f"compressed image: {error.err}") from error
    if image is None:
        raise ImageMessageError(
            "content",
            f"compressed image ({_shown(message.format)}, {encoded.size} bytes) is not decodable",
        )
    # Turned by 90 degrees where the file says so (EXIF).
    if image.shape[:2] not in ((height, width), (width, height)):
        raise ImageMessageError(
            "content",
            f"compressed image of {width}x{height} pixels by its header, but "
            f"{image.shape[1]}x{image.shape[0]} when decoded",
        )
    return np.asarray(image, np.uint8)


def _convert(message: Any) -> npt.NDArray[np.uint8]:
    encoding, step = _layout(message)
    if encoding.rows == 3:
        return _from_nv24(message, step)
    pixels = _pixels(message, encoding, step)
    if encoding.to_bgr is None:
        image = pixels.copy()
    else:
        try:
            image = cv2.cvtColor(pixels, encoding.to_bgr)
        except cv2.error as error:
            size = f"{message.width}x{message.height}"
            raise ImageMessageError(
                "content", f"{size} image of encoding '{message.encoding}': {error.err}"
            ) from error
    if encoding.dtype is np.uint16:
        image = cv2.convertScaleAbs(image, alpha=255 / 65535)
    return np.asarray(image, np.uint8)


def _layout(message: Any) -> tuple[_Encoding, int]:
    """How the data of a raw image is read, and the bytes from row to row; see check_layout."""
    encoding = _ENCODINGS.get(message.encoding)
    if encoding is None:
        known = ", ".join(sorted(_ENCODINGS))
        what = "is not supported"
        if any(word in message.encoding.lower() for word in _COMPRESSED_WORDS):
            what = "is the format of a CompressedImage, but this is a message of type Image"
        raise ImageMessageError(
            "encoding", f"image encoding {_shown(message.encoding)} {what}; supported: {known}"
        )
    height, width = int(message.height), int(message.width)
    if height <= 0 or width <= 0:
        raise ImageMessageError("size", f"image without pixels ({width}x{height})")
    if height % encoding.block[0] or width % encoding.block[1]:
        sides = "width and height have" if encoding.block[0] > 1 else "the width has"
        raise ImageMessageError(
            "size",
            f"{width}x{height} image of encoding '{message.encoding}', in which neighbours share "
            f"their colour: {sides} to be even",
        )
    row_bytes = width * encoding.pixel_bytes
    step = int(message.step) or row_bytes
    if encoding.rows > 1 and len(message.data) == height * row_bytes * encoding.rows:
        step = row_bytes  # drivers disagree on what a row of these is; without padding it is clear
    if step < row_bytes:
        raise ImageMessageError(
            "step",
            f"step of {step} bytes is less than a row of {width} pixels '{message.encoding}' "
            f"({row_bytes} bytes)",
        )
    needed = int(height * step * encoding.rows)
    if len(message.data) != needed:
        short = len(message.data) < needed
        raise ImageMessageError(
            "length",
            f"{'truncated image' if short else 'more data than image'}: {len(message.data)} "
            f"bytes, but {width}x{height} '{message.encoding}' with a step of {step} needs "
            f"{needed}",
        )
    return encoding, step


def _pixels(message: Any, encoding: _Encoding, step: int) -> npt.NDArray[Any]:
    """The pixels as they were sent, (H, W, channels), without the padding of the rows; H is that
    of the rows of data."""
    dtype = np.dtype(encoding.dtype)
    data = np.frombuffer(message.data, np.uint8).reshape(-1, step)
    rows = np.ascontiguousarray(data[:, : message.width * encoding.pixel_bytes])
    if dtype.itemsize > 1 and message.is_bigendian:
        rows = rows.view(dtype.newbyteorder(">")).astype(dtype)
    return rows.view(dtype).reshape(-1, message.width, encoding.channels)


def _from_nv24(message: Any, step: int) -> npt.NDArray[np.uint8]:
    """Brightness of all pixels, then U and V of each, in rows of twice the length."""
    height, width = int(message.height), int(message.width)
    data = np.frombuffer(message.data, np.uint8)
    luma = data[: height * step].reshape(height, step)[:, :width]
    chroma = data[height * step :].reshape(height, 2 * step)[:, : 2 * width]
    yuv = np.dstack([luma, chroma.reshape(height, width, 2)])
    return np.asarray(cv2.transform(yuv, _NV24_TO_BGR), np.uint8)


def _shown(text: str) -> str:
    """A text from a message for a log line: quoted, escaped, shortened."""
    return repr(text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}...")
