"""Results and pictures as messages."""

from __future__ import annotations

from array import array
from typing import Any

import cv2
import numpy.typing as npt
from sensor_msgs.msg import CompressedImage, Image, RegionOfInterest
from std_msgs.msg import Header
from stemseg.msg import Instance as InstanceMessage
from stemseg.msg import InstanceArray

from stemseg_ros.records import FrameResult, Instance
from stemseg_ros.records import Image as Pixels


def instances_message(result: FrameResult, header: Header) -> InstanceArray:
    """Build the message for one frame, with the header of its image."""
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
    """Build a sensor_msgs/Image: bgr8 of uint8 (H, W, 3), mono16 of uint16 (H, W)."""
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


def jpeg_message(pixels: Pixels, header: Header, quality: int) -> CompressedImage:
    """Build a sensor_msgs/CompressedImage of uint8 (H, W, 3) BGR, as image_transport writes it."""
    _, data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return CompressedImage(
        header=header, format="bgr8; jpeg compressed bgr8", data=array("B", data.tobytes())
    )
