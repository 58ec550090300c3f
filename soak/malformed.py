"""Malformed image messages, drawn by hypothesis: what a node may meet on its image topic.

Messages of ``raw`` and ``compressed`` have a fault for certain, those of ``anything`` maybe.
"""

from __future__ import annotations

import struct
import zlib
from array import array
from collections.abc import Callable
from typing import Any, TypeAlias, cast

import cv2
import numpy as np
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from rclpy.serialization import serialize_message
from sensor_msgs.msg import CompressedImage, Image

from stemseg_ros.ros.input.image_messages import ImageMessageError, bgr_image
from stemseg_ros.ros.settings import NodeConfig

LIMITS = NodeConfig(max_pixels=25_000, max_message_bytes=80_000)
"""Small, so that what passes them by little is cheap to make."""
TALL = LIMITS.max_pixels // 100 + 1
"""Height of an image 100 pixels wide that passes the limit."""
ROOM = 16_000
"""Bytes of damaged data that stay below the limit."""
PIXEL_BYTES = {"bgr8": 3, "rgba8": 4, "mono8": 1, "mono16": 2, "bgr16": 6, "yuv422": 2} | {
    f"bayer_{pattern}{bits}": bits // 8 for pattern in ("rggb", "grbg") for bits in (8, 16)
}
"""Encodings that are drawn, with the bytes of a pixel."""
UINT32 = st.integers(0, 2**32 - 1)
STAMP_LIMIT = 1_000_000_000
Case: TypeAlias = "Image | CompressedImage"
LONGEST_REASON = 700
"""Characters; a reason is one line of a log."""


def good_raw(draw: Callable[..., Any]) -> Image:
    """A picture of random content, size, encoding and padding."""
    encoding = draw(st.sampled_from(sorted(PIXEL_BYTES)))
    height, width = draw(st.integers(1, 12)), 2 * draw(st.integers(1, 6))
    step = width * PIXEL_BYTES[encoding] + draw(st.integers(0, 5))
    data = np.random.default_rng(draw(st.integers(0, 99))).bytes(height * step)
    message = Image(height=height, width=width, encoding=encoding, step=step)
    message.is_bigendian = draw(st.integers(0, 255))
    message.data = array("B", data)
    message.header.frame_id = draw(st.text(max_size=9))
    message.header.stamp.sec = draw(st.integers(0, 2**31 - 1))
    message.header.stamp.nanosec = draw(st.integers(0, STAMP_LIMIT - 1))
    return message


def _bad_stamp(message: Case, draw: Callable[..., Any]) -> None:
    if draw(st.booleans()):
        message.header.stamp.sec = draw(st.integers(-(2**31), -1))
    else:
        message.header.stamp.nanosec = draw(st.integers(STAMP_LIMIT, 2**32 - 1))


def _bad_encoding(message: Image, draw: Callable[..., Any]) -> None:
    names = (
        "",
        "BGR8",
        "bgr8 ",
        "32FC1",
        "64FC3",
        "16SC1",
        "nv12",
        "jpeg",
        "bayer_rggb12",
        "8UC9",
    )
    known = st.text(max_size=200).filter(lambda name: not name.isascii() or len(name) > 20)
    message.encoding = draw(st.sampled_from(names) | known)


def _bad_width(message: Image, draw: Callable[..., Any]) -> None:
    fits = message.step // PIXEL_BYTES[message.encoding]
    message.width = draw(st.sampled_from((0, fits + 1, 2**31, 2**32 - 1)) | UINT32)
    if 0 < message.width <= fits:
        message.width = fits + 1 + message.width


def _bad_height(message: Image, draw: Callable[..., Any]) -> None:
    # 2**32 / step rows: their product passes 32 bits and would be small there.
    wrapped = min(2**32 // message.step + 1, 2**32 - 1)
    height = draw(st.sampled_from((0, message.height + 1, wrapped, 2**32 - 1)) | UINT32)
    message.height = height if height != message.height else 0


def _bad_step(message: Image, draw: Callable[..., Any]) -> None:
    step = draw(st.sampled_from((1, 2**31, 2**32 - 1)) | UINT32.filter(bool))
    message.step = step if step != message.step else step + 1


def _bad_length(message: Image, draw: Callable[..., Any]) -> None:
    size = len(message.data)
    length = draw(st.sampled_from((0, size - 1, size + 1, 2 * size)) | st.integers(0, ROOM))
    length = length if length != size else size - 1
    message.data = array("B", (message.data.tobytes() * (length // size + 1))[:length])


def _too_large(message: Image, draw: Callable[..., Any]) -> None:
    """A sound picture, only beyond the limits: of pixels, or by its padding of bytes."""
    wide = draw(st.booleans())
    message.encoding, message.height, message.width = "mono8", 1 if wide else TALL, 100
    message.step = LIMITS.max_message_bytes + 1 if wide else 100
    message.data = array("B", bytes(message.height * message.step))


RAW_FAULTS: tuple[Callable[[Image, Callable[..., Any]], None], ...] = (
    _bad_stamp,
    _bad_encoding,
    _bad_width,
    _bad_height,
    _bad_step,
    _bad_length,
    _too_large,
)


@st.composite
def raw(draw: Callable[..., Any]) -> Image:
    """A sensor_msgs/Image with one fault."""
    message = good_raw(draw)
    draw(st.sampled_from(RAW_FAULTS))(message, draw)
    return message


def _encoded(suffix: str, size: tuple[int, int] = (24, 40)) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    return cv2.imencode(suffix, noise)[1].tobytes()


def _png_of(width: int, height: int) -> bytes:
    """The first chunks of a PNG file that claims a size."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = b"IDAT" + zlib.compress(bytes(100))
    chunks = (
        struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c))
        for c in (header, body)
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def _jpeg_of(width: int, height: int) -> bytes:
    """A JPEG file whose header claims another size."""
    data = bytearray(JPEG)
    start = data.index(b"\xff\xc0") + 5
    data[start : start + 4] = struct.pack(">HH", height, width)
    return bytes(data)


def _turned_over(file: bytes, place: int) -> bytes:
    """With one wrong bit, which the check sums of a PNG file tell."""
    return file[:place] + bytes([file[place] ^ 1]) + file[place + 1 :]


JPEG, PNG, BMP, WEBP = (_encoded(suffix) for suffix in (".jpg", ".png", ".bmp", ".webp"))
BOMB = cv2.imencode(".png", np.zeros((TALL, 100, 3), np.uint8))[1].tobytes()
"""Few bytes, too many pixels."""


@st.composite
def compressed(draw: Callable[..., Any]) -> CompressedImage:
    """A sensor_msgs/CompressedImage with one fault."""
    side = st.integers(TALL, 2**16 - 1)
    data = draw(
        st.one_of(
            st.binary(max_size=200).filter(lambda data: data[:2] != b"\xff\xd8"),
            st.binary(max_size=400).map(lambda data: b"\xff\xd8\xff" + data),
            st.binary(max_size=400).map(lambda data: b"\x89PNG\r\n\x1a\n" + data),
            st.binary(max_size=99).map(lambda data: b"II*\x00" + data),  # TIFF
            st.integers(0, len(JPEG) - 2).map(lambda length: JPEG[:length]),
            st.integers(0, len(PNG) - 9).map(lambda length: PNG[:length]),
            st.integers(41, len(PNG) - 17).map(lambda place: _turned_over(PNG, place)),
            st.tuples(side, side).map(lambda size: _png_of(*size)),
            st.tuples(side, side).map(lambda size: _jpeg_of(*size)),
            st.sampled_from((BMP, WEBP, BOMB, _png_of(2**31 - 1, 2**31 - 1), _png_of(0, 5))),
            st.just(JPEG + bytes(LIMITS.max_message_bytes)),
        )
    )
    message = CompressedImage(format=draw(st.sampled_from(("jpeg", "png", "")) | st.text()))
    message.data = array("B", data)
    if draw(st.integers(0, 9)) == 0:
        message.data = array("B", JPEG)
        _bad_stamp(message, draw)
    return message


@st.composite
def anything(draw: Callable[..., Any]) -> Case:
    """Random fields that fit each other by chance alone, or bits of a good file turned over."""
    if draw(st.booleans()):
        data = bytearray(draw(st.sampled_from((JPEG, PNG))))
        for _ in range(draw(st.integers(1, 8))):
            data[draw(st.integers(0, len(data) - 1))] ^= 1 << draw(st.integers(0, 7))
        return CompressedImage(format="jpeg", data=array("B", bytes(data)))
    message = good_raw(draw)
    small = st.integers(0, 40)
    message.height, message.width, message.step = (
        draw(small | UINT32) if draw(st.booleans()) else value
        for value in (message.height, message.width, message.step)
    )
    message.encoding = draw(st.sampled_from(sorted(PIXEL_BYTES)))
    if draw(st.booleans()):
        message.data = array("B", draw(st.binary(max_size=500)))
    return message


@st.composite
def garbled(draw: Callable[..., Any]) -> bytes:
    """The bytes of a message on the wire, damaged so that the middleware cannot read it.

    Not empty: of a sample without a single byte Fast DDS never tells its writer that it has come,
    so that the (faulty) publisher waits for ever; other publishers are not concerned.
    """
    data = bytes(serialize_message(good_raw(draw)))
    cut = draw(st.integers(1, 40))  # within header and sizes
    huge = b"\xff\xff\xff\xff"  # length of the text frame_id
    damaged = (data[:cut], data[:12] + huge + data[16:], data[:4] + huge)
    return cast(bytes, draw(st.sampled_from(damaged)))


def refused(message: Case) -> ImageMessageError | None:
    """Why the node refuses a message; None where it is a picture. Whatever else is raised is a
    crash."""
    try:
        image = bgr_image(message, LIMITS)
    except ImageMessageError as error:
        return error
    assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3, image.shape
    assert 0 < image.shape[0] * image.shape[1] <= LIMITS.max_pixels, image.shape
    if isinstance(message, Image):
        assert image.shape[:2] == (message.height, message.width), image.shape
    return None


def check_reason(error: ImageMessageError) -> None:
    """A reason is one short line that can be printed."""
    reason = str(error)
    assert reason and reason.isprintable() and len(reason) <= LONGEST_REASON, reason


def for_all(
    strategy: st.SearchStrategy[Any], check: Callable[[Any], None], cases: int, number: int = 0
) -> None:
    """Check as many cases, the same ones for the same number; raises what the check raises, for
    the smallest case."""

    @seed(number)
    @settings(
        max_examples=cases,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink),
    )
    @given(strategy)
    def run(case: Any) -> None:
        check(case)

    run()


def draw_cases(strategy: st.SearchStrategy[Any], cases: int, number: int = 0) -> list[Any]:
    """As many cases as a list."""
    drawn: list[Any] = []
    for_all(strategy, drawn.append, cases, number)
    return drawn[:cases]
