"""``stemseg export``: what it writes takes the place of a checkpoint."""

from __future__ import annotations

import json
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
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


@pytest.fixture(scope="module")
def int8_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("int8")
    random = np.random.default_rng(5)
    (home / "frames").mkdir()
    for number in range(6):
        noise = random.integers(0, 255, (16, 20, 3), np.uint8)
        image = cv2.resize(noise, (160, 128), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(home / "frames" / f"{number:03}.png"), image)
    done = CliRunner().invoke(
        app,
        ["export", "lite", "--size", "160x128", "--out", str(home / "out")]
        + ["--precision", "int8", "--calibration", str(home / "frames")]
        + [f"--set={name}={value}" for name, value in SMALL.items()],
    )
    assert done.exit_code == 0, done.output
    return home / "out"


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_int8_is_close_to_the_weights(int8_folder: Path, engine: str) -> None:
    image = torch.rand(3, 128, 160, generator=torch.Generator().manual_seed(1))
    settings = {**SMALL, "runtime.precision": "float32"}
    exact = open_model(load_config("lite", {**settings, "runtime.engine": "torch"})).engine
    settings = {**SMALL, "runtime.engine": engine}
    reduced = open_model(load_config("lite", settings), int8_folder).engine
    assert "int8" in f"{reduced.description}, {reduced.precision}"
    pairs = zip(
        exact.run("encode", [(image,)])[0], reduced.run("encode", [(image,)])[0], strict=True
    )
    for wanted, got in pairs:
        deviation = float((wanted - got).square().mean().sqrt() / wanted.std())
        assert 1e-3 < deviation < 0.3  # not the float32 file, and no other network


def test_int8_file_has_its_description(int8_folder: Path) -> None:
    assert json.loads((int8_folder / "export.json").read_text())["precision"] == "int8"
    onnx = pytest.importorskip("onnx")
    model = onnx.load(str(int8_folder / "encode.onnx"))
    assert {"stemseg.precision", "stemseg.fingerprint"} <= {p.key for p in model.metadata_props}
    kinds = Counter(node.op_type for node in model.graph.node)
    assert kinds["QuantizeLinear"] > 20


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--precision", "int8"], "int8 needs --calibration"),
        (["--calibration", "drive.mp4"], "int8 needs --calibration"),
        (["--precision", "int8", "--calibration", "/none.mp4"], "/none.mp4"),
    ],
)
def test_wrong_calibration_is_refused(tmp_path: Path, options: list[str], words: str) -> None:
    command = ["export", "lite", "--size", "160x128", "--out", str(tmp_path / "out"), *options]
    done = CliRunner().invoke(app, command)
    assert done.exit_code != 0
    assert words in done.output + str(done.exception)
    assert not (tmp_path / "out").exists()


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
