"""All engines compute the same, describe themselves, and refuse what they do not support."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from stemseg_ros.errors import DeviceError, MissingExtraError, StemsegError
from stemseg_ros.execution import device as devices
from stemseg_ros.execution import engine as engines
from stemseg_ros.execution import openvino_engine
from stemseg_ros.execution.engine import choose_engine, open_engine
from stemseg_ros.execution.function_files import fingerprint
from stemseg_ros.execution.onnx_engine import (
    CPU,
    CUDA,
    TENSORRT,
    OnnxRuntimeEngine,
    tensorrt_cache,
)
from stemseg_ros.execution.settings import RuntimeConfig
from stemseg_ros.models.stemseg import load_network
from stemseg_ros.models.stemseg.settings import load_settings
from stemseg_ros.records import Frame
from stemseg_ros.stream import open_model

OPENVINO = pytest.mark.skipif(find_spec("openvino") is None, reason="OpenVINO is not installed")
ONNX = pytest.mark.skipif(
    any(find_spec(name) is None for name in ("onnxruntime", "onnxscript")),
    reason="ONNX Runtime and the exporter are not installed",
)
ENGINES = [pytest.param("openvino", marks=OPENVINO), pytest.param("onnxruntime", marks=ONNX)]
CLOSE = 1e-4
"""Tolerance relative to the largest value, for rounding in another order of summation."""


class Toy(nn.Module):
    """A network of two functions; the second takes the outputs of the first."""

    functions = ("encode", "decode")

    def __init__(self, gain: float = 2.0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        self.conv = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.conv.weight.data.normal_(generator=generator)
        self.gain = gain

    def encode(self, image: Tensor) -> tuple[Tensor, ...]:
        """Compute (N, 4, H, W) and (N, 4, H/2, W/2) from (N, 3, H, W)."""
        fine = torch.relu(self.conv(image)) * self.gain
        return fine, nn.functional.avg_pool2d(fine, 2)

    def decode(self, fine: Tensor, coarse: Tensor) -> tuple[Tensor, ...]:
        """Compute (N, 4, H, W) from the maps of ``encode``."""
        size = fine.shape[-2:]
        larger = nn.functional.interpolate(coarse, size, mode="bilinear", align_corners=False)
        return (fine - larger,)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEMSEG_CACHE", str(tmp_path / "cache"))


def toy_engine(kind: str, network: nn.Module | None = None, **settings: Any) -> engines.Engine:
    return open_engine(
        network or Toy(), RuntimeConfig.model_validate({"engine": kind, **settings}), "cpu"
    )


def images(*shapes: tuple[int, int]) -> list[tuple[Tensor, ...]]:
    generator = torch.Generator().manual_seed(7)
    return [(torch.randn(3, *shape, generator=generator),) for shape in shapes]


def assert_close(found: list[tuple[Tensor, ...]], expected: list[tuple[Tensor, ...]]) -> None:
    assert len(found) == len(expected)
    for outputs, references in zip(found, expected, strict=True):
        for output, reference in zip(outputs, references, strict=True):
            assert output.dtype == torch.float32
            scale = float(reference.abs().max())
            torch.testing.assert_close(output, reference, atol=CLOSE * scale, rtol=0)


@pytest.mark.parametrize("kind", ENGINES)
@pytest.mark.parametrize("batch", [1, 3])
def test_every_engine_computes_the_same_as_torch(kind: str, batch: int) -> None:
    reference, engine = toy_engine("torch"), toy_engine(kind)
    for size in ((8, 12), (16, 10), (8, 12)):  # with another shape in between
        frames = images(*[size] * batch)
        expected = reference.run("encode", frames)
        found = engine.run("encode", frames)
        assert_close(found, expected)
        assert_close(engine.run("decode", found), reference.run("decode", expected))


SIGNAL_AFTER_TWO_ENGINES = """
import os, signal, sys
sys.path[:0] = sys.argv[1:]
from test_engines import images, toy_engine
engines = [toy_engine("openvino"), toy_engine("openvino")]
for engine in engines:
    engine.run("encode", images((8, 8)))
del engine
while engines:
    engines.pop(0)
signal.signal(signal.SIGUSR1, lambda *_: print("handled"))
os.kill(os.getpid(), signal.SIGUSR1)
"""


@OPENVINO
def test_signals_are_handled_after_engines_have_gone() -> None:
    folders = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    done = subprocess.run(
        [sys.executable, "-c", SIGNAL_AFTER_TWO_ENGINES, *folders],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "handled\n"), done.stderr


@pytest.mark.parametrize("kind", ENGINES)
def test_outputs_are_not_overwritten_by_the_next_call(kind: str) -> None:
    engine = toy_engine(kind)
    first = engine.run("encode", images((8, 8)))[0]
    kept = [output.clone() for output in first]
    engine.run("encode", [(torch.zeros(3, 8, 8),)])
    for output, before in zip(first, kept, strict=True):
        assert torch.equal(output, before)


@pytest.mark.parametrize("kind", ENGINES)
def test_inputs_may_be_views_of_inference_tensors(kind: str) -> None:
    with torch.inference_mode():
        whole = torch.randn(2, 8, 8, 3)
        frame = (whole[1].permute(2, 0, 1),)
        expected = toy_engine("torch").run("encode", [frame])
        assert_close(toy_engine(kind).run("encode", [frame]), expected)


@pytest.mark.parametrize("kind", ENGINES)
def test_maps_of_stemseg_equal_those_of_torch(kind: str) -> None:
    small = {"input.min_dim": 128, "input.max_dim": 160, "runtime.precision": "float32"}
    scene = np.random.default_rng(3).integers(0, 255, (4, 128, 160, 3), np.uint8)
    maps = {}
    for name in ("torch", kind):
        config = load_settings("lite", {**small, "runtime.engine": name})
        engine = open_engine(load_network(config, "random"), config.runtime, "cpu")
        pixels = [(torch.from_numpy(s).permute(2, 0, 1).float() / 64 - 2,) for s in scene]
        features = engine.run("encode", pixels)
        window = tuple(level for frame in features for level in frame)
        maps[name] = engine.run("decode", [window])
    assert_close(maps[kind], maps["torch"])


def record_conversions(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    seen: list[str] = []
    convert = openvino_engine.convert

    def count(network: nn.Module, function: str, inputs: Any) -> Any:
        seen.append(function)
        return convert(network, function, inputs)

    monkeypatch.setattr(openvino_engine, "convert", count)
    return seen


@OPENVINO
@pytest.mark.parametrize(
    ("second", "conversions"),
    [
        (lambda: toy_engine("openvino"), 1),
        (lambda: toy_engine("openvino", Toy(gain=3.0)), 2),
        (lambda: toy_engine("openvino", threads=1), 2),
    ],
    ids=["the same", "another network", "other settings"],
)
def test_compiled_functions_are_cached(
    second: Callable[[], engines.Engine], conversions: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = record_conversions(monkeypatch)
    first = toy_engine("openvino").run("encode", images((8, 8)))
    found = second().run("encode", images((8, 8)))
    assert len(seen) == conversions
    if conversions == 1:
        assert_close(found, first)


@OPENVINO
def test_damaged_cache_is_rebuilt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = record_conversions(monkeypatch)
    first = toy_engine("openvino").run("encode", images((8, 8)))
    (blob,) = (tmp_path / "cache" / "openvino").iterdir()
    blob.write_bytes(b"damaged")
    assert_close(toy_engine("openvino").run("encode", images((8, 8))), first)
    assert len(seen) == 2


@OPENVINO
def test_a_cache_that_cannot_be_written_does_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("STEMSEG_CACHE", str(tmp_path / "file"))
    expected = toy_engine("torch").run("encode", images((8, 8)))
    assert_close(toy_engine("openvino").run("encode", images((8, 8))), expected)


@ONNX
def test_exports_are_made_once_for_all_sizes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = toy_engine("onnxruntime")
    for size in ((8, 8), (12, 16)):
        engine.run("encode", images(size))
    toy_engine("onnxruntime").run("encode", images((10, 10)))
    (folder,) = (tmp_path / "cache").iterdir()
    assert [file.name for file in folder.glob("*.onnx")] == ["encode_0.onnx"]
    (folder / "encode_0.onnx").unlink()  # is noticed and exported again
    toy_engine("onnxruntime").run("encode", images((8, 8)))


def test_fingerprint_distinguishes_networks() -> None:
    changed = Toy()
    changed.conv.weight.data[0, 0, 0, 0] += 1e-3
    wider = Toy()
    wider.conv = nn.Conv2d(3, 4, 5, padding=2, bias=False)
    prints = [fingerprint(network) for network in (Toy(), Toy(gain=3.0), changed, wider)]
    assert len(set(prints)) == 4
    assert fingerprint(Toy()) == prints[0]


def test_tensorrt_engines_have_separate_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    cases = [
        ("a" * 64, "NVIDIA H200", True, "1.31"),
        ("b" * 64, "NVIDIA H200", True, "1.31"),
        ("a" * 64, "NVIDIA L4", True, "1.31"),
        ("a" * 64, "NVIDIA H200", False, "1.31"),
        ("a" * 64, "NVIDIA H200", True, "1.32"),
    ]
    assert len({tensorrt_cache(*case) for case in cases}) == len(cases)
    assert tensorrt_cache(*cases[0]) == tensorrt_cache(*cases[0])


@pytest.mark.parametrize(
    ("settings", "device", "native", "installed", "chosen"),
    [
        ({"engine": "torch"}, "cpu", torch.float32, True, "torch"),
        ({"engine": "openvino"}, "cpu", torch.float32, False, "openvino"),
        ({"engine": "auto"}, "cpu", torch.float32, True, "openvino"),
        ({"engine": "auto"}, "cpu", torch.float32, False, "torch"),
        ({"engine": "auto", "precision": "auto"}, "cpu", torch.bfloat16, True, "openvino"),
        ({"engine": "auto", "precision": "bfloat16"}, "cpu", torch.bfloat16, True, "openvino"),
        ({"engine": "auto", "precision": "float16"}, "cpu", torch.bfloat16, True, "torch"),
        ({"engine": "auto", "precision": "float32"}, "cpu", torch.bfloat16, True, "openvino"),
        ({"engine": "auto", "compile": True}, "cpu", torch.float32, True, "torch"),
        ({"engine": "auto", "precision": "bfloat16"}, "cpu", torch.float32, True, "torch"),
        ({"engine": "auto"}, "cuda:0", torch.float16, True, "torch"),
    ],
    ids=str,
)
def test_engine_of_auto(
    settings: dict[str, Any],
    device: str,
    native: torch.dtype,
    installed: bool,
    chosen: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(devices, "fast_precision", lambda device: native)
    monkeypatch.setattr(engines, "find_spec", lambda name: object() if installed else None)
    kind, reason = choose_engine(RuntimeConfig(**settings), torch.device(device))
    assert kind == chosen
    assert reason


@pytest.mark.parametrize(
    ("settings", "hidden", "error", "words"),
    [
        ({"engine": "tensorrt"}, "", DeviceError, ["tensorrt", "CUDA"]),
        ({"engine": "openvino"}, "openvino", MissingExtraError, ["openvino", "stemseg-ros[cpu]"]),
        (
            {"engine": "onnxruntime"},
            "onnxruntime",
            MissingExtraError,
            ["onnxruntime", "stemseg-ros[onnx]"],
        ),
    ],
    ids=str,
)
def test_unavailable_engine(
    settings: dict[str, Any],
    hidden: str,
    error: type[StemsegError],
    words: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if hidden:
        monkeypatch.setitem(sys.modules, hidden, None)
    elif find_spec("onnxruntime") is None:
        pytest.skip("ONNX Runtime is not installed")
    with pytest.raises(error) as caught:
        open_engine(Toy(), RuntimeConfig(**settings), "cpu")
    assert all(word in str(caught.value) for word in words)


@pytest.mark.parametrize("kind", ENGINES)
def test_gpu_without_its_runtime_is_refused(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "resolve_device", lambda name: torch.device("cuda", 0))
    with pytest.raises(DeviceError, match=r"runtime.engine (openvino|torch)"):
        open_engine(Toy(), RuntimeConfig.model_validate({"engine": kind}), "cuda:0")


@pytest.mark.parametrize("kind", ["torch", *ENGINES])
def test_engines_describe_themselves(kind: str) -> None:
    engine = toy_engine(kind)
    names = {"torch": "PyTorch", "openvino": "OpenVINO", "onnxruntime": "ONNX Runtime"}
    assert engine.description.startswith(names[kind])
    assert engine.precision == "float32"


class FakeFiles:
    """Exported files in a precision."""

    def __init__(self, precision: str) -> None:
        self.precision = precision

    def find(self, function: str, inputs: tuple[Tensor, ...]) -> Path:
        raise AssertionError("nothing is computed")


def onnx_engine(kind: str, configured: str, written: str) -> OnnxRuntimeEngine:
    config = RuntimeConfig.model_validate({"engine": kind, "precision": configured})
    device = torch.device("cuda", 0) if kind == "tensorrt" else torch.device("cpu")
    return OnnxRuntimeEngine(FakeFiles(written), config, device)


@pytest.fixture
def _every_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CPU, CUDA, TENSORRT])


@pytest.mark.usefixtures("_every_provider")
@pytest.mark.parametrize(
    ("kind", "configured", "written", "computed"),
    [
        ("onnxruntime", "auto", "float32", "float32"),
        ("onnxruntime", "float32", "float32", "float32"),
        ("onnxruntime", "auto", "float16", "float16"),
        ("onnxruntime", "float16", "float16", "float16"),
        ("tensorrt", "auto", "float32", "float16"),
        ("tensorrt", "float16", "float32", "float16"),
        ("tensorrt", "float32", "float32", "float32"),
        ("tensorrt", "auto", "float16", "float16"),
    ],
)
def test_precision_of_onnx_runtime(
    kind: str, configured: str, written: str, computed: str
) -> None:
    assert onnx_engine(kind, configured, written).precision == computed


@pytest.mark.usefixtures("_every_provider")
@pytest.mark.parametrize(
    ("kind", "configured", "written"),
    [
        ("onnxruntime", "float16", "float32"),
        ("onnxruntime", "bfloat16", "float32"),
        ("onnxruntime", "float32", "float16"),
        ("tensorrt", "bfloat16", "float32"),
        ("tensorrt", "float32", "float16"),
    ],
)
def test_precision_that_onnx_runtime_does_not_support_is_refused(
    kind: str, configured: str, written: str
) -> None:
    with pytest.raises(DeviceError) as caught:
        onnx_engine(kind, configured, written)
    words = [f"runtime.precision {configured}", f"runtime.engine {kind}", f"use auto or {written}"]
    assert all(word in str(caught.value) for word in words)


@OPENVINO
def test_hodor_follows_a_prompt_in_openvino() -> None:
    small = {"input.min_dim": 128, "input.max_dim": 160, "runtime.precision": "float32"}
    small["propagation.presence"] = 0.0  # to random weights nothing looks like what was given
    ids = {}
    for kind in ("torch", "openvino"):
        from stemseg_ros.config import load_config

        model = open_model(load_config("hodor_lite", {**small, "runtime.engine": kind}), "random")
        stream = model.stream()
        scene = np.random.default_rng(3).integers(0, 255, (4, 64, 96, 3), np.uint8)
        given = stream.example_prompts((64, 96))
        results = [
            stream.push(Frame(image, 1 + index, () if index else given))
            for index, image in enumerate(scene)
        ]
        ids[kind] = [[(i.track_id, i.box) for i in r.instances] for (r,) in results]
    assert ids["openvino"] == ids["torch"]
    assert all(ids["torch"])
