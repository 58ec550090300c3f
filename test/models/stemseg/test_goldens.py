"""The whole network against outputs of the released code, on the CPU in float32."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stemseg_ros.config import Config, load_config
from stemseg_ros.execution.engine import open_engine
from stemseg_ros.models.layers.preprocess import preprocess
from stemseg_ros.models.stemseg import StemSeg, load_network
from stemseg_ros.models.stemseg.settings import load_settings
from stemseg_ros.models.stemseg.tensors import Features, NetworkOutput, Window

CASES = [  # golden file, preset, size of the input and length of the window
    ("network_kitti_mots", "kitti_mots", {"input.min_dim": 90, "input.max_dim": 150}),
    (
        "network_kitti_mots_T4",
        "kitti_mots",
        {"input.min_dim": 96, "input.max_dim": 128, "window.length": 4, "window.overlap": 2},
    ),
    ("network_davis", "davis", {"input.min_dim": 96, "input.max_dim": 120}),
]
LOSS_STATE = {"embedding_loss_criterion.free_dim_bandwidths": (1, 2)}
"""State of the training loss that a released checkpoint with free dimensions also holds."""


def recipe_weights(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights both sides agreed on: drawn from the name of each entry."""
    return {
        key: value if value.ndim == 0 else _draw(key, tuple(value.shape))
        for key, value in state.items()
    }


def _draw(key: str, shape: tuple[int, ...]) -> torch.Tensor:
    random = np.random.RandomState(zlib.crc32(key.encode()))
    if key.endswith("running_var"):
        values = 0.5 + random.rand(*shape)
    elif key.endswith("running_mean"):
        values = 0.1 * random.standard_normal(shape)
    elif len(shape) >= 2:
        values = random.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
    elif key.endswith(".bias"):
        values = 0.05 * random.standard_normal(shape)
    elif key.endswith("bn3.weight"):
        values = 0.1 + 0.1 * random.rand(*shape)
    else:
        values = 0.5 + 0.5 * random.rand(*shape)
    return torch.from_numpy(values.astype(np.float32))


FORMS = {  # settings: of an engine, which computes each frame alone, or none for predict
    "predict": None,
    "direct": {"runtime.fuse": False, "window.taps": False},
    "direct_fused": {"runtime.fuse": True, "window.taps": False},
    "tapped": {"runtime.fuse": False, "window.taps": True},
    "tapped_fused": {"runtime.fuse": True, "window.taps": True},
}


def outputs_of(network: StemSeg, config: Config, images: torch.Tensor) -> NetworkOutput:
    """Through an engine, as a stream goes."""
    engine = open_engine(network, config.runtime, "cpu")
    features = tuple(Features(engine.run("encode", [(image,)])[0]) for image in images)
    window = Window(tuple(range(len(images))), features)
    return NetworkOutput(*engine.run("decode", [window.maps()])[0])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("name", "preset", "overrides"), CASES, ids=[case[0] for case in CASES])
def test_network_golden(
    name: str,
    preset: str,
    overrides: dict[str, Any],
    form: str,
    golden: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    config = load_settings(preset, overrides | (FORMS[form] or {}))
    weights = recipe_weights(StemSeg(config).state_dict())
    extra = (
        {key: torch.ones(shape) for key, shape in LOSS_STATE.items()} if preset == "davis" else {}
    )
    torch.save({"model": {**weights, **extra}, "epoch": 3}, tmp_path / "released.pth")
    network = load_network(config, tmp_path / "released.pth")

    expected = np.load(golden(f"{name}.npz"))
    frames = expected["frames_bgr"]
    images = preprocess(torch.from_numpy(frames), config.input)

    assert (
        sum(v.numel() for v in weights.values()) + sum(v.numel() for v in extra.values())
        == expected["params"]
    )
    np.testing.assert_allclose(images[0], expected["input"], rtol=0, atol=1e-5)
    for stride, feature in zip((4, 8, 16, 32), network.encode(images[:1]), strict=True):
        reference = expected[f"fpn_{stride}x_frame0"]
        np.testing.assert_allclose(
            feature[0, :8], reference, rtol=0, atol=1e-5 * np.abs(reference).max()
        )
    out = network.predict(frames) if form == "predict" else outputs_of(network, config, images)
    np.testing.assert_allclose(out.embeddings, expected["embeddings"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(out.heatmap, expected["heatmap"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(out.bandwidths, expected["bandwidths"], rtol=3e-5)
    if out.semantic_logits is None:
        assert "semseg_logits" not in expected
    else:
        np.testing.assert_allclose(
            out.semantic_logits, expected["semseg_logits"], rtol=0, atol=5e-5
        )


@pytest.mark.parametrize("preset", ["kitti_mots", "davis", "youtube_vis"])
def test_state_dict_is_that_of_the_released_checkpoint(
    preset: str, golden: Callable[[str], Path]
) -> None:
    lines = golden(f"keys_{preset}.tsv").read_text().splitlines()
    released = {
        key: tuple(int(n) for n in shape.split(",") if n)
        for key, shape in (x.split("\t") for x in lines)
    }
    with torch.device("meta"):
        ours = {k: tuple(v.shape) for k, v in StemSeg(load_config(preset)).state_dict().items()}
    assert {
        k: v for k, v in released.items() if not k.startswith("embedding_loss_criterion.")
    } == ours
