"""``stemseg export``: what it writes takes the place of a checkpoint."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from stemseg_ros.cli.main import app
from stemseg_ros.config import load_config
from stemseg_ros.errors import StemsegError
from stemseg_ros.execution.onnx_export import ExportError
from stemseg_ros.records import Frame
from stemseg_ros.stream import open_model

pytestmark = pytest.mark.skipif(
    any(find_spec(name) is None for name in ("onnxscript", "onnxruntime", "openvino")),
    reason="the exporter, ONNX Runtime and OpenVINO are not installed",
)
SMALL = {"input.min_dim": 128, "input.max_dim": 160, "clustering.min_heat": 0.3}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("lite") / "export"
    settings = [f"--set={name}={value}" for name, value in SMALL.items()]
    done = CliRunner().invoke(
        app,
        [
            "export",
            "lite",
            "--checkpoint",
            "random",
            "--size",
            "160x128",
            "--out",
            str(out),
            *settings,
        ],
    )
    assert done.exit_code == 0, done.output
    assert "encode.onnx: differs from PyTorch by" in done.output
    return out


def found(engine: str, checkpoint: Path | str, size: tuple[int, int]) -> list[object]:
    config = load_config("lite", {**SMALL, "runtime.engine": engine, "output.min_area": 0})
    stream = open_model(config, checkpoint).stream()
    scene = np.random.default_rng(3).integers(0, 255, (6, *size, 3), np.uint8)
    results = [r for n, image in enumerate(scene) for r in stream.push(Frame(image, 1 + n))]
    results += stream.flush()
    return [[(i.track_id, i.rle) for i in result.instances] for result in results]


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_exported_folder_tracks_like_the_weights(folder: Path, engine: str) -> None:
    expected = found("torch", "random", (128, 160))
    assert found(engine, folder, (128, 160)) == expected


def test_other_sizes_fit(folder: Path) -> None:
    assert found("openvino", folder, (160, 128)) == found("torch", "random", (160, 128))


def test_folder_says_what_it_holds(folder: Path) -> None:
    content = json.loads((folder / "export.json").read_text())
    assert content["config"] == "lite"
    assert content["classes"] == ["car", "pedestrian"]
    assert [entry["function"] for entry in content["functions"]] == ["encode", "decode"]


@pytest.mark.parametrize(
    ("config", "settings", "error", "words"),
    [
        ("lite", {"runtime.engine": "torch"}, StemsegError, ["runtime.engine torch"]),
        ("hodor_lite", {"runtime.engine": "auto"}, ExportError, ["'lite'", "'hodor_lite'"]),
    ],
)
def test_wrong_use_of_a_folder_is_refused(
    folder: Path,
    config: str,
    settings: dict[str, str],
    error: type[StemsegError],
    words: list[str],
) -> None:
    with pytest.raises(error) as caught:
        open_model(load_config(config, settings), folder)
    assert all(word in str(caught.value) for word in [*words, str(folder)])
