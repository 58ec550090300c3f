"""Every encoding gives the same colours; every malformed message is refused with the reason."""

from __future__ import annotations

from array import array
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stemseg_ros.media.messages import ImageMessageError, bgr_from_message

BLUE, GREEN, RED = 250, 120, 10
BGR = np.tile(np.array([BLUE, GREEN, RED], np.uint8), (4, 6, 1))
GRAY = np.full((4, 6, 1), 77, np.uint8)


def bayer(first_rows: str) -> np.ndarray:
    """Raw sensor values of the uniform colour for the 2x2 pattern, e.g. "rggb"."""
    value = {"b": BLUE, "g": GREEN, "r": RED}
    tile = np.array([value[c] for c in first_rows], np.uint8).reshape(2, 2)
    return np.tile(tile, (2, 3))[..., None]


def message(
    encoding: str, pixels: np.ndarray, padding: int = 0, big: bool = False
) -> SimpleNamespace:
    height, width = pixels.shape[:2]
    if pixels.dtype == np.uint16:
        pixels = pixels.astype(">u2" if big else "<u2")
    rows = np.frombuffer(pixels.tobytes(), np.uint8).reshape(height, -1)
    rows = np.pad(rows, ((0, 0), (0, padding)), constant_values=99)
    return SimpleNamespace(
        encoding=encoding,
        height=height,
        width=width,
        step=rows.shape[1],
        is_bigendian=int(big),
        data=array("B", rows.tobytes()),
    )


def wide(pixels: np.ndarray) -> np.ndarray:
    return pixels.astype(np.uint16) * 257


ALPHA = np.full((4, 6, 1), 3, np.uint8)
COLOURS = {
    "bgr8": BGR,
    "rgb8": BGR[..., ::-1],
    "bgra8": np.concatenate([BGR, ALPHA], 2),
    "rgba8": np.concatenate([BGR[..., ::-1], ALPHA], 2),
    "8UC3": BGR,
    "8UC4": np.concatenate([BGR, ALPHA], 2),
    "bgr16": wide(BGR),
    "rgb16": wide(BGR[..., ::-1]),
    "bgra16": wide(np.concatenate([BGR, ALPHA], 2)),
    "rgba16": wide(np.concatenate([BGR[..., ::-1], ALPHA], 2)),
    **{f"bayer_{p}8": bayer(p) for p in ("rggb", "bggr", "gbrg", "grbg")},
    **{f"bayer_{p}16": wide(bayer(p)) for p in ("rggb", "bggr", "gbrg", "grbg")},
}


@pytest.mark.parametrize("padding", [0, 10])
@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("encoding", COLOURS)
def test_colours(encoding: str, big: bool, padding: int) -> None:
    image = bgr_from_message(message(encoding, COLOURS[encoding], padding, big))
    assert image.dtype == np.uint8 and image.flags.c_contiguous and image.flags.owndata
    assert np.array_equal(image, BGR)


@pytest.mark.parametrize("encoding", ["mono8", "8UC1", "mono16", "16UC1"])
def test_gray(encoding: str) -> None:
    pixels = wide(GRAY) if "16" in encoding else GRAY
    assert np.array_equal(bgr_from_message(message(encoding, pixels)), GRAY.repeat(3, 2))


@pytest.mark.parametrize(
    "encoding, order",
    [("yuv422", "uyvy"), ("uyvy", "uyvy"), ("yuv422_yuy2", "yuyv"), ("yuyv", "yuyv")],
)
def test_yuv_pairs_share_their_colour(encoding: str, order: str) -> None:
    """Studio-range BT.601: Y 81, U 90, V 240 is pure red."""
    parts = {"u": 90, "v": 240, "y": 81}
    pixels = np.tile(np.array([parts[c] for c in order], np.uint8).reshape(2, 2), (4, 3, 1))
    image = bgr_from_message(message(encoding, pixels))
    assert cv2.absdiff(image, np.tile(np.array([0, 0, 255], np.uint8), (4, 6, 1))).max() <= 2


def semi_planar(encoding: str, width: int, height: int, padding: int, step: int | None) -> object:
    """Pure red: Y 81, U 90, V 240."""
    chroma = np.array([240, 90] if encoding == "nv21" else [90, 240], np.uint8)
    factor = 2 if encoding == "nv24" else 1
    rows = height if encoding == "nv24" else height // 2
    luma = np.pad(np.full((height, width), 81, np.uint8), ((0, 0), (0, padding)))
    colours = np.tile(chroma, (rows, factor * width // 2))
    colours = np.pad(colours, ((0, 0), (0, factor * padding)))
    return SimpleNamespace(
        encoding=encoding,
        height=height,
        width=width,
        step=width + padding if step is None else step,
        is_bigendian=0,
        data=array("B", luma.tobytes() + colours.tobytes()),
    )


@pytest.mark.parametrize("encoding", ["nv12", "nv21", "nv24"])
@pytest.mark.parametrize("padding, step", [(0, None), (10, None), (0, 0), (0, 12)])
def test_colours_behind_the_brightness(encoding: str, padding: int, step: int | None) -> None:
    image = bgr_from_message(semi_planar(encoding, 6, 4, padding, step))
    assert image.shape == (4, 6, 3) and image.dtype == np.uint8
    assert cv2.absdiff(image, np.tile(np.array([0, 0, 255], np.uint8), (4, 6, 1))).max() <= 2


def test_nv24_has_a_colour_of_its_own_for_each_pixel() -> None:
    rng = np.random.default_rng(0)
    yuv = rng.integers(16, 236, (4, 6, 3), dtype=np.uint8)
    data = yuv[..., 0].tobytes() + yuv[..., 1:].tobytes()
    found = bgr_from_message(
        SimpleNamespace(encoding="nv24", height=4, width=6, step=6, is_bigendian=0, data=data)
    )
    y, u, v = (yuv[..., i].astype(float) for i in range(3))
    luma = (y - 16) * 255 / 219
    blue = luma + (u - 128) * 1.772 * 255 / 224
    red = luma + (v - 128) * 1.402 * 255 / 224
    assert np.abs(found[..., 0] - blue.clip(0, 255)).max() <= 2
    assert np.abs(found[..., 2] - red.clip(0, 255)).max() <= 2


@pytest.mark.parametrize(
    "padding", [bytes(1), bytes(5000), b"\xff" * 3000, b"rest of a buffer" * 200]
)
@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_anything_may_stand_behind_the_end_of_a_file(suffix: str, padding: bytes) -> None:
    data = cv2.imencode(suffix, NOISE)[1].tobytes()
    whole = bgr_from_message(SimpleNamespace(format="jpeg", data=data))
    image = bgr_from_message(SimpleNamespace(format="jpeg", data=data + padding))
    assert np.array_equal(image, whole)


def test_the_end_of_a_thumbnail_is_not_that_of_the_file() -> None:
    thumbnail = cv2.imencode(".jpg", BGR)[1].tobytes()
    segment = b"Exif\0\0" + thumbnail
    data = JPEG[:2] + b"\xff\xe1" + (len(segment) + 2).to_bytes(2, "big") + segment + JPEG[2:]
    assert np.array_equal(
        bgr_from_message(SimpleNamespace(format="jpeg", data=data)),
        cv2.imdecode(np.frombuffer(JPEG, np.uint8), cv2.IMREAD_COLOR),
    )
    with pytest.raises(ImageMessageError, match="truncated JPEG"):
        bgr_from_message(SimpleNamespace(format="jpeg", data=data[:-200]))


@pytest.mark.parametrize(
    "options", [[cv2.IMWRITE_JPEG_PROGRESSIVE, 1], [cv2.IMWRITE_JPEG_RST_INTERVAL, 1]]
)
@pytest.mark.parametrize("share", [0.3, 0.6, 0.95, 0.999])
def test_every_cut_of_a_jpeg_is_noticed(options: list[int], share: float) -> None:
    data = cv2.imencode(".jpg", NOISE, options)[1].tobytes()
    bgr_from_message(SimpleNamespace(format="jpeg", data=data))
    with pytest.raises(ImageMessageError, match=r"truncated JPEG|no readable header"):
        bgr_from_message(SimpleNamespace(format="jpeg", data=data[: int(len(data) * share)]))


@given(
    height=st.integers(1, 5),
    width=st.integers(1, 5),
    padding=st.integers(0, 7),
    seed=st.integers(0, 99),
)
def test_padding_never_shows(height: int, width: int, padding: int, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    assert np.array_equal(bgr_from_message(message("bgr8", pixels, padding)), pixels)


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_compressed(suffix: str) -> None:
    data = cv2.imencode(suffix, BGR)[1].tobytes()
    image = bgr_from_message(SimpleNamespace(format="anything", data=data))
    assert cv2.absdiff(image, BGR).max() <= 4


def bgr8(**fields: object) -> SimpleNamespace:
    return SimpleNamespace(**{**vars(message("bgr8", BGR)), **fields})


NOISE = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
PNG, BMP = (cv2.imencode(suffix, NOISE)[1].tobytes() for suffix in (".png", ".bmp"))
JPEG = cv2.imencode(".jpg", NOISE)[1].tobytes()
FAULTS = {
    "unknown encoding": (message("jp2", BGR), "'jp2' is not supported; supported: .*bgr8"),
    "no rows": (bgr8(height=0), "without pixels"),
    "no columns": (bgr8(width=0), "without pixels"),
    "too much": (bgr8(data=bytes(73)), "more data than image: 73 bytes, but 6x4 .* needs 72"),
    "cut short": (bgr8(data=bytes(71)), "71 bytes, but 6x4 'bgr8' with a step of 18 needs 72"),
    "short step": (bgr8(step=17), "step of 17 bytes is less than a row"),
    "odd yuv": (
        message("yuv422", np.zeros((2, 3, 2), np.uint8)),
        "3x2 image of encoding 'yuv422'",
    ),
    "no data": (SimpleNamespace(format="jpeg", data=b""), "no data"),
    "truncated jpeg": (SimpleNamespace(format="jpeg", data=JPEG[:-200]), "truncated JPEG"),
    "not an image": (
        SimpleNamespace(format="png", data=b"text"),
        "no readable header of JPEG or PNG",
    ),
    "bitmap": (SimpleNamespace(format="bmp", data=BMP), "no readable header of JPEG or PNG"),
    "truncated png": (SimpleNamespace(format="png", data=PNG[:-300]), "truncated PNG"),
    "broken content": (
        SimpleNamespace(format="png", data=PNG[:500] + bytes(9) + PNG[509:]),
        "not decodable",
    ),
    "depth": (message("32FC1", BGR), "'32FC1' is not supported; supported: .*nv12.*rgb8"),
    "three depths": (message("16UC3", wide(BGR)), "'16UC3' is not supported; supported: "),
    "odd nv12": (semi_planar("nv12", 6, 3, 0, None), "6x3 .* width and height have to be even"),
    "short nv21": (
        bgr8(encoding="nv21", step=6, data=bytes(35)),
        "35 bytes, but 6x4 'nv21' with a step of 6 needs 36",
    ),
    "format as encoding": (
        message("rgb8; jpeg compressed bgr8", BGR),
        "is the format of a CompressedImage, but this is a message of type Image",
    ),
    "compressed depth": (
        SimpleNamespace(format="16UC1; compressedDepth png", data=bytes(12) + PNG),
        "depth image of compressed_depth_image_transport",
    ),
    "video": (SimpleNamespace(format="h264", data=bytes(99)), "is a packet of a video"),
    "endless name": (bgr8(encoding="x\n" * 9999), r"encoding '(x\\n)+\.\.\.' is not supported"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults(fault: str) -> None:
    broken, reason = FAULTS[fault]
    with pytest.raises(ImageMessageError, match=reason):
        bgr_from_message(broken)
