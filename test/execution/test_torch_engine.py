"""Effects of ``runtime.*`` on the results of PyTorch."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from stemseg_ros.execution.engine import open_engine
from stemseg_ros.models.layers.preprocess import image_tensor
from stemseg_ros.models.stemseg import load_network
from stemseg_ros.models.stemseg.settings import load_settings
from stemseg_ros.models.stemseg.tensors import Features, Window

EXACT = {
    "input.min_dim": 96,
    "input.max_dim": 128,
    "runtime.engine": "torch",
    "runtime.precision": "float32",
    "runtime.channels_last": False,
    "runtime.fuse": False,
}


def compute_embeddings(settings: dict[str, Any], frames: Any, device: str = "cpu") -> Tensor:
    """Compute the embeddings of one window with an engine."""
    config = load_settings("lite", settings)
    engine = open_engine(load_network(config, "random"), config.runtime, device)
    inputs = [(image_tensor(frame, config.input, engine.device),) for frame in frames]
    features = tuple(Features(engine.run("encode", [one])[0]) for one in inputs)
    window = Window(tuple(range(len(frames))), features)
    return engine.run("decode", [window.maps()])[0][0]


@pytest.mark.parametrize(
    "overrides",
    [
        {"runtime.channels_last": True},
        {"runtime.fuse": True},
        {"runtime.precision": "bfloat16"},
        {"runtime.precision": "bfloat16", "runtime.channels_last": True},
    ],
    ids=str,
)
def test_runtime_options_keep_the_result(overrides: dict[str, Any]) -> None:
    frames = np.random.default_rng(2).integers(0, 255, (4, 96, 128, 3), np.uint8)
    exact = compute_embeddings(EXACT, frames)
    out = compute_embeddings({**EXACT, **overrides}, frames)
    half = "runtime.precision" in overrides
    assert out.dtype == torch.float32
    difference = (out - exact).abs()
    assert difference.mean() < (3e-2 if half else 1e-5)
    assert half == bool(difference.max() > 1e-3), "the option affects the arithmetic"


@pytest.mark.parametrize("preset", ["lite", "saliency"])
@pytest.mark.parametrize("taps", [True, False])
def test_outputs_are_float32_whatever_the_precision(preset: str, taps: bool) -> None:
    short = {**EXACT, "runtime.precision": "bfloat16", "window.taps": taps}
    config = load_settings(preset, {**short, "window.length": 2, "window.overlap": 1})
    engine = open_engine(load_network(config, "random"), config.runtime, "cpu")
    (features,) = engine.run("encode", [(torch.zeros(3, 64, 96),)])
    (outputs,) = engine.run("decode", [(*features, *features)])
    assert {output.dtype for output in outputs} == {torch.float32}


def test_compiled_network_gives_the_same_maps(monkeypatch: pytest.MonkeyPatch) -> None:
    # Graphs are captured but run eagerly: code generation takes minutes on two cores.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    frames = np.random.default_rng(4).integers(0, 255, (2, 96, 96, 3), np.uint8)
    short = {**EXACT, "window.length": 2, "window.overlap": 1}
    plain = compute_embeddings(short, frames)
    compiled = compute_embeddings({**short, "runtime.compile": True}, frames)
    torch.testing.assert_close(compiled, plain, atol=1e-4, rtol=1e-4)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["float32", "float16", "bfloat16"])
def test_gpu_computes_the_maps_of_the_cpu(precision: str) -> None:
    frames = np.random.default_rng(5).integers(0, 255, (4, 96, 128, 3), np.uint8)
    expected = compute_embeddings(EXACT, frames)
    out = compute_embeddings({**EXACT, "runtime.precision": precision}, frames, "cuda")
    difference = (out.cpu() - expected).abs().mean()
    assert difference < (1e-3 if precision == "float32" else 3e-2)
