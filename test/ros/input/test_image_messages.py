"""Messages of rclpy to pixels. The table of encodings is in test/media/test_messages.py."""

from __future__ import annotations

from array import array

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("rclpy", reason="needs ROS 2")
pytest.importorskip("stemseg.msg", reason="needs the built messages")

from ros.harness import message, scene
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from stemseg_ros.media.messages import stamp_ns
from stemseg_ros.ros.input.image_messages import ImageMessageError, bgr_image, check_image
from stemseg_ros.ros.settings import NodeConfig

pytestmark = pytest.mark.ros

ENCODINGS = [
    "rgb8",
    "bgr8",
    "rgba8",
    "bgra8",
    "mono8",
    "mono16",
    "yuv422",
    "yuv422_yuy2",
    "8UC3",
    "bayer_rggb8",
    "bayer_bggr8",
    "bayer_gbrg8",
    "bayer_grbg8",
]


def random_image(encoding: str, padding: int) -> Image:
    """6 x 4 random pixels of an encoding with padded rows."""
    size = {"mono8": 1, "mono16": 2, "rgba8": 4, "bgra8": 4, "yuv422": 2, "yuv422_yuy2": 2}.get(
        encoding, 3
    )
    step = 6 * (1 if encoding.startswith("bayer") else size) + padding
    data = np.random.default_rng(1).integers(0, 256, 4 * step, np.uint8)
    return Image(height=4, width=6, encoding=encoding, step=step, data=array("B", data.tobytes()))


@pytest.mark.parametrize(
    ("sec", "nanosec", "expected"),
    [(0, 0, 0), (5, 7, 5_000_000_007), (2**31 - 1, 999_999_999, 2_147_483_647_999_999_999)],
)
def test_stamps(sec: int, nanosec: int, expected: int) -> None:
    header = Header()
    header.stamp.sec, header.stamp.nanosec = sec, nanosec
    assert stamp_ns(Image(header=header)) == expected


def test_the_image_is_a_copy() -> None:
    source = message(scene(), 1)
    image = bgr_image(source)
    image[:] = 1
    np.testing.assert_array_equal(bgr_image(source), scene())


@pytest.mark.parametrize(
    ("height", "width"), [(100_000, 100_000), (2**32 - 1, 2**32 - 1), (1, 64_000_001)]
)
def test_absurd_sizes_are_refused(height: int, width: int) -> None:
    with pytest.raises(ImageMessageError, match="at most 64,000,000"):
        bgr_image(Image(height=height, width=width, encoding="mono8", step=1, data=[0]))


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ({"max_pixels": 24 * 40}, None),
        ({"max_pixels": 24 * 40 - 1}, r"40x24 pixels; at most 959 .*\(node\.max_pixels\)"),
        ({"max_message_bytes": 2880 + len("camera_optical")}, None),
        (
            {"max_message_bytes": 2880},
            r"2,894 bytes; at most 2,880 .*\(node\.max_message_bytes\)",
        ),
    ],
)
def test_bounds_are_settings_and_named(limits: dict[str, int], reason: str | None) -> None:
    settings = NodeConfig(**limits)
    if reason is None:
        assert bgr_image(message(scene(), 1), settings).shape == (24, 40, 3)
    else:
        with pytest.raises(ImageMessageError, match=reason) as caught:
            check_image(message(scene(), 1), settings)
        assert caught.value.fault == "limit"


@pytest.mark.parametrize(("sec", "nanosec"), [(-1, 0), (0, 10**9), (5, 2**32 - 1)])
def test_stamps_that_are_no_time_are_refused(sec: int, nanosec: int) -> None:
    image = message(scene(), 1)
    image.header.stamp.sec, image.header.stamp.nanosec = sec, nanosec
    with pytest.raises(ImageMessageError, match="which is invalid") as caught:
        check_image(image, NodeConfig())
    assert caught.value.fault == "stamp"


def test_size_of_a_compressed_image_is_known_before_it_is_decoded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A file of some 100 bytes can say that it is huge."""
    monkeypatch.setattr(
        "stemseg_ros.ros.input.image_messages.bgr_from_message", lambda _: pytest.fail("decoded")
    )
    data = bytearray(cv2.imencode(".jpg", np.zeros((8, 8, 3), np.uint8))[1].tobytes())
    start = data.index(b"\xff\xc0") + 5  # height and width in the frame header
    data[start : start + 4] = (9_000).to_bytes(2, "big") * 2
    with pytest.raises(ImageMessageError, match="9000x9000 pixels; at most 64,000,000"):
        bgr_image(CompressedImage(format="jpeg", data=array("B", bytes(data))))


@given(
    encoding=st.sampled_from([*ENCODINGS, "", "rgb", "16SC1", "nv12"]),
    height=st.integers(0, 9),
    width=st.integers(0, 9),
    step=st.integers(0, 40),
    big=st.booleans(),
    data=st.binary(max_size=300),
)
def test_any_raw_message_is_a_picture_or_refused(
    encoding: str, height: int, width: int, step: int, big: bool, data: bytes
) -> None:
    received = Image(
        height=height,
        width=width,
        encoding=encoding,
        step=step,
        is_bigendian=int(big),
        data=array("B", data),
    )
    try:
        image = bgr_image(received)
    except ImageMessageError as error:
        assert str(error)
    else:
        assert (image.shape, image.dtype) == ((height, width, 3), np.uint8)


@given(
    start=st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM"]),
    data=st.binary(max_size=100),
)
def test_any_compressed_message_is_a_picture_or_refused(start: bytes, data: bytes) -> None:
    try:
        image = bgr_image(CompressedImage(format="jpeg", data=array("B", start + data)))
    except ImageMessageError as error:
        assert str(error)
    else:
        assert (image.ndim, image.dtype) == (3, np.uint8)


def test_pixels_equal_those_of_cv_bridge() -> None:
    bridge = pytest.importorskip(
        "cv_bridge", reason="no cv_bridge; a ROS installation brings it"
    ).CvBridge()
    try:
        bridge.imgmsg_to_cv2(random_image("yuv422", padding=5), "bgr8")
    except Exception as error:
        pytest.skip(f"this cv_bridge does not work: {error!r}")
    for encoding in ENCODINGS:
        image = random_image(encoding, padding=0)
        assert_equal_but_for_rounding(
            bgr_image(image), bridge.imgmsg_to_cv2(image, "bgr8"), encoding
        )


def test_pixels_equal_those_of_rosbags_image() -> None:
    reader = pytest.importorskip("rosbags.image", reason="rosbags-image is not installed")
    for encoding in ENCODINGS:
        image = random_image(encoding, padding=0)  # it ignores the padding of rows
        assert_equal_but_for_rounding(
            bgr_image(image), reader.message_to_cvimage(image, "bgr8"), encoding
        )


def assert_equal_but_for_rounding(image: np.ndarray, expected: np.ndarray, encoding: str) -> None:
    tolerance = int(encoding == "mono16")
    np.testing.assert_allclose(
        image.astype(int), expected.astype(int), atol=tolerance, err_msg=encoding
    )
