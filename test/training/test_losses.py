"""Losses: equal to the released code's, the Lovász hinge by hand, and what the corrected variant
changes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from stemseg_ros.config import Config, load_config
from stemseg_ros.training.losses import embedding_loss, lovasz_hinge, semantic_loss

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
    return load_config("lite", {f"training.{name}": value for name, value in training.items()})


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


def test_corrected_losses_do_not_see_ignored_cells() -> None:
    output, masks, ignore = scene()
    losses = []
    for value in (0.1, 0.9):
        changed = output.clone()
        changed[0, :, :, 9:, 12:] = value
        losses.append(embedding_loss(changed, masks, ignore, config())["embedding"])
    torch.testing.assert_close(losses[0], losses[1])


@pytest.mark.parametrize(("targets", "equal"), [("corrected", True), ("reference", False)])
def test_semantic_loss_at_ignored_cells(targets: str, equal: bool) -> None:
    logits = torch.randn(1, 4, 4, 12, 16)
    _, masks, ignore = scene()
    classes = masks[0].amax(0, keepdim=True).long()
    changed = logits.clone()
    changed[0, :, :, 9:, 12:] += 3 * torch.randn(4, 4, 3, 4)
    a, b = (semantic_loss(x, classes, ignore, config(targets=targets)) for x in (logits, changed))
    assert torch.allclose(a, b) is equal


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
