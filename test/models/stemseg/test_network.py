"""Parts of the network against the paper's and the released code's descriptions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from stemseg_ros.config import load_config
from stemseg_ros.models.layers.preprocess import letterbox, normalise, preprocess
from stemseg_ros.models.stemseg import StemSeg, load_network
from stemseg_ros.models.stemseg.mixing import coordinate_grid
from stemseg_ros.models.stemseg.settings import Mixing
from stemseg_ros.settings import InputConfig

SMALL: dict[str, Any] = {"input.min_dim": 96, "input.max_dim": 128}
EXACT: dict[str, Any] = {
    **SMALL,
    "runtime.fuse": False,
    "runtime.precision": "float32",
    "runtime.channels_last": False,
}


@pytest.mark.parametrize(
    ("image", "min_dim", "max_dim", "resized", "padded"),
    [
        ((375, 1242), 736, 1948, (588, 1948), (608, 1952)),  # the longer side decides
        ((720, 1280), 736, 1948, (736, 1308), (736, 1312)),  # the shorter side decides
        ((96, 128), 96, 128, (96, 128), (96, 128)),  # nothing to do
        ((131, 100), 96, 120, (120, 92), (128, 96)),  # portrait
        ((10, 2000), 96, 1000, (5, 1000), (96, 1024)),  # never below what the decoders can pool
    ],
)
def test_letterbox(
    image: tuple[int, int],
    min_dim: int,
    max_dim: int,
    resized: tuple[int, int],
    padded: tuple[int, int],
) -> None:
    fitted = letterbox(image, InputConfig(min_dim=min_dim, max_dim=max_dim))
    assert (fitted.image_size, fitted.resized_size, fitted.padded_size) == (image, resized, padded)


def test_padding_is_zero_after_the_mean_is_subtracted() -> None:
    config = load_config("kitti_mots", {"input.min_dim": 100, "input.max_dim": 130}).input
    out = preprocess(torch.zeros(1, 100, 130, 3, dtype=torch.uint8), config)
    assert out.shape == (1, 3, 128, 160)
    torch.testing.assert_close(out[0, :, 0, 0], -torch.tensor(config.mean_bgr))
    assert not out[:, :, 100:].any() and not out[:, :, :, 130:].any()


def test_a_frame_brings_nothing_but_its_pixels_to_the_device(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Mean and deviation are there from the first frame on, for training too."""
    config = load_config("lite").input
    frame = torch.full((1, 96, 96, 3), 200, dtype=torch.uint8)
    with torch.inference_mode():
        first = preprocess(frame, config)
    monkeypatch.delattr(torch, "tensor")
    with torch.inference_mode():
        assert torch.equal(preprocess(frame, config), first)
    pixels = frame.permute(0, 3, 1, 2).float().requires_grad_()
    normalise(pixels, config).sum().backward()
    assert pixels.grad is not None


@pytest.mark.parametrize(
    ("mixing", "channels"),
    [
        ("xy", "yx"),
        ("ff", "00"),
        ("xyt", "tyx"),
        ("xyf", "yx0"),
        ("xytf", "tyx0"),
        ("xyff", "yx00"),
        ("xytff", "tyx00"),
        ("xyfff", "yx000"),
    ],
)
def test_mixing_functions(mixing: Mixing, channels: str) -> None:
    grid = coordinate_grid(mixing, (4, 6, 12), "image", torch.tensor(1.0))[0]
    ends = {
        "t": (grid[:, 0, 0, 0], grid[:, -1, 0, 0], 1.0),
        "y": (grid[:, 0, 0, 0], grid[:, 0, -1, 0], 1.0),
        "x": (grid[:, 0, 0, 0], grid[:, 0, 0, -1], 2.0),
    }  # the longer axis reaches to w / h
    assert len(grid) == len(channels)
    for channel, axis in enumerate(channels):
        if axis == "0":
            assert not grid[channel].any()
        else:
            first, last, end = ends[axis]
            assert (first[channel].item(), last[channel].item()) == (-end, end)


def test_pixel_grid_does_not_depend_on_the_size_of_the_image() -> None:
    small, large = (
        coordinate_grid("xyt", (4, h, w), "pixels", torch.tensor(1.0))
        for h, w in ((8, 8), (16, 32))
    )
    torch.testing.assert_close(large[..., :8, :8], small)
    assert large[0, 2, 0, 0, 1] - large[0, 2, 0, 0, 0] == pytest.approx(4 / 256)


@pytest.mark.parametrize("length", [2, 4, 8, 16, 24, 32])
@pytest.mark.parametrize("mixing", ["xy", "xyt", "xyff"])
def test_every_length_gives_maps_of_the_input(length: int, mixing: str) -> None:
    config = load_config(
        "lite", {**SMALL, "window.length": length, "window.overlap": 1, "network.mixing": mixing}
    )
    network = load_network(config, "random")
    out = network.predict(
        np.random.default_rng(0).integers(0, 255, (length, 90, 120, 3), np.uint8)
    )
    grid = (length, 24, 32)
    assert out.embeddings.shape == (len(mixing), *grid)
    assert out.bandwidths.shape == (len(mixing) - mixing.count("f"), *grid)
    assert out.heatmap.shape == (1, *grid)
    assert out.semantic_logits is not None and out.semantic_logits.shape == (4, *grid)
    assert all(
        m.dtype == torch.float32 and bool(m.isfinite().all())
        for m in (out.embeddings, out.bandwidths, out.heatmap, out.semantic_logits)
    )
    assert bool((out.bandwidths > 0).all())


@pytest.mark.parametrize(("backbone", "blocks"), [("resnet50", 16), ("resnet101", 33)])
def test_resnets_have_their_depth_and_strides(backbone: str, blocks: int) -> None:
    with torch.device("meta"):
        network = StemSeg(load_config("kitti_mots", {"network.backbone": backbone}))
        maps = network.encode(torch.zeros(1, 3, 96, 128))
    assert [tuple(m.shape) for m in maps] == [(1, 256, 96 // s, 128 // s) for s in (4, 8, 16, 32)]
    assert sum("conv3.weight" in key for key in network.state_dict()) == blocks


def test_lite_is_light() -> None:
    assert sum(v.numel() for v in StemSeg(load_config("lite")).state_dict().values()) <= 6_000_000


def test_training_path_equals_prediction() -> None:
    config = load_config("lite", EXACT)
    network = load_network(config, "random")
    frames = np.random.default_rng(1).integers(0, 255, (4, 96, 128, 3), np.uint8)
    maps = network(preprocess(torch.from_numpy(frames), config.input).unsqueeze(0))
    out = network.predict(frames)
    torch.testing.assert_close(maps.embeddings[0], out.embeddings, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(
        10 * maps.raw_variance[0].exp(), out.bandwidths, atol=1e-4, rtol=1e-3
    )


def test_predict_takes_lists_tensors_and_read_only_arrays() -> None:
    network = load_network(load_config("lite", SMALL), "random", torch.device("cpu"))
    frames = np.random.default_rng(3).integers(0, 255, (4, 96, 128, 3), np.uint8)
    frozen, mirrored = frames.copy(), frames[:, :, ::-1].copy()[:, :, ::-1]
    frozen.setflags(write=False)
    expected = network.predict(frames)
    for other in (list(frames), torch.from_numpy(frames), frozen, mirrored):
        assert torch.equal(network.predict(other).embeddings, expected.embeddings)


@pytest.mark.parametrize(
    "frames",
    [
        np.zeros((3, 96, 128, 3), np.uint8),
        np.zeros((4, 96, 128), np.uint8),
        np.zeros((4, 96, 128, 3), np.float32),
    ],
    ids=["three frames for T=4", "no colour", "float"],
)
def test_predict_refuses_other_input(frames: Any) -> None:
    with pytest.raises(ValueError, match=r"expected uint8 frames of shape \(4, H, W, 3\)"):
        load_network(load_config("lite", SMALL), "random").predict(frames)
