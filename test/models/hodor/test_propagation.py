"""Videos frame by frame against the released code; bad masks are refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hodor_calls import run_calls
from hodor_recipe import golden_config, golden_file, recipe_network

from stemseg_ros.models.hodor.letterbox import letterbox, resize_to_image
from stemseg_ros.models.hodor.propagation import Propagator

MAX_LABEL_PIXELS = 5


@pytest.mark.parametrize("name", ["video_window", "video_new_object"])
def test_golden_video(name: str) -> None:
    golden = np.load(golden_file(f"{name}.npz"))
    config = golden_config(min_dim=int(golden["min_dim"]), max_dim=int(golden["max_dim"]))
    propagation = config.propagation.model_copy(update={"window": int(golden["window"])})
    network = recipe_network(config.model_copy(update={"propagation": propagation}))
    propagator = Propagator(network.config, torch.device("cpu"))
    starts = list(zip(golden["ids"], golden["first_frame"], golden["masks"] > 0, strict=True))
    frames = golden["frames_bgr"]
    for t, frame in enumerate(frames):
        given = {int(track_id): mask for track_id, first, mask in starts if first == t}
        result = run_calls(network, propagator.step(frame, given))
        wrong = np.count_nonzero(result.labels != golden[f"labels_{t}"])
        assert wrong <= MAX_LABEL_PIXELS, f"frame {t}: {wrong} label pixels"
        if f"logits_{t}" in golden.files:
            assert list(result.ids) == list(golden[f"object_ids_{t}"])
            near(result.logits, golden[f"logits_{t}"], 1e-3)
            geometry = letterbox(frame.shape[:2], network.config.input)
            probabilities = resize_to_image(result.probabilities, geometry)
            near(probabilities, golden[f"object_probs_{t}"], 2e-4)
            near(result.regions[9:], golden[f"encoder_masks_{t}"], 2e-4)
        if f"descriptor_ids_{t}" in golden.files:
            ids = golden[f"descriptor_ids_{t}"].tolist()
            descriptors, present = propagator.state.memory.history(ids)
            assert present[-1].all()
            near(descriptors[-1, :9], golden[f"bg_descriptors_{t}"], 2e-4)
            near(descriptors[-1, 9:], golden[f"fg_descriptors_{t}"], 2e-4)


@pytest.mark.parametrize(
    ("track_id", "shape", "fill", "reason"),
    [(1, (20, 30), True, "30x20"), (1, (64, 96), False, "empty"), (0, (64, 96), True, "below 1")],
)
def test_bad_masks_are_refused(
    track_id: int, shape: tuple[int, int], fill: bool, reason: str
) -> None:
    network = recipe_network(golden_config(min_dim=64, max_dim=96))
    propagator = Propagator(network.config, torch.device("cpu"))
    with pytest.raises(ValueError, match=reason):
        image = np.zeros((64, 96, 3), np.uint8)
        run_calls(network, propagator.step(image, {track_id: np.full(shape, fill)}))
    assert propagator.state.ids == ()


@pytest.mark.parametrize(
    ("empty_frames", "size"), [("reference", (64, 96)), ("corrected", (50, 75))]
)
def test_label_images_before_the_first_object(empty_frames: str, size: tuple[int, int]) -> None:
    config = golden_config(min_dim=64, max_dim=96)
    propagation = config.propagation.model_copy(update={"empty_frames": empty_frames})
    propagator = Propagator(
        config.model_copy(update={"propagation": propagation}), torch.device("cpu")
    )
    with pytest.raises(StopIteration) as done:
        next(propagator.step(np.zeros((50, 75, 3), np.uint8), {}))
    labels = done.value.value.labels
    assert labels.shape == size
    assert not labels.any()


def near(actual: torch.Tensor, expected: np.ndarray, limit: float) -> None:
    np.testing.assert_allclose(actual.numpy(), expected, rtol=0, atol=limit)
