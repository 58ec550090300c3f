"""Results and pictures as messages, and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")
pytest.importorskip("stemseg.msg", reason="needs the built messages")

import rclpy.serialization
from ros.harness import scene
from std_msgs.msg import Header
from stemseg.msg import InstanceArray

from stemseg_ros.masks import encode
from stemseg_ros.media.result_bag import result_from_message
from stemseg_ros.records import FrameResult, Instance
from stemseg_ros.ros.input.image_messages import bgr_image
from stemseg_ros.ros.output.result_messages import image_message, instances_message

pytestmark = pytest.mark.ros


def sent(value: Any) -> Any:
    """The message as the other side receives it."""
    return rclpy.serialization.deserialize_message(
        rclpy.serialization.serialize_message(value), type(value)
    )


def test_result_survives_the_wire_under_the_header_of_its_image() -> None:
    mask = scene()[..., 0] == 9
    instance = Instance(9, 2, "pedestrian", 0.25, encode(mask), (6, 12, 8, 8))
    result = FrameResult(3, 5_000_000_007, 24, 40, 4, (instance,))
    header = Header(frame_id="left")
    header.stamp.sec, header.stamp.nanosec = 5, 7
    received = sent(instances_message(result, header))
    assert isinstance(received, InstanceArray)
    assert received.header == header
    assert result_from_message(received, 3) == result


def test_images_out_are_read_back() -> None:
    header = Header(frame_id="left")
    image = image_message(scene(), header)
    assert (image.header, image.encoding, image.step) == (header, "bgr8", 120)
    np.testing.assert_array_equal(bgr_image(sent(image)), scene())
    labels = np.arange(6, dtype=np.uint16).reshape(2, 3) * 300
    image = image_message(labels, header)
    assert (image.encoding, image.step, image.is_bigendian) == ("mono16", 6, 0)
    np.testing.assert_array_equal(np.frombuffer(sent(image).data, "<u2").reshape(2, 3), labels)
