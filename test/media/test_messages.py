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
    "endless name": (bgr8(encoding="x\n" * 9999), r"encoding '(x\\n)+\.\.\.' is not supported"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults(fault: str) -> None:
    broken, reason = FAULTS[fault]
    with pytest.raises(ImageMessageError, match=reason):
        bgr_from_message(broken)
