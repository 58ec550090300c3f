"""The network against outputs of the released code, on the CPU in float32."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hodor_recipe import golden_config, golden_file, recipe_network
from torch import Tensor, nn

from stemseg_ros.models.hodor.decoder import encode_positions
from stemseg_ros.models.hodor.encoder import pool_descriptors
from stemseg_ros.models.hodor.letterbox import letterbox, letterbox_image, letterbox_masks
from stemseg_ros.models.hodor.network import Hodor
from stemseg_ros.models.hodor.regions import regions_from_given, regions_from_predicted
from stemseg_ros.models.hodor.settings import HodorNetworkConfig, Settings

FRAMES = (0, 1)
CHANNELS = 8  # of a map that golden files contain
STRIDES = (4, 8, 16, 32)


class Trace:
    """Records the output of the last call of each module."""

    def __init__(self, network: Hodor) -> None:
        self.outputs: dict[str, Tensor] = {}
        self._hooks = [
            module.register_forward_hook(self._keep(name))
            for name, module in network.named_modules()
        ]

    def _keep(self, name: str):
        def hook(module: nn.Module, inputs: object, output: object) -> None:
            if isinstance(output, Tensor):
                self.outputs[name] = output

        return hook

    def close(self) -> None:
        for hook in self._hooks:
            hook.remove()


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    return dict(np.load(golden_file("single.npz")))


@pytest.fixture(scope="module")
def config(golden: dict[str, np.ndarray]) -> Settings:
    return golden_config(min_dim=int(golden["min_dim"]), max_dim=int(golden["max_dim"]))


@pytest.fixture(scope="module")
def network(config: Settings) -> Iterator[Hodor]:
    with torch.inference_mode():
        yield recipe_network(config)


@pytest.fixture(scope="module")
def inputs(golden: dict[str, np.ndarray], config: Settings) -> Tensor:
    frames = torch.from_numpy(golden["frames_bgr"])
    geometry = letterbox((frames.shape[1], frames.shape[2]), config.input)
    assert geometry.resized_size == tuple(golden["resized"])
    return torch.stack([letterbox_image(frame, geometry, config.input) for frame in frames])


@pytest.fixture(scope="module")
def features(network: Hodor, inputs: Tensor) -> tuple[Tensor, Tensor]:
    return network.encode(inputs)


@pytest.fixture(scope="module")
def regions(golden: dict[str, np.ndarray], config: Settings) -> Tensor:
    masks = torch.from_numpy(golden["masks"]) > 0
    geometry = letterbox((masks.shape[1], masks.shape[2]), config.input)
    return regions_from_given(letterbox_masks(masks, geometry), geometry.padded_size)[None]


@pytest.fixture(scope="module")
def content(features: tuple[Tensor, Tensor]) -> Tensor:
    return torch.tensor([features[1].shape[-2:]])


def assert_near(actual: Tensor, expected: np.ndarray, limit: float) -> None:
    np.testing.assert_allclose(actual.numpy(), expected, rtol=0, atol=limit)


def test_golden_features(network: Hodor, inputs: Tensor, golden: dict[str, np.ndarray]) -> None:
    assert_near(inputs[0], golden["input"], 1e-5)
    maps = network.feature_extractor.bb_fpn[0](inputs[:1])
    for stride, swin in zip(STRIDES, maps, strict=True):
        assert_near(swin[0, :CHANNELS], golden[f"swin_{stride}x"], 3e-5)
    pyramid = network.feature_extractor.bb_fpn[1](maps)
    for stride, level in zip(STRIDES[:2], pyramid, strict=True):
        assert_near(level[0, :CHANNELS], golden[f"fpn_{stride}x"], 6e-5)
    for stride, level in zip(STRIDES[:2], network.encode(inputs[:1]), strict=True):
        assert_near(level[0, :CHANNELS], golden[f"features_{stride}x"], 3e-5)


def test_golden_coarse_pyramid(
    network: Hodor, inputs: Tensor, golden: dict[str, np.ndarray]
) -> None:
    """The released checkpoints also contain output convolutions of levels that are not used."""
    body, pyramid = network.feature_extractor.bb_fpn
    maps = body(inputs[:1])
    coarsest = pyramid.lateral_convs[3](maps[3])
    assert_near(pyramid.fpn_convs[3](coarsest)[0, :CHANNELS], golden["fpn_32x"], 6e-5)


def test_golden_encoder(
    network: Hodor,
    features: tuple[Tensor, Tensor],
    regions: Tensor,
    content: Tensor,
    golden: dict[str, np.ndarray],
) -> None:
    assert_near(regions[0, :9], golden["encoder_bg_masks"], 1e-6)
    assert_near(regions[0, 9:], golden["encoder_fg_masks"], 1e-6)
    coarse = features[1][:1]
    start = pool_descriptors(coarse, regions)[0]
    assert_near(start[:9], golden["init_bg"], 3e-5)
    assert_near(start[9:], golden["init_fg"], 3e-5)
    trace = Trace(network)
    (descriptors,) = network.describe(coarse, regions, content)
    trace.close()
    for number, expected in enumerate(golden["encoder_layers"]):
        assert_near(trace.outputs[f"encoder.attn_layers.{number}"][0], expected, 3e-5)
    assert_near(descriptors[0, :9], golden["bg_descriptors"], 3e-5)
    assert_near(descriptors[0, 9:], golden["fg_descriptors"], 3e-5)


def test_golden_soft_masks(
    network: Hodor,
    features: tuple[Tensor, Tensor],
    content: Tensor,
    golden: dict[str, np.ndarray],
) -> None:
    """One object fills a cell of the background grid, the other never exceeds 0.5."""
    soft = torch.from_numpy(golden["soft_fg_masks"])
    regions = regions_from_predicted(soft, (soft.shape[1], soft.shape[2]))[None]
    assert_near(regions[0, :9], golden["soft_bg_masks"], 1e-6)
    coarse = features[1][1:]
    start = pool_descriptors(coarse, regions)[0]
    assert_near(start[:9], golden["soft_init_bg"], 3e-5)
    assert_near(start[9:], golden["soft_init_fg"], 3e-5)
    (descriptors,) = network.describe(coarse, regions, content)
    assert_near(descriptors[0, :9], golden["soft_bg_descriptors"], 3e-5)
    assert_near(descriptors[0, 9:], golden["soft_fg_descriptors"], 3e-5)


def test_golden_decoder(
    network: Hodor,
    features: tuple[Tensor, Tensor],
    regions: Tensor,
    content: Tensor,
    golden: dict[str, np.ndarray],
) -> None:
    fine, coarse = features
    (descriptors,) = network.describe(coarse[:1], regions, content)
    history = descriptors[None].expand(2, -1, -1, -1)
    present = torch.ones(history.shape[:3], dtype=torch.bool)
    positions = encode_positions(coarse, content)[0].mT.unflatten(-1, coarse.shape[-2:])
    assert_near(positions[::16], golden["position"], 1e-5)
    trace = Trace(network)
    (logits,) = network.decode(fine, coarse, history, present, content.expand(2, -1))
    trace.close()
    mixer = "decoder.attn_layers.0.self_attn_conv_substitute.0"
    layers = [trace.outputs[f"decoder.attn_layers.{n}"][1, :CHANNELS] for n in range(5)]
    assert_near(trace.outputs[f"{mixer}.conv_offsets"][1], golden["offsets_layer0_frame1"], 3e-5)
    assert_near(trace.outputs[mixer][1, :CHANNELS], golden["deform_layer0_frame1"], 3e-5)
    assert_near(torch.stack(layers), golden["decoder_layers_frame1"], 3e-5)
    for name, key in (("conv_4x_reduce", "conv_4x_reduce"), ("conv_4x", "pixels")):
        output = trace.outputs[f"decoder.{name}"][1, :CHANNELS]
        assert_near(output, golden[f"{key}_frame1"], 3e-5)
    assert_near(logits, golden["logits"], 3e-4)


def test_golden_layout_of_checkpoints() -> None:
    lines = golden_file("keys_hodor.tsv").read_text().splitlines()
    released = {
        key: tuple(int(n) for n in shape.split(",") if n)
        for key, shape in (line.split("\t") for line in lines)
    }
    with torch.device("meta"):
        network = Hodor(Settings())
    assert {k: tuple(v.shape) for k, v in network.state_dict().items()} == released
    assert sum(p.numel() for p in network.parameters()) == 42_091_068


def test_light_network_takes_images_to_logits() -> None:
    """Architecture of ``hodor_lite``: at most 6 M parameters."""
    light = HodorNetworkConfig(
        backbone="mobilenet_v2",
        width=128,
        encoder_layers=3,
        decoder_layers=3,
        encoder_hidden=256,
        mixer="convolution",
        catch_all_width=64,
        previous_masks=True,
    )
    network = Hodor(Settings(network=light)).eval()
    assert sum(p.numel() for p in network.parameters()) <= 6_000_000
    with torch.inference_mode():
        fine, coarse = network.encode(torch.rand(1, 3, 64, 96))
        content, regions = torch.tensor([[8, 12]]), torch.rand(1, 11, 8, 12)
        (descriptors,) = network.describe(coarse, regions, content)
        present = torch.ones(1, 1, 11, dtype=torch.bool)
        (logits,) = network.decode(fine, coarse, descriptors[:, None], present, content, regions)
    assert logits.shape == (1, 12, 16, 24)
    assert logits.isfinite().all()
