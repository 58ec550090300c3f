"""Objects that are hidden or gone: no mask elsewhere, found again under their id."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from stemseg_ros.config import ConfigError, load_config
from stemseg_ros.masks import decode, encode
from stemseg_ros.models.hodor.memory import FrameDescriptors, Memory
from stemseg_ros.models.hodor.presence import RETURN_MARGIN, find_absent, keep_from_present
from stemseg_ros.models.hodor.sightings import OUT_OF_REACH, Sighting, update_sightings
from stemseg_ros.records import Frame, FrameResult, Prompt
from stemseg_ros.stream import Stream, open_model

SIZE = (176, 352)
ON = {"propagation.presence": 0.5}
EMPTY, FULL = torch.zeros(4, 4), torch.ones(4, 4)
LEFT = torch.tensor([1.0, 1.0, 0.0, 0.0]).expand(4, 4)


def test_absent_objects_are_told_by_their_mask_and_by_their_likeness() -> None:
    masks = {1: FULL, 2: EMPTY, 3: FULL, 4: FULL, 5: EMPTY}
    likeness = {1: 0.9, 2: 0.9, 3: 0.4, 4: 0.5 + RETURN_MARGIN / 2}
    # 5 has no given mask to compare with
    assert find_absent(masks, likeness, (), masks, 0.5) == {2, 3}
    assert find_absent(masks, likeness, (1, 4), masks, 0.5) == {2, 3, 4}
    assert find_absent({}, {}, (), (), 0.5) == set()


def test_an_object_smaller_than_a_cell_is_told_by_its_likeness_alone() -> None:
    masks = {1: EMPTY, 2: EMPTY}
    assert find_absent(masks, {1: 0.9, 2: 0.4}, (), (), 0.5) == {2}


def test_likeness_is_that_to_the_given_mask() -> None:
    memory = Memory()
    memory.anchor(FrameDescriptors(0, None, {1: torch.tensor([1.0, 0.0])}))
    found = {1: torch.tensor([3.0, 4.0]), 2: torch.tensor([1.0, 0.0])}
    assert memory.likeness(FrameDescriptors(5, None, found)) == {1: pytest.approx(0.6)}
    assert Memory().likeness(FrameDescriptors(5, None, found)) == {}


def test_absent_objects_take_nothing_from_present_ones() -> None:
    logits = torch.zeros(3, 8, 8)
    limited = keep_from_present(logits, (4, 5, 6), {5}, {4: LEFT, 5: FULL, 6: EMPTY})
    assert (limited[1, :, :4] == OUT_OF_REACH).all()
    assert (limited[1, :, 4:] == 0).all()
    assert (limited[[0, 2]] == 0).all()
    assert keep_from_present(logits, (4, 5), (), {4: LEFT, 5: FULL}) is logits


def test_what_an_absent_object_covers_is_no_sighting() -> None:
    before = {1: Sighting(LEFT, 3, 3.0), 2: Sighting(LEFT, 3, 3.0)}
    after = update_sightings(before, {1: FULL, 2: FULL, 3: FULL}, 4, absent={1, 3})
    assert after[1] is before[1]
    assert after[2].index == 4
    assert 3 not in after


def test_presence_needs_the_given_masks_descriptors() -> None:
    with pytest.raises(ConfigError, match="presence needs anchor: corrected"):
        load_config("hodor_lite", ON | {"propagation.anchor": "reference"})


def scene(frame: int) -> tuple[np.ndarray, np.ndarray]:
    """An object that drives behind a wall and comes out on the other side: image and mask."""
    noise = np.random.RandomState(0).randint(0, 255, (*SIZE, 3)).astype(np.uint8)
    image = cv2.GaussianBlur(noise, (0, 0), 6) // 2 + 60
    mask = np.zeros(SIZE, np.uint8)
    x = 60 + 12 * frame
    cv2.ellipse(mask, (x, 90), (24, 16), 0, 0, 360, 1, -1)
    image[mask > 0] = (30, 40, 200)
    cv2.circle(image, (x, 86), 6, (230, 230, 30), -1)
    image[40:140, 130:210] = noise[40:140, 130:210] // 3 + 20
    mask[40:140, 130:210] = 0
    return image, mask > 0


def follow(stream: Stream, frames: int) -> list[np.ndarray]:
    """Masks found in each frame of the scene."""
    found = []
    for frame in range(frames):
        image, mask = scene(frame)
        prompts = (Prompt(7, 1, encode(mask)),) if frame == 0 else ()
        (result,) = stream.push(Frame(image, 1 + frame, prompts))
        assert isinstance(result, FrameResult)
        assert {one.track_id for one in result.instances} <= {7}
        masks = [decode(one.rle) for one in result.instances]
        found.append(masks[0] if masks else np.zeros(SIZE, bool))
    return found


def test_a_hidden_object_has_no_mask_and_is_found_again() -> None:
    config = load_config("hodor_lite", ON | {"input.min_dim": SIZE[0], "propagation.motion": True})
    found = follow(open_model(config, device="cpu").stream(), 18)
    hidden = [frame for frame in range(18) if not scene(frame)[1].any()]
    assert len(hidden) >= 2
    assert not found[hidden[-1]].any()
    truth = scene(17)[1]
    overlap = np.count_nonzero(found[-1] & truth) / np.count_nonzero(found[-1] | truth)
    assert overlap > 0.5


def test_presence_is_switched_in_flight() -> None:
    """Also for objects that were given while nothing of given masks was kept."""
    small = {"input.min_dim": 88, "input.max_dim": 176, "propagation.window": 1}
    kept = {"propagation.anchor": "reference", "propagation.presence": 0.0}
    off = load_config("hodor_lite", small | kept)
    on = load_config("hodor_lite", small | {"propagation.presence": 0.99})
    stream = open_model(off, "random", "cpu").stream()
    for frame in range(8):
        image, mask = scene(frame)
        prompts = (Prompt(1, 1, encode(mask)),) if frame == 0 else ()
        if frame == 3:
            prompts = (Prompt(2, 1, encode(np.roll(mask, 80, 0))),)
        stream.push(Frame(image, 1 + frame, prompts))
        stream.update(on if 2 <= frame < 6 else off)
    assert set(stream.prompt_tracker.followed) == {1, 2}
