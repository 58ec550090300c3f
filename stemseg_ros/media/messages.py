"""Pixels of image messages: sensor_msgs/Image and CompressedImage as BGR arrays.

Works on anything with the fields of these messages, be it from rclpy or from a bag, and needs no
ROS.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from stemseg_ros.errors import MediaError

JPEG_START, JPEG_END = b"\xff\xd8", b"\xff\xd9"


class ImageMessageError(MediaError):
    """An image message cannot be read: unknown encoding, no pixels, or fewer than its header
    says."""


@dataclass(frozen=True, slots=True)
class _Encoding:
    """How the bytes of a raw image are read."""

    channels: int
    to_bgr: int | None
    """OpenCV colour conversion; none where the pixels are BGR already."""
    dtype: type[np.uint8] | type[np.uint16] = np.uint8


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
    "yuv422": _Encoding(2, cv2.COLOR_YUV2BGR_UYVY),
    "uyvy": _Encoding(2, cv2.COLOR_YUV2BGR_UYVY),
    "yuv422_yuy2": _Encoding(2, cv2.COLOR_YUV2BGR_YUYV),
    "yuyv": _Encoding(2, cv2.COLOR_YUV2BGR_YUYV),
}


def stamp_ns(message: Any) -> int:
    """Header stamp of a message in nanoseconds."""
    stamp = message.header.stamp
    return int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)


def bgr_from_message(message: Any) -> npt.NDArray[np.uint8]:
    """Pixels of a sensor_msgs/Image or sensor_msgs/CompressedImage.

    Returns uint8 (H, W, 3), BGR, contiguous, a copy of its own. 16-bit images are scaled to
    0..255. Raises ImageMessageError that says what is wrong with the message.
    """
    if hasattr(message, "format"):
        return _decompress(message.format, message.data)
    return _convert(message)


def _decompress(image_format: str, data: Any) -> npt.NDArray[np.uint8]:
    encoded = np.frombuffer(data, np.uint8)
    if not encoded.size:
        raise ImageMessageError(f"compressed image ('{image_format}') without data")
    # OpenCV fills the missing part of a truncated JPEG with grey and says nothing.
    if encoded[:2].tobytes() == JPEG_START and JPEG_END not in encoded[-1024:].tobytes():
        raise ImageMessageError(f"truncated JPEG image ({encoded.size} bytes without end marker)")
    image = cv2.imdecode(encoded, cv2.IMREAD_COLOR)
    if image is None:
        raise ImageMessageError(
            f"compressed image ('{image_format}', {encoded.size} bytes) is not decodable"
        )
    return np.asarray(image, np.uint8)


def _convert(message: Any) -> npt.NDArray[np.uint8]:
    encoding = _ENCODINGS.get(message.encoding)
    if encoding is None:
        known = ", ".join(sorted(_ENCODINGS))
        raise ImageMessageError(
            f"image encoding '{message.encoding}' is not supported; supported: {known}"
        )
    pixels = _pixels(message, encoding)
    if encoding.to_bgr is None:
        image = pixels.copy()
    else:
        try:
            image = cv2.cvtColor(pixels, encoding.to_bgr)
        except cv2.error as error:  # e.g. an odd width where two pixels share their colour
            size = f"{message.width}x{message.height}"
            raise ImageMessageError(
                f"{size} image of encoding '{message.encoding}': {error.err}"
            ) from None
    if encoding.dtype is np.uint16:
        image = cv2.convertScaleAbs(image, alpha=255 / 65535)
    return np.asarray(image, np.uint8)


def _pixels(message: Any, encoding: _Encoding) -> npt.NDArray[Any]:
    """The pixels as they were sent, (H, W, channels), without the padding of the rows."""
    height, width = message.height, message.width
    dtype = np.dtype(encoding.dtype)
    row_bytes = width * encoding.channels * dtype.itemsize
    step = message.step or row_bytes
    data = np.frombuffer(message.data, np.uint8)
    if height == 0 or width == 0:
        raise ImageMessageError(f"image without pixels ({width}x{height})")
    if step < row_bytes:
        raise ImageMessageError(
            f"step of {step} bytes is less than a row of {width} pixels '{message.encoding}' "
            f"({row_bytes} bytes)"
        )
    if data.size < height * step:
        raise ImageMessageError(
            f"truncated image: {data.size} bytes, but {width}x{height} '{message.encoding}' "
            f"with a step of {step} needs {height * step}"
        )
    rows = np.ascontiguousarray(data[: height * step].reshape(height, step)[:, :row_bytes])
    if dtype.itemsize > 1 and message.is_bigendian:
        rows = rows.view(dtype.newbyteorder(">")).astype(dtype)
    return rows.view(dtype).reshape(height, width, encoding.channels)
