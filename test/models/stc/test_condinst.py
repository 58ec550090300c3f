"""Network and postprocessing against the two implementations of CondInst."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from models.stc.conftest import Arrays, Seeded

from stemseg_ros.geometry import Letterbox
from stemseg_ros.models.stc.condinst import CondInst, ImageOutput
from stemseg_ros.models.stc.heads import Grid, HeadOutput, location_grid
from stemseg_ros.models.stc.input_format import network_input
from stemseg_ros.models.stc.mask_head import predict_masks
from stemseg_ros.models.stc.postprocess import (
    Detections,
    detect,
    predict_detection_masks,
    resize_mask,
    scale_boxes,
)
from stemseg_ros.models.stc.settings import CondInstConfig

VARIANTS = ("mmdet", "adelaidet")
LEVELS = ("p3", "p4", "p5", "p6", "p7")


def assert_near(
    actual: object, expected: np.ndarray, scale: float = 1e-5, largest: float | None = None
) -> None:
    """Compare up to ``scale`` times the largest value (by default that of ``expected``). Errors
    are about 2e-6 on the processor of the golden files, and larger on others."""
    if largest is None:
        largest = np.abs(expected).max(initial=0)
    np.testing.assert_allclose(
        np.asarray(actual), expected, rtol=0, atol=scale * max(largest, 1e-9)
    )


def level_maps(rows: torch.Tensor, grid: Grid) -> list[torch.Tensor]:
    """Reshape (N, L, C) to (N, C, h, w) of each level."""
    parts = rows.split(grid.level_lengths, dim=1)
    return [
        part.transpose(1, 2).unflatten(2, size)
        for part, size in zip(parts, grid.level_sizes, strict=True)
    ]


def run(network: CondInst, golden: Arrays, variant: str) -> tuple[ImageOutput, Grid, Letterbox]:
    image = golden["image_bgr"]
    padded = tuple(golden["input"].shape[-2:])
    geometry = Letterbox(tuple(golden["original_size"].tolist()), image.shape[:2], padded)
    already_resized = Letterbox(image.shape[:2], image.shape[:2], padded)
    images = network_input(image, already_resized, variant)
    assert_near(images[0], golden["input"])
    with torch.inference_mode():
        return network(images), location_grid(padded), geometry


@pytest.mark.parametrize("variant", VARIANTS)
def test_network_golden(
    variant: str,
    stc_golden: Callable[[str], Arrays],
    seeded_condinst: Seeded,
) -> None:
    golden = stc_golden(f"condinst_{variant}")
    network = seeded_condinst(variant, golden)
    output, grid, _ = run(network, golden, variant)
    with torch.inference_mode():
        levels = network.pyramid(torch.from_numpy(golden["input"])[None])
    maps = {
        "class_logits": level_maps(output.head.class_logits, grid),
        "box_distances": level_maps(output.head.distances * grid.strides[:, None], grid),
        "centerness_logits": level_maps(output.head.centerness_logits[..., None], grid),
        "controller": level_maps(output.head.parameters, grid),
    }
    for number, level in enumerate(LEVELS):
        assert_near(levels[number][0, :8], golden[level])
        for name, values in maps.items():
            if f"{name}_{level}" in golden:
                # One head computes all levels, and the coarsest have few and small values.
                whole = [golden[f"{name}_{each}"] for each in LEVELS if f"{name}_{each}" in golden]
                largest = max(float(np.abs(each).max()) for each in whole)
                assert_near(values[number][0], golden[f"{name}_{level}"], largest=largest)
    assert_near(output.mask_features[0], golden["mask_features"])


def test_location_masks_golden(
    stc_golden: Callable[[str], Arrays], seeded_condinst: Seeded
) -> None:
    golden = stc_golden("condinst_mmdet")
    output, grid, _ = run(seeded_condinst("mmdet", golden), golden, "mmdet")
    first = np.cumsum([0, *grid.level_lengths])
    where = [
        first[level - 3] + y * grid.level_sizes[level - 3][1] + x
        for level, y, x in golden["location_level_y_x"]
    ]
    logits = predict_masks(
        output.mask_features[0],
        output.head.parameters[0, where],
        grid.points[where],
        grid.strides[where],
    )
    assert_near(logits, golden["location_mask_logits"], 2e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_detections_golden(
    variant: str,
    stc_golden: Callable[[str], Arrays],
    seeded_condinst: Seeded,
) -> None:
    golden = stc_golden(f"condinst_{variant}")
    output, grid, geometry = run(seeded_condinst(variant, golden), golden, variant)
    config = CondInstConfig(variant=variant)
    found = detect(output.head, grid, geometry, config)
    before = "boxes_input_scale" if variant == "mmdet" else "proposal_boxes"
    assert_near(found.boxes, golden[before])
    logits = predict_detection_masks(found, output.head, output.mask_features, grid)
    if variant == "mmdet":
        assert_near(logits, golden["detection_mask_logits"], 2e-5)
    else:
        np.testing.assert_allclose(
            logits.sigmoid(), golden["proposal_masks_stride4"], rtol=0, atol=1e-4
        )
    scaled = scale_boxes(found, geometry, config)
    assert_near(scaled.boxes, golden["boxes"])
    assert_near(scaled.scores, golden["scores"])
    np.testing.assert_array_equal(scaled.labels, golden["labels"])
    compare_masks(logits.sigmoid().numpy(), golden, geometry)


def compare_masks(probabilities: np.ndarray, golden: Arrays, geometry: Letterbox) -> None:
    shape = golden["masks_shape"]
    expected = np.unpackbits(golden["masks"])[: shape.prod()].reshape(shape).astype(bool)
    masks = np.zeros_like(expected)
    for mask, probability in zip(masks, probabilities, strict=True):
        crop, top, left = resize_mask(probability, geometry, 0.5)
        mask[top : top + crop.shape[0], left : left + crop.shape[1]] = crop
    assert (masks != expected).sum() <= 10


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", ["cap", "limit"])
def test_postprocess_golden(name: str, variant: str, stc_golden: Callable[[str], Arrays]) -> None:
    golden = stc_golden(f"condinst_postprocess_{name}")
    input_size = tuple(golden["input_size"].tolist())
    padded = tuple(8 * side for side in golden["class_logits_p3"].shape[1:])
    geometry = Letterbox(tuple(golden["original_size"].tolist()), input_size, padded)
    head = given_head(golden)
    config = CondInstConfig(variant=variant)
    grid = location_grid(padded)
    found = scale_boxes(detect(head, grid, geometry, config), geometry, config)
    compare_detections(found, grid, golden, variant)


def given_head(golden: Arrays) -> HeadOutput:
    def rows(name: str) -> torch.Tensor:
        maps = [torch.from_numpy(golden[f"{name}_{level}"]) for level in LEVELS]
        return torch.cat([m.flatten(1).T for m in maps])[None]

    nothing = torch.zeros(1, 0, 0)
    return HeadOutput(
        rows("class_logits"),
        rows("box_distances"),
        rows("centerness_logits")[..., 0],
        nothing,
        nothing,
    )


def compare_detections(found: Detections, grid: Grid, golden: Arrays, variant: str) -> None:
    assert_near(found.boxes, golden[f"{variant}_boxes"])
    assert_near(found.scores, golden[f"{variant}_scores"])
    np.testing.assert_array_equal(found.labels, golden[f"{variant}_labels"])
    np.testing.assert_array_equal(grid.points[found.locations], golden[f"{variant}_points"])
    np.testing.assert_array_equal(grid.strides[found.locations], golden[f"{variant}_strides"])
