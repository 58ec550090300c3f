"""Image messages: checked by their header, decoded to pixels."""

from __future__ import annotations

from typing import Any

from stemseg_ros.media.messages import (
    ImageMessageError,
    bgr_from_message,
    check_layout,
    image_size,
)
from stemseg_ros.records import Image
from stemseg_ros.ros.settings import NodeConfig

__all__ = ["ImageMessageError", "bgr_image", "check_image"]

NANOSECONDS = 1_000_000_000
DEFAULTS = NodeConfig()


def check_image(message: Any, settings: NodeConfig) -> None:
    """Refuse, by its header alone, a message that is no image or larger than the settings accept.

    Takes a sensor_msgs/Image or CompressedImage; decodes nothing and allocates nothing, and is
    cheap enough for the thread of the callbacks. Raises ImageMessageError.
    """
    _check_stamp(message.header.stamp)
    size = len(message.data)
    texts = len(message.header.frame_id) + len(getattr(message, "format", ""))
    if size + texts > settings.max_message_bytes:
        raise ImageMessageError(
            "limit",
            f"image message of {size + texts:,} bytes; at most {settings.max_message_bytes:,} "
            "are accepted (node.max_message_bytes)",
        )
    width, height = image_size(message)
    if width * height > settings.max_pixels:
        raise ImageMessageError(
            "limit",
            f"image of {width}x{height} pixels; at most {settings.max_pixels:,} are accepted "
            "(node.max_pixels)",
        )
    if not hasattr(message, "format"):
        check_layout(message)


def bgr_image(message: Any, settings: NodeConfig = DEFAULTS) -> Image:
    """Decode a sensor_msgs/Image or CompressedImage to its own array: uint8 (H, W, 3), BGR.

    settings: the bounds. Encodings and scaling as in stemseg_ros.media.messages. Raises
    ImageMessageError with the reason for everything that check_image refuses or that cannot be
    decoded.
    """
    check_image(message, settings)
    try:
        return bgr_from_message(message)
    except MemoryError as error:
        raise ImageMessageError("content", "out of memory for the image") from error


def _check_stamp(stamp: Any) -> None:
    if stamp.sec < 0 or stamp.nanosec >= NANOSECONDS:
        raise ImageMessageError(
            "stamp",
            f"image with the stamp {stamp.sec} s, {stamp.nanosec} ns, which is invalid: seconds "
            f"are not negative, nanoseconds below {NANOSECONDS:,}",
        )
