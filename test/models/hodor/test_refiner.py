"""Masks move with the pixels that they cover, and correct the logits of their own object."""

from __future__ import annotations

import pytest
import torch

from stemseg_ros.config import ConfigError, load_config
from stemseg_ros.models.hodor.refiner import RADIUS, Refiner, move_masks

REFINED = {"network.refinement": True}


def shifted(maps: torch.Tensor, shift: tuple[int, int]) -> torch.Tensor:
    """Shift maps cyclically by rows and columns."""
    return maps.roll(shift, (-2, -1))


@pytest.mark.parametrize("shift", [(0, 0), (2, -3), (-RADIUS, RADIUS)])
def test_masks_move_with_their_pixels(shift: tuple[int, int]) -> None:
    random = torch.Generator().manual_seed(0)
    noise = torch.randn(1, 16, 20, 24, generator=random)
    earlier = 20 * torch.nn.functional.normalize(noise, dim=1)  # no two pixels look alike
    masks = torch.zeros(1, 2, 20, 24)
    masks[0, 0, 6:10, 7:12], masks[0, 1, 11:14, 8:15] = 1, 0.5
    moved = move_masks(shifted(earlier, shift), earlier, masks)
    inner = (..., slice(RADIUS, -RADIUS), slice(RADIUS, -RADIUS))  # others came from outside
    assert torch.allclose(moved[inner], shifted(masks, shift)[inner], atol=1e-3)


def test_masks_do_not_reach_beyond_the_radius() -> None:
    earlier, masks = torch.zeros(1, 16, 30, 30), torch.zeros(1, 1, 30, 30)
    masks[..., 15, 15] = 1
    moved = move_masks(earlier, earlier, masks)[0, 0]  # all pixels look alike
    covered = 2 * RADIUS + 1
    assert (moved > 0).sum() == covered**2
    assert moved.max() == pytest.approx(1 / covered**2)


def test_objects_are_corrected_alike_in_any_order_and_backgrounds_not_at_all() -> None:
    torch.manual_seed(0)
    refiner = Refiner(32).eval()
    torch.nn.init.normal_(refiner.output.weight)
    logits, masks = torch.randn(1, 13, 12, 16), torch.rand(1, 3, 12, 16)
    maps = torch.randn(3, 1, 32, 12, 16).unbind(0)
    order = [2, 0, 1]
    with torch.no_grad():
        refined = refiner(logits, *maps, masks)
        permuted = torch.cat((logits[:, :10], logits[:, 10:][:, order]), 1)
        again = refiner(permuted, *maps, masks[:, order])
    assert torch.equal(refined[:, :10], logits[:, :10])
    assert not torch.allclose(refined[:, 10:], logits[:, 10:])
    assert torch.allclose(again[:, 10:], refined[:, 10:][:, order], atol=1e-5)


def test_an_untrained_refiner_changes_nothing() -> None:
    logits = torch.randn(1, 11, 8, 8)
    with torch.no_grad():
        maps = torch.randn(3, 1, 32, 8, 8).unbind(0)
        assert torch.equal(Refiner(32)(logits, *maps, torch.rand(1, 1, 8, 8)), logits)


def test_refinement_needs_the_previous_masks() -> None:
    with pytest.raises(ConfigError, match="refinement needs previous_masks"):
        load_config("hodor_lite", {**REFINED, "network.previous_masks": False})
