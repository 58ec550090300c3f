"""masks.hpp, compiled with the compiler of this machine, against pycocotools."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as coco

from stemseg_ros.masks import check_counts

ROOT = Path(__file__).resolve().parents[2]
SOURCE = Path(__file__).with_name("decode_masks.cpp")
WARNINGS = ("-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wsign-conversion", "-Werror")
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")

Box = tuple[int, int, int, int]
"""x, y, width, height in pixels."""


class Decoded(NamedTuple):
    """What masks.hpp says of one mask; image and points are None above 2^20 pixels."""

    area: int
    box: Box
    image: np.ndarray | None
    crop: np.ndarray
    points: np.ndarray | None


def compiler() -> str:
    found = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++")
    assert found, "no C++ compiler; apt install g++ (make setup needs one, too)"
    return found


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """decode_masks, with the checks of memory and arithmetic where this machine has them."""
    binary = tmp_path_factory.mktemp("masks_hpp") / "decode_masks"
    command = [compiler(), "-std=c++11", *WARNINGS, f"-I{ROOT / 'include'}", str(SOURCE)]
    command += ["-o", str(binary)]
    if subprocess.run([*command, *SANITIZERS], capture_output=True).returncode:
        subprocess.run(command, check=True)
    return binary


def decode(program: Path, counts: bytes, size: tuple[int, int], box: Box) -> Decoded | str:
    """One mask through masks.hpp; a text if it was refused."""
    line = " ".join(map(str, (*size, counts.hex() or "-", *box)))
    done = subprocess.run([program], input=line + "\n", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    if done.stdout.startswith("invalid: "):
        return done.stdout.removeprefix("invalid: ").strip()
    area, x, y, width, height, image, crop, points = done.stdout.split()
    return Decoded(
        int(area),
        (int(x), int(y), int(width), int(height)),
        pixels(image, size),
        pixels(crop, (box[3], box[2])),
        pixels(points, size),
    )


def pixels(digits: str, size: tuple[int, int]) -> np.ndarray | None:
    if digits == "-":
        return None
    return np.array([digit == "1" for digit in digits[1:]], dtype=bool).reshape(size)


def encode(mask: np.ndarray) -> bytes:
    return bytes(coco.encode(np.asfortranarray(mask, np.uint8))["counts"])


def compress(runs: Sequence[int], size: tuple[int, int]) -> bytes:
    height, width = size
    rle = coco.frPyObjects({"size": [height, width], "counts": list(runs)}, height, width)
    return bytes(rle["counts"])


def tight_box(mask: np.ndarray) -> Box:
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    if not rows.size:
        return 0, 0, 0, 0
    x, y = int(columns[0]), int(rows[0])
    return x, y, int(columns[-1]) - x + 1, int(rows[-1]) - y + 1


def check(program: Path, mask: np.ndarray, box: Box) -> None:
    """masks.hpp says of a mask what numpy says."""
    decoded = decode(program, encode(mask), (mask.shape[0], mask.shape[1]), box)
    assert isinstance(decoded, Decoded), decoded
    x, y, width, height = box
    assert decoded.area == mask.sum()
    assert decoded.box == tight_box(mask)
    np.testing.assert_array_equal(decoded.image, mask)
    np.testing.assert_array_equal(decoded.points, mask)
    np.testing.assert_array_equal(decoded.crop, mask[y : y + height, x : x + width])


def drawn(height: int, width: int, *boxes: Box) -> np.ndarray:
    mask = np.zeros((height, width), dtype=bool)
    for x, y, box_width, box_height in boxes:
        mask[y : y + box_height, x : x + box_width] ^= True
    return mask


@pytest.mark.parametrize(
    ("mask", "box"),
    [
        pytest.param(drawn(1, 1), (0, 0, 1, 1), id="one pixel, empty"),
        pytest.param(drawn(1, 1, (0, 0, 1, 1)), (0, 0, 1, 1), id="one pixel"),
        pytest.param(drawn(4, 6), (1, 1, 0, 3), id="empty, and a box without width"),
        pytest.param(drawn(4, 6, (0, 0, 6, 4)), (1, 1, 3, 0), id="full, and a box without height"),
        pytest.param(drawn(5, 7, (2, 1, 3, 2)), (2, 1, 3, 2), id="inside"),
        pytest.param(drawn(5, 7, (6, 4, 1, 1)), (5, 3, 2, 2), id="last pixel"),
        pytest.param(
            drawn(5, 7, (2, 3, 1, 2), (3, 0, 1, 1)), (1, 0, 4, 5), id="over a column's end"
        ),
        pytest.param(drawn(9, 9, (1, 1, 7, 7), (3, 3, 3, 3)), (2, 0, 5, 9), id="a hole"),
        pytest.param(drawn(375, 1242, (400, 90, 300, 200)), (395, 80, 310, 220), id="a car"),
    ],
)
def test_masks_are_those_of_pycocotools(program: Path, mask: np.ndarray, box: Box) -> None:
    check(program, mask, box)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_mask_and_any_box(program: Path, data: st.DataObject) -> None:
    shape = data.draw(st.tuples(st.integers(1, 12), st.integers(1, 12)))
    mask = data.draw(hnp.arrays(bool, shape))
    x, y = data.draw(st.integers(0, shape[1])), data.draw(st.integers(0, shape[0]))
    width, height = (
        data.draw(st.integers(0, shape[1] - x)),
        data.draw(st.integers(0, shape[0] - y)),
    )
    check(program, mask, (x, y, width, height))


def test_a_noisy_mask_of_full_size(program: Path) -> None:
    mask = np.random.default_rng(0).random((375, 1242)) < 0.3
    check(program, mask, (600, 100, 64, 48))


def test_empty_runs_are_no_pixels(program: Path) -> None:
    decoded = decode(program, compress([0, 0, 3, 2, 0, 0, 1], (2, 3)), (2, 3), (0, 0, 3, 2))
    assert isinstance(decoded, Decoded), decoded
    assert (decoded.area, decoded.box) == (2, (1, 0, 2, 2))
    np.testing.assert_array_equal(decoded.image, [[False, False, True], [False, True, False]])


HUGE = 2**32 - 1


@pytest.mark.parametrize(
    ("counts", "size", "box", "reason"),
    [
        pytest.param(b"", (2, 2), (0, 0, 1, 1), "cover 0 pixels of an image with 4", id="nothing"),
        pytest.param(b"3", (2, 2), (0, 0, 1, 1), "cover 3 pixels", id="too short"),
        pytest.param(b"5", (2, 2), (0, 0, 1, 1), "more pixels than the image", id="too long"),
        pytest.param(b"4O", (2, 2), (0, 0, 1, 1), "negative run length", id="negative"),
        pytest.param(b"4o", (2, 2), (0, 0, 1, 1), "cut off", id="cut off"),
        pytest.param(b"4/", (2, 2), (0, 0, 1, 1), "byte 47 does not occur", id="byte too low"),
        pytest.param(
            b"4\xff", (2, 2), (0, 0, 1, 1), "byte 255 does not occur", id="byte too high"
        ),
        pytest.param(
            b"o" * 40 + b"0", (2, 2), (0, 0, 1, 1), "too many digits", id="shift too far"
        ),
        pytest.param(b"0", (2**16, 2**16), (0, 0, 1, 1), str(2**32), id="32 bits overflow"),
        pytest.param(b"1", (HUGE, HUGE), (0, 0, 1, 1), str(HUGE**2), id="largest size"),
        pytest.param(b"_" * 11 + b"O", (HUGE, HUGE), (0, 0, 1, 1), "negative", id="lowest number"),
        pytest.param(
            (b"o" * 11 + b"?") * 40,
            (HUGE, HUGE),
            (0, 0, 1, 1),
            "more pixels",
            id="64 bits overflow",
        ),
        pytest.param(b"4", (2, 2), (1, 0, 2, 1), "leaves the image", id="box too wide"),
        pytest.param(b"4", (2, 2), (0, 2, 1, 1), "leaves the image", id="box too low"),
        pytest.param(b"4", (2, 2), (HUGE, 0, HUGE, 1), "leaves the image", id="box wraps around"),
    ],
)
def test_malformed_input_is_refused(
    program: Path, counts: bytes, size: tuple[int, int], box: Box, reason: str
) -> None:
    refused = decode(program, counts, size, box)
    assert isinstance(refused, str) and reason in refused


def test_a_forged_size_cannot_exhaust_the_memory(program: Path) -> None:
    side = 2**16
    counts = compress([side * side // 2, 5, side * side // 2 - 5], (side, side))
    refused = decode(program, counts, (side, side), (0, 0, side, side))
    assert isinstance(refused, str) and "65536x65536 pixels are too many" in refused
    decoded = decode(program, counts, (side, side), (side // 2, 0, 1, 8))
    assert isinstance(decoded, Decoded)
    assert (decoded.area, decoded.box) == (5, (side // 2, 0, 1, 5))
    np.testing.assert_array_equal(decoded.crop[:, 0], [True] * 5 + [False] * 3)


@settings(max_examples=150, deadline=None)
@given(
    counts=st.lists(st.integers(48, 64 + 48) | st.sampled_from([48, 49, 50, 79]), max_size=8).map(
        bytes
    ),
    size=st.tuples(st.integers(0, 5), st.integers(0, 5)),
)
def test_bytes_of_any_kind_are_judged_as_in_python(
    program: Path, counts: bytes, size: tuple[int, int]
) -> None:
    decoded = decode(program, counts, size, (0, 0, 0, 0))
    try:
        check_counts(counts, size[0] * size[1])
    except ValueError:
        assert isinstance(decoded, str)
        return
    assert isinstance(decoded, Decoded), decoded
    if size[0] * size[1]:
        expected = coco.decode({"size": list(size), "counts": counts})
        np.testing.assert_array_equal(decoded.image, expected)


RCLCPP = """
#pragma once
#include <functional>
#include <memory>
#include <string>
namespace rclcpp
{
struct QoS {explicit QoS(std::size_t) {}};
template<typename Message>
struct Subscription {using SharedPtr = std::shared_ptr<Subscription>;};
struct Node
{
  explicit Node(const std::string &) {}
  template<typename Message, typename Callback>
  typename Subscription<Message>::SharedPtr create_subscription(
    const std::string &, const QoS &, Callback callback)
  {
    std::function<void (std::shared_ptr<const Message>)> check = callback;
    return nullptr;
  }
  int get_logger() const {return 0;}
};
inline void init(int, char **) {}
inline void spin(std::shared_ptr<Node>) {}
inline void shutdown() {}
template<typename ... Values> void log(int, const char *, Values ...) {}
}
#define RCLCPP_INFO rclcpp::log
#define RCLCPP_WARN rclcpp::log
"""
"""As much of rclcpp, which is not on PyPI, as the example calls."""


@pytest.mark.ros
def test_the_example_compiles_against_the_messages(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "cpp_subscriber.md").read_text(encoding="utf-8")
    example = text.partition("```cpp\n")[2].partition("```")[0]
    (tmp_path / "rclcpp").mkdir()
    (tmp_path / "rclcpp" / "rclcpp.hpp").write_text(RCLCPP)
    (tmp_path / "listener.cpp").write_text(example)
    installed = [f"-isystem{path}" for path in Path(sys.prefix, "include").iterdir()]
    command = [compiler(), "-std=c++17", "-fsyntax-only", *WARNINGS, *installed]
    command += [f"-I{tmp_path}", f"-I{ROOT / 'include'}", str(tmp_path / "listener.cpp")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
