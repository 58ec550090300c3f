"""Losses and propagation patterns against the released training code, without dropout."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hodor_recipe import golden_config, golden_file, recipe_network
from torch import Tensor

from stemseg_ros.models.hodor.letterbox import letterbox, letterbox_image
from stemseg_ros.models.hodor.losses import IGNORED, dice_loss, propagation_losses
from stemseg_ros.models.hodor.network import Hodor
from stemseg_ros.models.hodor.patterns import ClipPropagation, propagate, select_truth

CASES = [("dense_it0", 0, False), ("dense_it1", 1, False), ("sparse_it1", 1, True)]


def test_golden_loss() -> None:
    golden = np.load(golden_file("loss.npz"))
    logits = torch.from_numpy(golden["logits"]).requires_grad_()
    losses = propagation_losses(logits, torch.from_numpy(golden["gt"]))
    losses["total"].backward()
    assert losses["dice"].item() == pytest.approx(golden["dice"], abs=5e-5)
    assert losses["cross_entropy"].item() == pytest.approx(golden["cross_entropy"], abs=5e-5)
    assert losses["total"].item() == pytest.approx(golden["loss"], abs=5e-5)
    np.testing.assert_allclose(logits.grad, golden["gradient"], rtol=0, atol=1e-6)


def test_ignored_pixels_do_not_count() -> None:
    torch.manual_seed(0)
    logits = torch.randn(1, 2, 1, 4, 4)
    truth = torch.zeros(1, 1, 4, 4, dtype=torch.uint8)
    truth[..., :2, :] = 1
    left = propagation_losses(logits[..., :2], truth[..., :2])
    truth[..., 2:] = IGNORED
    both = propagation_losses(logits, truth)
    assert both["cross_entropy"].item() == pytest.approx(left["cross_entropy"].item(), rel=1e-5)
    # The means over pixels differ by a factor, which affects the smoothing only.
    assert both["dice"].item() == pytest.approx(left["dice"].item(), rel=1e-4)


def test_perfect_prediction_has_no_dice_loss() -> None:
    truth = torch.tensor([[[[0, 1], [2, 2]]]])
    logits = 50.0 * torch.nn.functional.one_hot(truth, 3).permute(0, 4, 1, 2, 3).float()
    assert dice_loss(logits, truth).item() == pytest.approx(0, abs=1e-5)
    blank = torch.zeros_like(logits)  # 1/3 for each class; objects cover 3/4 of the pixels
    assert dice_loss(blank, truth).item() == pytest.approx(
        1 - (2 * 0.25) / (2 / 3 + 0.75), abs=1e-5
    )


@pytest.mark.parametrize(("name", "iteration", "sparse"), CASES, ids=[c[0] for c in CASES])
def test_golden_training_step(name: str, iteration: int, sparse: bool) -> None:
    golden = np.load(golden_file("train.npz"))
    expected = {k.removeprefix(f"{name}_"): golden[k] for k in golden.files if name in k}
    labels = torch.from_numpy(golden["labels"])
    network = recipe_network(golden_config(min_dim=64, max_dim=96))
    present = torch.from_numpy(golden["present"])
    if sparse:  # the other frames have no labels
        present = torch.ones_like(present)
    masks = torch.stack([labels[:, 0] == number for number in (1, 2)], 1).float()
    clip = ClipPropagation(network, _features(network, golden["frames_bgr"]), present)
    predictions = propagate(clip, masks, iteration)
    if sparse:
        predictions = [prediction for prediction in predictions if prediction.target == 0]
    truth = select_truth(predictions, labels)
    logits = torch.stack([prediction.logits for prediction in predictions], 2)
    losses = propagation_losses(logits, truth)
    losses["total"].backward()

    assert [prediction.target for prediction in predictions] == list(expected["target_frames"])
    np.testing.assert_array_equal(truth, expected["gt"])
    sampled = logits.detach()[..., ::4, ::4]
    np.testing.assert_allclose(sampled, expected["pred_logits"], rtol=0, atol=2e-3)
    for ours, theirs in (("total", "loss"), ("dice", "dice"), ("cross_entropy", "cross_entropy")):
        assert losses[ours].item() == pytest.approx(expected[theirs], abs=5e-5)
    _compare_gradients(network, expected)


def _features(network: Hodor, frames: np.ndarray) -> list[tuple[Tensor, Tensor]]:
    """frames: uint8 (B, frames, H, W, 3), BGR."""
    config = network.config.input
    geometry = letterbox((frames.shape[2], frames.shape[3]), config)
    images = torch.stack(
        [letterbox_image(f, geometry, config) for f in torch.from_numpy(frames).flatten(0, 1)]
    )
    fine, coarse = network.encode(images)
    size = frames.shape[:2]
    maps = (x.unflatten(0, size).unbind(1) for x in (fine, coarse))
    return list(zip(*maps, strict=True))


def _compare_gradients(network: Hodor, expected: dict[str, np.ndarray]) -> None:
    parameters = dict(network.named_parameters())
    without = [key for key, value in parameters.items() if value.grad is None]
    assert sorted(without) == sorted(expected["no_gradient"])
    norms = {k: v.grad.double().norm().item() for k, v in parameters.items() if v.grad is not None}
    total = np.sqrt(sum(norm**2 for norm in norms.values()))
    assert total == pytest.approx(expected["grad_norm_total"], rel=1e-3)
    assert norms.keys() == set(expected["grad_norm_keys"])
    for key, norm in zip(expected["grad_norm_keys"], expected["grad_norms"], strict=True):
        # Gradients of key biases are zero up to rounding, so their relative error is meaningless.
        assert norms[key] == pytest.approx(norm, rel=1e-2, abs=1e-4), key
    for name, gradient in expected.items():
        if name.startswith("grad:"):
            ours = parameters[name.removeprefix("grad:")].grad
            scale = np.abs(gradient).max()
            np.testing.assert_allclose(ours, gradient, rtol=0, atol=1e-2 * scale, err_msg=name)
