"""Temporal consistency of masks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from models.stc.conftest import Arrays

from stemseg_ros.models.stc.consistency import (
    LocationMasks,
    compute_crossed_losses,
    consistency_loss,
    draw_partners,
    predict_crossed_masks,
)

FORMS = ("crossover_dice", "l2", "kl")


def mask_rows(golden: Arrays, frame: str) -> LocationMasks:
    ids = golden[f"{frame}_ids"]
    return LocationMasks(
        torch.from_numpy(ids),
        torch.from_numpy(golden[f"{frame}_params"]).requires_grad_(),
        torch.from_numpy(golden[f"{frame}_points"]),
        torch.from_numpy(golden[f"{frame}_strides"]),
        torch.from_numpy(golden[f"{frame}_features"]).requires_grad_(),
        torch.from_numpy(golden[f"{frame}_gt"])[ids - 1].double(),
    )


@pytest.mark.parametrize("form", FORMS)
def test_consistency_golden(form: str, stc_golden: Callable[[str], Arrays]) -> None:
    golden = stc_golden("stc_consistency")
    key, reference = mask_rows(golden, "key"), mask_rows(golden, "reference")
    forward, backward = (
        torch.from_numpy(golden[f"{frame}_pair"]) for frame in ("key", "reference")
    )
    for own, other, pair, name in (
        (key, reference, forward, "reference"),
        (reference, key, backward, "key"),
    ):
        rows = (pair >= 0).nonzero().squeeze(1)
        logits = predict_crossed_masks(own, other, rows, pair[rows])
        expected = golden[f"crossed_logits_in_{name}"]
        np.testing.assert_allclose(logits.detach(), expected, rtol=1e-9, atol=1e-9)
    for name, losses in (
        ("key_to_reference", compute_crossed_losses(key, reference, forward, form)),
        ("reference_to_key", compute_crossed_losses(reference, key, backward, form)),
    ):
        assert losses.mean().item() == pytest.approx(float(golden[f"{form}_{name}"]), abs=1e-9)
    total = consistency_loss([(key, reference)], [(forward, backward)], form)
    assert total.item() == pytest.approx(float(golden[form]), abs=1e-9)
    total.backward()
    for gradient, index, name in (
        (key.parameters.grad, golden["gradient_parameter_index"], "key_parameters"),
        (reference.features.grad, golden["gradient_feature_index"], "reference_features"),
    ):
        found = gradient[tuple(index.T)]
        np.testing.assert_allclose(found, golden[f"{form}_gradient_{name}"], rtol=0, atol=1e-6)


def test_partners_are_the_same_object() -> None:
    torch.manual_seed(0)
    ids, others = torch.tensor([3, 1, 3, 2]), torch.tensor([1, 3, 5, 3])
    drawn = torch.stack([draw_partners(ids, others) for _ in range(50)])
    assert set(drawn[:, 0].tolist()) == {1, 3} == set(drawn[:, 2].tolist())
    assert (drawn[:, 1] == 0).all() and (drawn[:, 3] == -1).all()
    assert draw_partners(ids, others[:0]).tolist() == [-1] * 4
