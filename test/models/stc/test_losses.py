"""Targets and losses of CondInst against both implementations."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from models.stc.conftest import Arrays, Seeded
from models.stc.test_condinst import LEVELS, assert_near, level_maps

from stemseg_ros.geometry import Letterbox
from stemseg_ros.models.stc.condinst import CondInst, ImageOutput
from stemseg_ros.models.stc.heads import Grid, location_grid
from stemseg_ros.models.stc.input_format import network_input
from stemseg_ros.models.stc.load import rename_to_mmdet
from stemseg_ros.models.stc.losses import (
    detection_losses,
    mask_loss,
    predict_sampled_masks,
    sample_masks,
)
from stemseg_ros.models.stc.targets import (
    LocationTargets,
    Truth,
    assign_locations,
    compute_centerness,
)
from stemseg_ros.models.stc.trainable import freeze

LOSS_NAMES = {
    "mmdet": ("loss_cls", "loss_bbox", "loss_centerness", "loss_mask"),
    "adelaidet": ("loss_fcos_cls", "loss_fcos_loc", "loss_fcos_ctr", "loss_mask"),
}


def golden_truth(golden: Arrays, suffix: str, padded: tuple[int, int]) -> Truth:
    shape = golden[f"gt_masks_shape{suffix}"]
    masks = np.unpackbits(golden[f"gt_masks{suffix}"])[: shape.prod()].reshape(shape)
    padding = (0, padded[1] - shape[2], 0, padded[0] - shape[1])
    return Truth(
        torch.from_numpy(golden[f"gt_boxes{suffix}"]),
        torch.from_numpy(golden[f"gt_labels{suffix}"]),
        F.pad(torch.from_numpy(masks), padding),
        torch.arange(len(masks)) + 1,
    )


def compare_targets(targets: LocationTargets, golden: Arrays, grid: Grid, row: object) -> None:
    parts = targets.labels.split(grid.level_lengths), targets.distances.split(grid.level_lengths)
    background = golden["classes"]
    for level, labels, distances in zip(LEVELS, *parts, strict=True):
        expected = golden[f"labels_{level}"][row]
        np.testing.assert_array_equal(labels, expected)
        positive = expected != background
        np.testing.assert_allclose(
            distances[positive], golden[f"targets_{level}"][row][positive], rtol=1e-6, atol=1e-6
        )


def test_targets_golden(stc_golden: Callable[[str], Arrays]) -> None:
    golden = stc_golden("condinst_targets")
    size = int(golden["height"]), int(golden["width"])
    grid = location_grid(size)
    targets = assign_locations(golden_truth(golden, "", size), grid, int(golden["classes"]), 1.5)
    compare_targets(targets, golden, grid, ...)
    np.testing.assert_array_equal(targets.positive, golden["positive_index"])
    np.testing.assert_array_equal(targets.truth[targets.positive], golden["positive_gt"])
    assert_near(compute_centerness(targets.distances[targets.positive]), golden["centerness"])


class TrainingCase:
    """Output and losses of the network in training mode on the batch of a golden file."""

    def __init__(self, golden: Arrays, network: CondInst, variant: str) -> None:
        images = [golden[f"image_bgr_{n}"] for n in range(int(golden["images"]))]
        padded = tuple(
            -(-max(image.shape[axis] for image in images) // 32) * 32 for axis in (0, 1)
        )
        self.inputs = torch.cat(
            [
                network_input(image, Letterbox(image.shape[:2], image.shape[:2], padded), variant)
                for image in images
            ]
        )
        self.grid = location_grid(padded)
        self.truths = [golden_truth(golden, f"_{n}", padded) for n in range(len(images))]
        self.targets = [
            assign_locations(truth, self.grid, int(golden["classes"]), 1.5)
            for truth in self.truths
        ]
        self.network = deepcopy(network).train()
        freeze(self.network, variant)
        self.output: ImageOutput = self.network(self.inputs)
        for part in (
            self.output.head.distances,
            self.output.head.centerness_logits,
            self.output.head.parameters,
        ):
            part.retain_grad()
        self.samples = sample_masks(self.targets, variant)
        self.losses = detection_losses(self.output, self.targets, variant)
        self.losses["mask"] = mask_loss(self.output, self.samples, self.truths, self.grid)
        sum(self.losses.values()).backward()


@pytest.fixture(scope="module", params=["mmdet", "adelaidet"])
def trained(
    request: pytest.FixtureRequest, stc_golden: Callable[[str], Arrays], seeded_condinst: Seeded
) -> tuple[str, Arrays, TrainingCase]:
    variant = request.param
    golden = stc_golden(f"condinst_{variant}_training")
    return variant, golden, TrainingCase(golden, seeded_condinst(variant, golden), variant)


def test_training_targets_golden(trained: tuple[str, Arrays, TrainingCase]) -> None:
    variant, golden, case = trained
    for image, targets in enumerate(case.targets):
        compare_targets(targets, golden, case.grid, image)
        if variant == "mmdet":
            np.testing.assert_array_equal(targets.positive, golden[f"positive_index_{image}"])
            truth = targets.truth[targets.positive]
            np.testing.assert_array_equal(truth, golden[f"positive_gt_{image}"])


def test_losses_golden(trained: tuple[str, Arrays, TrainingCase]) -> None:
    variant, golden, case = trained
    for name, expected in zip(case.losses, LOSS_NAMES[variant], strict=True):
        assert case.losses[name].item() == pytest.approx(float(golden[expected]), rel=1e-5), name
    total = sum(case.losses.values()).item()
    assert total == pytest.approx(float(golden["total"]), rel=1e-5)


def test_gradients_golden(trained: tuple[str, Arrays, TrainingCase]) -> None:
    _, golden, case = trained
    parameters = {name: p for name, p in case.network.named_parameters() if p.grad is not None}
    names = [rename_to_mmdet(name) for name in golden["gradient_names"]]
    assert sorted(names) == sorted(parameters)
    norms = [parameters[name].grad.norm().item() for name in names]
    np.testing.assert_allclose(norms, golden["gradient_norms"], rtol=2e-3, atol=1e-7)


def test_output_gradients_golden(trained: tuple[str, Arrays, TrainingCase]) -> None:
    variant, golden, case = trained
    if variant != "mmdet":
        return  # the golden file of adelaidet has no gradients of outputs
    assert_near(case.inputs, golden["input"])
    head = case.output.head
    for name, rows in (
        ("class_logits", head.class_logits),
        ("box_distances", head.distances),
        ("centerness_logits", head.centerness_logits[..., None]),
        ("gradient_box_distances", head.distances.grad),
        ("gradient_centerness_logits", head.centerness_logits.grad[..., None]),
        ("gradient_controller", head.parameters.grad),
    ):
        for level, maps in zip(LEVELS, level_maps(rows.detach(), case.grid), strict=True):
            if f"{name}_{level}" in golden:
                # By rounding, the input of a ReLU near 0 may fall on either side.
                tolerance = 3e-3 if name.startswith("gradient") else 1e-5
                assert_near(maps, golden[f"{name}_{level}"], tolerance)
    for image, sample in enumerate(case.samples):
        expected = golden[f"positive_mask_logits_{image}"] if len(sample.locations) else None
        if expected is not None:
            logits = predict_sampled_masks(case.output, image, sample, case.grid)[: len(expected)]
            assert_near(logits.detach(), expected, 2e-5)


def test_running_mean_golden(trained: tuple[str, Arrays, TrainingCase]) -> None:
    variant, golden, case = trained
    if variant == "mmdet":
        mean = case.network.state_dict()[str(golden["running_mean_key"])]
        assert_near(mean, golden["running_mean_after_one_step"])
