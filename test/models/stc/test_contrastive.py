"""Contrastive loss of embeddings between two frames."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from models.stc.conftest import Arrays

from stemseg_ros.models.stc.contrastive import (
    LocationEmbeddings,
    anchor_loss,
    contrastive_loss,
    cosine_loss,
)


def rows(golden: Arrays, frame: str, number: int) -> LocationEmbeddings:
    embeddings = torch.from_numpy(golden[f"{frame}_embeddings_{number}"]).requires_grad_()
    return LocationEmbeddings(embeddings, torch.from_numpy(golden[f"{frame}_ids_{number}"]))


def test_contrastive_golden(stc_golden: Callable[[str], Arrays]) -> None:
    golden = stc_golden("stc_contrastive")
    frames = ("key", "reference")
    pairs = [tuple(rows(golden, f, n) for f in frames) for n in range(int(golden["clips"]))]
    for number, (key, reference) in enumerate(pairs):
        for name, own, other in (
            ("key_to_reference", key, reference),
            ("reference_to_key", reference, key),
        ):
            loss, expected = anchor_loss(own, other), float(golden[f"{name}_{number}"])
            if np.isnan(expected):
                assert loss is None
            else:
                assert loss is not None and loss.item() == pytest.approx(expected, abs=1e-9)
    total = contrastive_loss(pairs)
    assert total.item() == pytest.approx(float(golden["loss"]), abs=1e-9)
    total.backward()
    for number, pair in enumerate(pairs):
        for name, part in zip(frames, pair, strict=True):
            expected = golden[f"gradient_{name}_{number}"]
            gradient = part.embeddings.grad
            found = np.zeros_like(expected) if gradient is None else gradient.numpy()
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("loss", [contrastive_loss, cosine_loss])
def test_without_anchors_the_loss_is_zero_and_differentiable(
    loss: Callable[..., torch.Tensor],
) -> None:
    background = LocationEmbeddings(torch.ones(2, 3, requires_grad=True), torch.tensor([0, 0]))
    value = loss([(background, background)])
    value.backward()
    assert value.item() == 0
    assert background.embeddings.grad is not None and not background.embeddings.grad.any()


def test_cosine_loss_by_hand() -> None:
    key = LocationEmbeddings(torch.tensor([[2.0, 0.0]]), torch.tensor([1]))
    reference = LocationEmbeddings(torch.tensor([[3.0, 3.0], [0.0, 1.0]]), torch.tensor([1, 0]))
    expected = ((0.5**0.5 - 1) ** 2 + 0.0) / 2
    assert cosine_loss([(key, reference)]).item() == pytest.approx(expected, abs=1e-6)
