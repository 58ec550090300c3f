"""Labels at image size, against resizing all maps to the image."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from stemseg_ros.geometry import Letterbox
from stemseg_ros.models.hodor.label_map import label_pixels
from stemseg_ros.models.hodor.letterbox import resize_to_image


@given(
    size=st.tuples(st.integers(20, 90), st.integers(20, 90)),
    shorter=st.sampled_from([16, 32, 48]),
    backgrounds=st.sampled_from([1, 10]),
    objects=st.integers(1, 6),
    sharpness=st.sampled_from([0.5, 3.0, 20.0]),
    seed=st.integers(0, 2**16),
)
def test_labels_are_those_of_resizing_all_maps(
    size: tuple[int, int],
    shorter: int,
    backgrounds: int,
    objects: int,
    sharpness: float,
    seed: int,
) -> None:
    geometry = Letterbox.fit(size, shorter, 4 * shorter)
    height, width = geometry.padded_size
    random = torch.Generator().manual_seed(seed)
    coarse = torch.randn(1, backgrounds + objects, height // 4, width // 4, generator=random)
    maps = (sharpness * F.interpolate(coarse, scale_factor=4, mode="bilinear")[0]).softmax(0)
    best = resize_to_image(maps, geometry).max(0)
    wanted = (best.indices - backgrounds + 1).clamp(min=0)

    found = label_pixels(maps[:backgrounds], maps[backgrounds:], geometry)

    runner_up = resize_to_image(maps, geometry).topk(2, 0).values
    clear = runner_up[0] - runner_up[1] > 1e-4
    assert torch.equal(found.numbers[clear], wanted[clear])
    inside = clear & (wanted > 0)
    assert torch.allclose(found.confidence[inside], best.values[inside], atol=1e-4)
    assert (found.confidence[found.numbers == 0] == 0).all()


@pytest.mark.parametrize(
    ("first", "second", "label"),
    [(0.5, 0.5, 1), (0.2, 0.6, 2), (0.3, 0.3, 0)],
    ids=["equal objects: the first", "larger: the second", "background is larger"],
)
def test_the_largest_wins(first: float, second: float, label: int) -> None:
    objects = torch.stack((torch.full((32, 32), first), torch.full((32, 32), second)))
    background = 1 - objects.sum(0, keepdim=True)
    found = label_pixels(background, objects, Letterbox.fit((64, 64), 32, 32))
    assert (found.numbers == label).all()
