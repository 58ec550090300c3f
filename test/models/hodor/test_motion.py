"""Masks and features of the previous frame follow the motion of the image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from stemseg_ros.config import load_config
from stemseg_ros.geometry import Letterbox
from stemseg_ros.masks import decode, encode
from stemseg_ros.models.hodor.motion import Motion, shrink
from stemseg_ros.models.hodor.sightings import Sighting, limit_to_reach, move_sightings
from stemseg_ros.models.hodor.state import State
from stemseg_ros.records import Frame, FrameResult, Prompt
from stemseg_ros.stream import open_model

SIZE = (128, 192)
SHIFT = 16
"""Pixels by which the camera turns between two frames."""
CPU = torch.device("cpu")


def view(position: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """What a camera sees of a wide blurred noise: uint8 (H, W, 3)."""
    wide = np.random.RandomState(0).randint(0, 255, (size[0], 3 * size[1], 3)).astype(np.uint8)
    smooth = cv2.GaussianBlur(wide, (0, 0), 3).astype(int) * 3 - 255
    start = size[1] - position
    return np.clip(smooth[:, start : start + size[1]], 0, 255).astype(np.uint8)


def turn() -> Motion:
    geometry = Letterbox.fit(SIZE, *SIZE)
    grey = [shrink(view(position), geometry) for position in (0, SHIFT)]
    return Motion(grey[1], grey[0], CPU)


@pytest.mark.parametrize("stride", [4, 8])
def test_masks_move_with_the_image(stride: int) -> None:
    mask = torch.zeros(SIZE[0] // stride, SIZE[1] // stride)
    mask[4:12, 8:16] = 1
    moved = turn().move(mask[None])[0] > 0.5
    expected = torch.roll(mask, SHIFT // stride, 1) > 0
    overlap = (moved & expected).sum() / (moved | expected).sum()
    assert overlap > 0.85
    unmoved = ((mask > 0) & expected).sum() / ((mask > 0) | expected).sum()
    assert overlap > unmoved + 0.2


def test_all_that_is_known_of_a_frame_moves() -> None:
    fine, outline, cells = (torch.rand(3, 32, 48), torch.rand(32, 48), torch.rand(16, 24))
    seen = torch.zeros(16, 24)
    seen[4:9, 4:9] = 1
    state = State(
        ids=(5,),
        previous={5: cells},
        outlines={5: outline},
        fine=fine,
        sightings={5: Sighting(seen, 3, 5.0)},
    )
    before, motion = state.copy(), turn()
    state.move(motion)
    assert state.fine is not None
    assert torch.equal(state.fine, motion.move(fine))
    assert torch.equal(state.outlines[5], motion.move(outline[None])[0])
    assert torch.equal(state.previous[5], motion.move(cells[None])[0])
    assert state.sightings[5].mask[5, 9] > 0.5
    assert state.sightings[5].index == 3
    assert before.previous[5] is cells  # a copy is not moved along


def test_a_sighting_that_would_leave_the_image_stays() -> None:
    mask = torch.zeros(16, 24)
    mask[4:9, 23:] = 1
    assert torch.equal(move_sightings({1: Sighting(mask, 0, 2.0)}, turn())[1].mask, mask)


class SlowPan:
    """Motion of 3 pixels to the right a frame, less than half a cell."""

    def move_masks(self, masks: Mapping[int, Tensor]) -> dict[int, Tensor]:
        return {n: 0.625 * m + 0.375 * m.roll(1, 1) for n, m in masks.items()}


@pytest.mark.parametrize("size", [1, 3])
def test_small_motions_of_a_sighting_add_up(size: int) -> None:
    mask = torch.zeros(16, 24)
    mask[4 : 4 + size, 6 : 6 + size] = 1
    seen = {1: Sighting(mask, 0, float(size))}
    for _ in range(10):
        seen = move_sightings(seen, cast(Motion, SlowPan()))
    columns = torch.arange(24.0)
    middle = [float((m.sum(0) * columns).sum() / m.sum()) for m in (mask, seen[1].mask)]
    assert middle[1] - middle[0] == pytest.approx(3.75, abs=0.01)
    near = limit_to_reach(torch.zeros(1, 32, 48), (1,), seen, 1, 0.0)[0] == 0
    assert near[8, 2 * round(middle[1])]
    assert not near[8, 2 * round(middle[0]) - 2]


def test_an_object_is_followed_through_a_fast_turn_of_the_camera() -> None:
    config = load_config("hodor_lite", {"propagation.motion": True, "input.min_dim": 176})
    stream = open_model(config, device="cpu").stream()
    for frame in range(4):
        image = view(40 * frame, (176, 352)) // 2 + 60
        mask = np.zeros(image.shape[:2], np.uint8)
        cv2.ellipse(mask, (60 + 40 * frame, 90), (18, 12), 0, 0, 360, 1, -1)
        image[mask > 0] = (30, 40, 200)
        prompts = (Prompt(1, 1, encode(mask > 0)),) if frame == 0 else ()
        (result,) = stream.push(Frame(image, 1 + frame, prompts))
        assert isinstance(result, FrameResult)
    found = decode(result.instances[0].rle)
    overlap = np.count_nonzero(found & (mask > 0)) / np.count_nonzero(found | (mask > 0))
    assert overlap > 0.7


def test_motion_is_switched_in_flight() -> None:
    small = {"input.min_dim": 128, "input.max_dim": 192, "runtime.precision": "float32"}
    small |= {"propagation.presence": 0.0}
    off, on = (
        load_config("hodor_lite", small | {"propagation.motion": motion})
        for motion in (False, True)
    )
    mask = np.zeros(SIZE, bool)
    mask[40:80, 60:110] = True
    plain, changed = (open_model(off, "random", "cpu").stream() for _ in range(2))
    for frame in range(6):
        changed.update(on if frame in (2, 3) else off)
        prompts = (Prompt(1, 1, encode(mask)),) if frame == 0 else ()
        image = view(SHIFT * frame)
        same = [stream.push(Frame(image, 1 + frame, prompts)) for stream in (plain, changed)]
        # Frame 2 is the first whose grey image is kept; the next one is the first that moves.
        assert (same[0] == same[1]) == (frame <= 2)
