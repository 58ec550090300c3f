"""Objects that look alike keep their own pixels, whether or not both are followed."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from stemseg_ros.masks import encode, label_image
from stemseg_ros.models.hodor.sightings import (
    FADING,
    MARGIN,
    OUT_OF_REACH,
    Sighting,
    limit_to_reach,
    update_sightings,
)
from stemseg_ros.records import Frame, Prompt
from stemseg_ros.stream import open_model

SIZE = (176, 352)


def twins(shift: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """Draw two identical objects far apart; returns the image and their masks."""
    noise = np.random.RandomState(0).randint(0, 255, (*SIZE, 3)).astype(np.uint8)
    image, masks = cv2.GaussianBlur(noise, (0, 0), 6) // 2 + 60, []
    for x in (70 + shift, 280 + shift):
        mask = cv2.ellipse(np.zeros(SIZE, np.uint8), (x, 90), (30, 20), 0, 0, 360, 1, -1) > 0
        image[mask] = (30, 40, 200)
        cv2.circle(image, (x, 85), 7, (230, 230, 30), -1)
        masks.append(mask)
    return image, masks


@pytest.mark.parametrize("followed", [[0], [1], [0, 1]])
def test_an_object_is_found_with_and_without_its_twin(followed: list[int]) -> None:
    stream = open_model("hodor_lite", device="cpu").stream()
    for frame in range(3):
        image, masks = twins(4 * frame)
        prompts = tuple(Prompt(n + 1, 1, encode(masks[n])) for n in followed if frame == 0)
        (result,) = stream.push(Frame(image, 1 + frame, prompts))
    labels = label_image(result)
    for n in followed:
        found = labels == n + 1
        overlap = np.count_nonzero(found & masks[n]) / np.count_nonzero(found | masks[n])
        assert overlap > 0.7, f"object {n + 1} with {len(followed) - 1} others: IoU {overlap:.2f}"


@pytest.mark.parametrize(("frames", "columns"), [(1, 14), (2, 26)])
def test_the_reach_grows_with_the_frames_since_an_object_was_seen(
    frames: int, columns: int
) -> None:
    mask = torch.zeros(20, 20)
    mask[9:11, 9:11] = 1
    limited = limit_to_reach(
        torch.zeros(2, 40, 40), (3, 4), {3: Sighting(mask, 0, 2.0)}, frames, 1.0
    )
    assert (limited[1] == 0).all()  # never seen: anywhere
    assert (limited[0, 20] == 0).sum() == columns + 2
    assert limited[0].min() == OUT_OF_REACH


def test_an_object_that_was_cut_off_keeps_its_size_for_a_while() -> None:
    whole, sliver, lost = torch.zeros(3, 20, 20)
    whole[5:15, 5:15], sliver[5:15, 5] = 1, 1
    sightings = update_sightings({}, {1: whole}, 0)
    for index in (1, 2):
        sightings = update_sightings(sightings, {1: sliver}, index)
    sightings = update_sightings(sightings, {1: lost}, 3)
    assert sightings[1].mask.sum() == 10
    assert sightings[1].size == pytest.approx(10 * FADING**2)
    free = limit_to_reach(torch.zeros(1, 40, 40), (1,), sightings, 4, 0.2)[0, 20] == 0
    radius = round(2 * (MARGIN + 0.2 * sightings[1].size))
    assert free.sum() == 2 * (5 + radius + 1)


def test_the_sighting_of_a_lost_object_is_kept() -> None:
    seen, lost = torch.zeros(4, 4), torch.full((4, 4), 0.4)
    seen[1, 1] = 0.6
    first = update_sightings({}, {1: seen, 2: seen}, 0)
    second = update_sightings(first, {1: lost}, 1)
    assert list(second) == [1]
    assert second[1].index == 0
    assert second[1].mask.sum() == 1
    assert update_sightings(first, {}, 1) == {}
