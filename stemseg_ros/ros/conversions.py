"""Between ROS messages and the records of the core."""

from __future__ import annotations

import io
from array import array
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import PIL.Image
from sensor_msgs.msg import Image, RegionOfInterest
from std_msgs.msg import Header
from stemseg.msg import Instance as InstanceMessage
from stemseg.msg import InstanceArray

from stemseg_ros.media.instance_bag import result_from_message
from stemseg_ros.media.messages import ImageMessageError, bgr_from_message
from stemseg_ros.records import FrameResult, Instance

__all__ = [
    "ImageMessageError",
    "bgr_image",
    "image_message",
    "instances_message",
    "result_from_message",
]

MAX_PIXELS = 64_000_000
"""Larger images are refused: more likely a broken header than a camera."""


def bgr_image(message: Any) -> npt.NDArray[np.uint8]:
    """Pixels of a sensor_msgs/Image or CompressedImage: uint8 (H, W, 3), BGR, a copy of its own.

    Encodings and scaling as in stemseg_ros.media.messages. Raises ImageMessageError with the
    reason for everything that is no picture of a sane size.
    """
    width, height = _size(message)
    if width * height > MAX_PIXELS:
        raise ImageMessageError(
            f"image of {width}x{height} pixels; at most {MAX_PIXELS:,} are accepted"
        )
    try:
        return bgr_from_message(message)
    except (cv2.error, ValueError, MemoryError) as error:
        raise ImageMessageError(f"image cannot be read: {error}") from error


def _size(message: Any) -> tuple[int, int]:
    """Width and height that the message or, compressed, its file header declares."""
    if not hasattr(message, "format"):
        return message.width, message.height
    try:
        with PIL.Image.open(io.BytesIO(message.data)) as file:
            return file.size
    except (PIL.Image.DecompressionBombError, OSError, ValueError, SyntaxError) as error:
        raise ImageMessageError(
            f"compressed image ('{message.format}', {len(message.data)} bytes) "
            f"cannot be read: {error}"
        ) from error


def instances_message(result: FrameResult, header: Header) -> InstanceArray:
    """The message for one frame, under the header of its image."""
    return InstanceArray(
        header=header,
        height=result.height,
        width=result.width,
        epoch=result.epoch,
        instances=[_instance_message(instance) for instance in result.instances],
    )


def _instance_message(instance: Instance) -> InstanceMessage:
    x, y, width, height = instance.box
    return InstanceMessage(
        track_id=instance.track_id,
        class_id=instance.class_id,
        class_name=instance.class_name,
        score=instance.score,
        roi=RegionOfInterest(x_offset=x, y_offset=y, width=width, height=height),
        mask_rle=array("B", instance.rle["counts"]),
    )


def image_message(pixels: npt.NDArray[Any], header: Header) -> Image:
    """A sensor_msgs/Image: bgr8 of uint8 (H, W, 3), mono16 of uint16 (H, W)."""
    encoding = {("uint8", 3): "bgr8", ("uint16", 2): "mono16"}[pixels.dtype.name, pixels.ndim]
    little_endian = pixels.astype(pixels.dtype.newbyteorder("<"), copy=False)
    return Image(
        header=header,
        height=pixels.shape[0],
        width=pixels.shape[1],
        encoding=encoding,
        is_bigendian=0,
        step=little_endian.nbytes // pixels.shape[0],
        # An array.array is taken as it is; an ndarray is copied byte by byte (58 ms for 1242x375).
        data=array("B", little_endian.tobytes()),
    )
