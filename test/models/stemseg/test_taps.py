"""The inference form of the network against its layers one by one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from stemseg_ros.config import load_config, preset_names
from stemseg_ros.execution.engine import inference_form, open_engine
from stemseg_ros.models.stemseg import load_network
from stemseg_ros.models.stemseg.network import TappedNetwork, WindowNetwork
from stemseg_ros.models.stemseg.settings import Settings, load_settings
from stemseg_ros.models.stemseg.taps import add_taps
from stemseg_ros.models.stemseg.tensors import Features
from stemseg_ros.models.stemseg.window import WindowBuffer

PRESETS = [name for name in preset_names() if load_config(name).model == "stemseg"]
SMALL: dict[str, Any] = {
    "input.min_dim": 96,
    "input.max_dim": 96,
    "network.backbone": "mobilenet_v2",
    "network.fpn_channels": 16,
    "network.decoder_channels": [16, 16, 8, 8],
    "network.norm_groups": 4,
    "runtime.precision": "float32",
    "runtime.fuse": False,
}
NAMES = ("embeddings", "bandwidths", "heat map", "semantic logits")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)  # the maps are tiny


def small_network(preset: str = "lite", **overrides: Any) -> WindowNetwork:
    """With drawn weights; norms and biases too, so that none is without effect."""
    dotted = {name.replace("__", "."): value for name, value in overrides.items()}
    network = load_network(load_settings(preset, {**SMALL, **dotted}), "random")
    generator = torch.Generator().manual_seed(1)
    for name, parameter in network.named_parameters():
        if name.endswith("bias") or parameter.ndim == 1:
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return network


def images(number: int) -> Tensor:
    return torch.randn(number, 3, 96, 96, generator=torch.Generator().manual_seed(0))


def both_forms(network: WindowNetwork) -> tuple[WindowNetwork, TappedNetwork]:
    tapped = inference_form(network)
    assert isinstance(tapped, TappedNetwork)
    return network, tapped


def stream_windows(form: Any, config: Settings, frames: Tensor) -> list[tuple[Tensor, ...]]:
    """Outputs of all windows of a stream, the last one flushed."""
    buffer = WindowBuffer(config.window)
    windows = [
        buffer.push(index, Features(tuple(level[0] for level in form.encode(image.unsqueeze(0)))))
        for index, image in enumerate(frames)
    ]
    return [
        form.decode(*(level.unsqueeze(0) for level in window.maps()))
        for window in (*windows, buffer.flush())
        if window is not None
    ]


def assert_same(direct: tuple[Tensor, ...], tapped: tuple[Tensor, ...]) -> None:
    assert len(direct) == len(tapped)
    for name, expected, found in zip(NAMES, direct, tapped, strict=False):
        assert found.dtype == torch.float32
        torch.testing.assert_close(
            found, expected, rtol=5e-5, atol=2e-5, msg=lambda text, name=name: f"{name}: {text}"
        )


@torch.inference_mode()
@pytest.mark.parametrize(
    ("length", "overlap", "mode", "frames"),
    [
        (2, 0, "near_online", 3),
        (2, 1, "online", 3),
        (4, 2, "near_online", 7),
        (4, 3, "offline", 5),
        (4, 0, "online", 6),
        (8, 4, "near_online", 5),  # a stream shorter than a window
        (8, 4, "online", 3),
        (16, 8, "near_online", 2),
        (24, 23, "offline", 2),
    ],
)
def test_every_window_of_a_stream(length: int, overlap: int, mode: str, frames: int) -> None:
    """With padding: at the start in the online mode, and for a stream shorter than a window."""
    network = small_network(window__length=length, window__overlap=overlap, window__mode=mode)
    direct, tapped = both_forms(network)
    expected = stream_windows(direct, network.config, images(frames))
    found = stream_windows(tapped, network.config, images(frames))
    assert len(expected) == len(found) > 0
    for one, other in zip(expected, found, strict=True):
        assert_same(one, other)


@torch.inference_mode()
@pytest.mark.parametrize(
    ("preset", "mixing"),
    [(preset, "xyt") for preset in PRESETS]
    + [("lite", mixing) for mixing in ("xy", "xyf", "xytf", "xyff", "xytff", "xyfff")],
)
def test_presets_and_mixing_functions(preset: str, mixing: str) -> None:
    network = small_network(preset, network__mixing=mixing, window__length=2, window__overlap=1)
    direct, tapped = both_forms(network)
    for one, other in zip(
        stream_windows(direct, network.config, images(2)),
        stream_windows(tapped, network.config, images(2)),
        strict=True,
    ):
        assert_same(one, other)


@torch.inference_mode()
def test_decoders_of_different_widths_in_batches() -> None:
    network = small_network(network__semantic_channels=[8, 16, 4, 12])
    direct, tapped = both_forms(network)
    frames = images(8)  # two windows
    outputs = []
    for form in (direct, tapped):
        levels = form.encode(frames)
        outputs.append(form.decode(*(level[t::4] for t in range(4) for level in levels)))
    assert_same(*outputs)


@torch.inference_mode()
def test_taps_add_up_to_the_convolution() -> None:
    conv = torch.nn.Conv3d(3, 5, 3, padding=1, bias=False)
    clip = torch.randn(2, 3, 4, 7, 9)
    weight = conv.weight.permute(2, 0, 1, 3, 4).flatten(0, 1)
    taps = [torch.nn.functional.conv2d(clip[:, :, t], weight, padding=1) for t in range(4)]
    torch.testing.assert_close(add_taps(taps), conv(clip), rtol=1e-5, atol=1e-6)


def test_a_setting_turns_it_off() -> None:
    network = small_network(window__taps=False)
    assert inference_form(network) is network


def test_networks_without_such_a_form_are_computed_as_they_are() -> None:
    network = torch.nn.Identity()
    assert inference_form(network) is network


def test_the_engine_computes_the_inference_form() -> None:
    network = small_network()
    engine = open_engine(network, network.config.runtime, "cpu")
    features = engine.run("encode", [(images(1)[0],)])[0]
    assert [level.shape[0] for level in features] == [3 * 2 * width for width in (8, 8, 16, 16)]


def test_weights_stay_those_of_the_checkpoint() -> None:
    network = small_network()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    network.inference_form()
    after = network.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_prediction_does_not_need_it() -> None:
    network = small_network()
    frames = np.random.default_rng(1).integers(0, 255, (4, 96, 96, 3), np.uint8)
    expected = network.predict(frames)
    network.inference_form()
    assert torch.equal(network.predict(frames).embeddings, expected.embeddings)
