"""Between ROS messages and the records of the core."""

from __future__ import annotations

from array import array
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from sensor_msgs.msg import CompressedImage, Image, RegionOfInterest
from std_msgs.msg import Header
from stemseg.msg import Instance as InstanceMessage
from stemseg.msg import InstanceArray

from stemseg_ros.media.messages import (
    ImageMessageError,
    bgr_from_message,
    check_layout,
    image_size,
)
from stemseg_ros.media.result_bag import result_from_message
from stemseg_ros.records import FrameResult, Instance
from stemseg_ros.ros.settings import NodeConfig

__all__ = [
    "ImageMessageError",
    "bgr_image",
    "check_image",
    "image_message",
    "instances_message",
    "jpeg_message",
    "result_from_message",
]

NANOSECONDS = 1_000_000_000
DEFAULTS = NodeConfig()


def check_image(message: Any, settings: NodeConfig) -> None:
    """Refuse, by header alone, what is no picture or larger than the settings accept.

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


def bgr_image(message: Any, settings: NodeConfig = DEFAULTS) -> npt.NDArray[np.uint8]:
    """Pixels of a sensor_msgs/Image or CompressedImage: uint8 (H, W, 3), BGR, a copy of its own.

    settings: the bounds. Encodings and scaling as in stemseg_ros.media.messages. Raises
    ImageMessageError with the reason for everything that check_image refuses or that cannot be
    decoded.
    """
    check_image(message, settings)
    try:
        return bgr_from_message(message)
    except MemoryError as error:
        raise ImageMessageError("content", "no memory left for the image") from error


def _check_stamp(stamp: Any) -> None:
    if stamp.sec < 0 or stamp.nanosec >= NANOSECONDS:
        raise ImageMessageError(
            "stamp",
            f"image with the stamp {stamp.sec} s, {stamp.nanosec} ns, which is no time: seconds "
            f"are not negative, nanoseconds below {NANOSECONDS:,}",
        )


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


def jpeg_message(pixels: npt.NDArray[np.uint8], header: Header, quality: int) -> CompressedImage:
    """A sensor_msgs/CompressedImage of uint8 (H, W, 3) BGR, as image_transport writes it."""
    _, data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return CompressedImage(
        header=header, format="bgr8; jpeg compressed bgr8", data=array("B", data.tobytes())
    )
