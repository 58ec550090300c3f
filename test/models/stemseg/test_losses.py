"""Losses: equal to the released code's, the Lovász hinge by hand, and what the corrected variant
changes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stemseg_ros.config import Config, load_config, update_config
from stemseg_ros.models.stemseg.losses import embedding_loss, saliency_loss, semantic_loss
from stemseg_ros.models.stemseg.losses import lovasz_hinge as lovasz_of_pairs


def lovasz_hinge(logits: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Of whole rows, (I, P)."""
    instance = torch.arange(len(masks)).repeat_interleave(masks.shape[1])
    return lovasz_of_pairs(logits.flatten(), masks.flatten(), instance, len(masks))


TERMS = ("embedding", "lovasz", "variance_smoothness", "heatmap")


@pytest.mark.parametrize("mixing", ["xyt", "xyff"])
def test_equals_the_released_code(golden: Callable[[str], Path], mixing: str) -> None:
    expected = np.load(golden(f"loss_{mixing}.npz"))
    output = torch.from_numpy(expected["network_output"]).requires_grad_()
    config = load_config("kitti_mots", {"network.mixing": mixing})
    masks, ignore = (torch.from_numpy(expected[name]) for name in ("masks", "ignore"))
    losses = embedding_loss(output, masks, ignore, config)
    losses["embedding"].backward()
    for term in TERMS:
        assert losses[term].item() == pytest.approx(float(expected[term]), abs=1e-6), term
    assert output.grad is not None
    np.testing.assert_allclose(output.grad.numpy(), expected["gradient"], rtol=0, atol=1e-7)


@pytest.mark.parametrize(
    ("logits", "mask", "expected", "why"),
    [
        ([2.0, -3.0, 1.5, -1.0], [1, 0, 1, 0], 0.0, "every margin is kept"),
        # errors 2 (false negative), 0.5 (true positive), 0, 0; Jaccard 1/2 after one miss, then 1
        (
            [-1.0, 0.5, -1.0, -1.0],
            [1, 1, 0, 0],
            2 * 0.5 + 0.5 * 0.5,
            "one missed pixel, one inside the margin",
        ),
        # a false positive enters the union: Jaccard loss 1 - 1/2
        ([1.0, 1.0], [1, 0], 2 * 0.5, "one false positive beside one hit"),
    ],
)
def test_lovasz_hinge_by_hand(
    logits: list[float], mask: list[int], expected: float, why: str
) -> None:
    loss = lovasz_hinge(torch.tensor([logits]), torch.tensor([mask], dtype=torch.float32))
    assert loss.item() == pytest.approx(expected), why


def test_lovasz_hinge_of_a_hard_mask_is_the_jaccard_loss() -> None:
    generator = torch.Generator().manual_seed(0)
    truth = torch.rand(5, 50, generator=generator) > 0.6
    guess = torch.rand(5, 50, generator=generator) > 0.5
    jaccard = 1 - (truth & guess).sum(1) / (truth | guess).sum(1)
    # errors are 0 where right and 2 where wrong, so the extension is twice the set function
    loss = lovasz_hinge(2.0 * guess - 1, truth.float())
    torch.testing.assert_close(loss, 2 * jaccard)


def config(**training: object) -> Config:
    settings = {f"training.{name}": value for name, value in training.items()}
    return load_config("lite", {"network.mixing": "xyt", **settings})


def scene() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Random network output for a window with a large and a small instance, and an ignored
    corner."""
    torch.manual_seed(1)
    output = torch.randn(1, 7, 4, 12, 16) * 0.3
    output[:, 6] = output[:, 6].sigmoid()
    masks = torch.zeros(1, 3, 4, 12, 16, dtype=torch.uint8)
    masks[0, 0, :, 2:10, 1:9] = 1
    masks[0, 1, :, 4:6, 12:14] = 1  # 16 cells; mask 2 stays empty
    ignore = torch.zeros(1, 4, 12, 16, dtype=torch.uint8)
    ignore[:, :, 9:, 12:] = 1
    return output, masks, ignore


def all_losses(
    maps: torch.Tensor, masks: torch.Tensor, ignore: torch.Tensor, chosen: Config
) -> tuple[torch.Tensor, torch.Tensor]:
    """Every loss, and the gradient of their sum by ``maps``: 7 channels of the embedding decoder,
    4 of the semantic one, 2 of saliency."""
    maps = maps.clone().requires_grad_()
    classes = masks.amax(1).long()
    losses = [
        *embedding_loss(maps[:, :7], masks, ignore, chosen).values(),
        semantic_loss(maps[:, 7:11], classes, ignore, chosen),
        saliency_loss(maps[:, 11:], classes, ignore, chosen),
    ]
    torch.stack(losses).sum().backward()
    assert maps.grad is not None
    return torch.stack(losses).detach(), maps.grad


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    ignored=st.floats(0.0, 1.0),
    heatmap=st.sampled_from(["probability", "interior"]),
    size_power=st.sampled_from([0.0, 0.25]),
)
def test_ignored_cells_have_no_effect_in_the_corrected_variant(
    seed: int, ignored: float, heatmap: str, size_power: float
) -> None:
    """Whatever the network says and the labels claim there: losses and gradients stay."""
    generator = torch.Generator().manual_seed(seed)
    maps, other = torch.randn(2, 2, 13, 2, 8, 8, generator=generator)
    maps[:, 3:6] -= 4  # wide enough that instances see cells outside
    masks, wrong = (torch.rand(2, 2, 3, 2, 8, 8, generator=generator) > 0.7).to(torch.uint8)
    ignore = torch.rand(2, 2, 8, 8, generator=generator) < ignored
    chosen = config(heatmap_target=heatmap, size_power=size_power, min_instance_cells=0)
    losses, gradient = all_losses(maps, masks, ignore, chosen)
    spread = ignore[:, None]
    again, gradient_again = all_losses(
        torch.where(spread, other, maps), torch.where(spread, wrong, masks), ignore, chosen
    )
    torch.testing.assert_close(losses, again)
    torch.testing.assert_close(gradient, gradient_again)
    assert (gradient[spread.expand_as(gradient)] == 0).all()


@pytest.mark.parametrize(
    ("loss", "channels"), [("lovasz", slice(0, 7)), ("semantic", slice(7, 11))]
)
def test_the_reference_variant_looks_at_ignored_cells(loss: str, channels: slice) -> None:
    """As the released code does (docs/parity.md)."""
    output, masks, ignore = scene()
    maps = torch.cat([output, torch.randn(1, 6, 4, 12, 16)], dim=1)
    changed = maps.clone()
    changed[0, channels, :, 9:, 12:] += 1.0 if loss == "lovasz" else torch.randn(4, 4, 3, 4)
    index = ["lovasz", "variance_smoothness", "heatmap", "embedding", "semantic"].index(loss)
    before, after = (
        all_losses(m, masks, ignore, config(targets="reference"))[0] for m in (maps, changed)
    )
    assert not torch.isclose(before[index], after[index])


def test_small_instances_stay_out_of_the_lovasz_loss() -> None:
    output, masks, ignore = scene()
    alone = masks.clone()
    alone[0, 1] = 0
    both = embedding_loss(output, masks, ignore, config(min_instance_cells=60))
    without = embedding_loss(output, alone, ignore, config(min_instance_cells=60))
    torch.testing.assert_close(both["lovasz"], without["lovasz"])
    counted = embedding_loss(output, masks, ignore, config(min_instance_cells=0))
    assert not torch.isclose(counted["lovasz"], without["lovasz"])


def test_interior_heat_target_peaks_inside() -> None:
    """Equal embeddings inside an object: the best heat map is high in the middle, lower at the
    rim."""
    _, masks, ignore = scene()
    output = torch.zeros(1, 7, 4, 12, 16)
    output[:, 6] = 0.5
    output.requires_grad_()
    embedding_loss(output, masks, ignore, config(heatmap_target="interior"))["heatmap"].backward()
    assert output.grad is not None
    heat = output.grad[0, 6]
    assert (heat[:, 6, 5] < 0).all(), "middle: more heat wanted"
    assert (heat[:, 2, 1] > 0).all(), "corner of the object: less heat wanted"


def test_without_instances_only_the_heat_map_is_trained() -> None:
    output, masks, ignore = scene()
    output.requires_grad_()
    losses = embedding_loss(output, torch.zeros_like(masks), ignore, config())
    losses["embedding"].backward()
    assert losses["lovasz"] == 0
    assert losses["variance_smoothness"] == 0
    assert output.grad is not None
    assert (output.grad[:, :6] == 0).all()
    assert (output.grad[0, 6][ignore[0] == 0] > 0).all()


def test_wrong_number_of_channels_is_refused() -> None:
    output, masks, ignore = scene()
    with pytest.raises(
        ValueError, match="6 channels; mixing 'xyt' needs 3 embeddings, 3 variances"
    ):
        embedding_loss(output[:, :6], masks, ignore, config())


def dense_embedding_loss(
    output: torch.Tensor, masks: torch.Tensor, free_sigma: float
) -> torch.Tensor:
    """Sec. 3.4 as it is written, instance by instance and over all cells: Lovász and heat map."""
    embeddings, variance, heat = (part.flatten(1) for part in output.split([4, 2, 1]))
    lovasz, center = [], []
    for mask in masks.flatten(1).bool():
        mean = embeddings[:, mask].mean(1, keepdim=True)
        precision = (10 * variance[:, mask].exp()).mean(1)
        precision = torch.cat([precision, torch.full((2,), free_sigma**-2)])
        probability = torch.exp(-0.5 * ((embeddings - mean).square() * precision[:, None]).sum(0))
        lovasz.append(lovasz_hinge(2 * probability[None] - 1, mask[None].float())[0])
        center.append((heat[0, mask] - probability[mask].detach()).square().mean())
    outside = heat[0, ~masks.flatten(1).bool().any(0)].square().mean()
    return torch.stack(lovasz).mean() + (sum(center) + outside) / (len(lovasz) + 1)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), instances=st.integers(1, 12), spread=st.floats(-6.0, 6.0))
def test_the_pairs_that_are_left_out_change_nothing(
    seed: int, instances: int, spread: float
) -> None:
    """From bandwidths that see everything to such that see nothing: loss and gradient of the
    formula over all cells."""
    generator = torch.Generator().manual_seed(seed)
    output = torch.randn(7, 2, 8, 12, generator=generator)
    output[4:6] += spread
    output[6].sigmoid_()
    masks = torch.zeros(instances, 2, 8, 12)
    owner = torch.randint(0, instances + 3, (2, 8, 12), generator=generator)
    for i in range(instances):
        masks[i] = owner == i
    masks = masks[masks.flatten(1).any(1)]
    chosen = load_config("lite", {"network.mixing": "xyff", "training.smoothness_weight": 0.0})
    chosen = update_config(
        chosen,
        {
            "training.min_instance_cells": 0,
            "training.size_power": 0.0,
            "training.heatmap_target": "probability",
        },
    )
    fast, plain = output.clone().requires_grad_(), output.clone().requires_grad_()
    loss = embedding_loss(fast[None], masks[None], torch.zeros(1, 2, 8, 12), chosen)["embedding"]
    expected = dense_embedding_loss(plain, masks, chosen.network.free_sigma)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(loss, expected)
    assert fast.grad is not None
    assert plain.grad is not None
    torch.testing.assert_close(fast.grad, plain.grad, rtol=1e-3, atol=1e-6)
