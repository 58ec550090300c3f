"""Masks against torch's full-frame interpolation and against pycocotools."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from stemseg_ros.geometry import Letterbox
from stemseg_ros.masks import decode, encode, encode_box, label_image
from stemseg_ros.models.layers.grid_masks import full_size_masks, upsample
from stemseg_ros.records import FrameResult, Instance

GEOMETRIES = [  # image, min_dim, max_dim
    ((75, 247), 94, 310),
    ((375, 1242), 736, 1948),
    ((96, 128), 96, 128),
    ((60, 50), 96, 96),
    ((200, 101), 96, 160),
]


def reference_mask(mask: np.ndarray, fitted: Letterbox) -> np.ndarray:
    """The released way, on whole frames: x4, crop, resize; still to be binarised at one half."""
    soft = F.interpolate(
        torch.from_numpy(mask.astype(np.float32))[None, None], scale_factor=4, mode="bilinear"
    )
    soft = soft[..., : fitted.resized_size[0], : fitted.resized_size[1]]
    if fitted.resized_size != fitted.image_size:
        soft = F.interpolate(soft, size=fitted.image_size, mode="bilinear")
    return soft[0, 0].numpy()


@pytest.mark.parametrize(("image", "min_dim", "max_dim"), GEOMETRIES)
@pytest.mark.parametrize("seed", range(3))
def test_boxes_give_what_whole_frames_give(
    image: tuple[int, int], min_dim: int, max_dim: int, seed: int
) -> None:
    fitted = Letterbox.fit(image, min_dim, max_dim, 96)
    rng = np.random.default_rng(seed)
    grid = np.zeros([side // 4 for side in fitted.padded_size], np.int32)
    for label in range(1, 9):
        y, x = (int(rng.integers(0, side)) for side in grid.shape)
        grid[y : y + rng.integers(1, 40), x : x + rng.integers(1, 40)] = label
    grid[rng.random(grid.shape) < 0.05] = -1  # ragged edges and holes
    grid[rng.random(grid.shape) < 0.02] = 40
    found = {mask.label: mask for mask in full_size_masks(grid, fitted)}
    for label in np.unique(grid[grid > 0]).tolist():
        soft = reference_mask(grid == label, fitted)
        if soft.max() <= 0.5:
            assert label not in found
            continue
        mask = decode(found[label].rle)
        tie = np.abs(soft - 0.5) < 1e-4  # a pixel at exactly one half may round either way
        np.testing.assert_array_equal(mask[~tie], soft[~tie] > 0.5)
        assert found[label].rle == encode(mask) and found[label].area == mask.sum()
        ys, xs = mask.nonzero()
        assert found[label].box == (xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1)
        np.testing.assert_array_equal(upsample(grid == label, fitted), mask)
    assert (
        sum(decode(m.rle).astype(int) for m in found.values()).max() == 1
    )  # masks do not overlap


@settings(deadline=None)
@given(crop=hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=8)), data=st.data())
def test_box_encoding_equals_full_frame_encoding(crop: np.ndarray, data: st.DataObject) -> None:
    top, left = data.draw(st.integers(0, 5)), data.draw(st.integers(0, 5))
    height = top + crop.shape[0] + data.draw(st.integers(0, 3))
    width = left + crop.shape[1] + data.draw(st.integers(0, 3))
    full = np.zeros((height, width), bool)
    full[top : top + crop.shape[0], left : left + crop.shape[1]] = crop
    rle = encode_box(crop, top, left, (height, width))
    assert rle == encode(full)
    np.testing.assert_array_equal(decode(rle), full)
    np.testing.assert_array_equal(decode(rle["counts"], (height, width)), full)


@pytest.mark.parametrize(
    ("counts", "size", "words"),
    [
        (encode(np.ones((4, 4), bool))["counts"], (4, 5), "cover 16 pixels of an image with 20"),
        (encode(np.ones((4, 4), bool))["counts"], (3, 3), "cover 16 pixels of an image with 9"),
        (b"", (2, 2), "cover 0 pixels"),
        (b"\xff", (2, 2), "byte 255"),
        (b"o", (1, 1), "run lengths"),
    ],
    ids=["too short", "too long", "empty", "no run lengths at all", "cut off"],
)
def test_run_lengths_that_do_not_fill_the_image_are_refused(
    counts: bytes, size: tuple[int, int], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        decode(counts, size)


@settings(deadline=None)
@given(counts=st.binary(max_size=12), height=st.integers(1, 9), width=st.integers(1, 9))
def test_arbitrary_bytes_never_give_undefined_pixels(
    counts: bytes, height: int, width: int
) -> None:
    try:
        mask = decode(counts, (height, width))
    except ValueError:
        return
    np.testing.assert_array_equal(decode(encode(mask)), mask)


def test_bare_run_lengths_need_a_size() -> None:
    with pytest.raises(ValueError, match="size"):
        decode(encode(np.ones((4, 4), bool))["counts"])


def _result(track_id: int) -> FrameResult:
    mask = np.zeros((6, 8), bool)
    mask[2:4, 3:7] = True
    return FrameResult(
        0, 0, 6, 8, 0, (Instance(track_id, 1, "car", 1.0, encode(mask), (3, 2, 4, 2)),)
    )


def test_label_image_holds_track_ids() -> None:
    image = label_image(_result(300))
    assert image.dtype == np.uint16 and image[2, 3] == 300 and (image > 0).sum() == 8


def test_label_image_refuses_ids_beyond_16_bits() -> None:
    with pytest.raises(ValueError, match="70000"):
        label_image(_result(70000))
