"""Engines: one for each runtime, with one method that computes the functions of a network."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Protocol

import torch
from torch import Tensor, nn

from stemseg_ros.errors import DeviceError
from stemseg_ros.execution.device import resolve_device, resolve_precision
from stemseg_ros.execution.function_files import CachedExports, ExportedFolder, FunctionFiles
from stemseg_ros.execution.settings import RuntimeConfig
from stemseg_ros.execution.torch_engine import TorchEngine, finalise

Tensors = tuple[Tensor, ...]
log = logging.getLogger(__name__)


class Engine(Protocol):
    """Executor of the functions of one network on one device. Not thread-safe."""

    @property
    def device(self) -> torch.device:
        """Device of inputs and outputs."""
        ...

    @property
    def description(self) -> str:
        """Runtime, version and device, for logs and diagnostics."""
        ...

    @property
    def precision(self) -> str:
        """Precision of the arithmetic: float32, bfloat16 or float16."""
        ...

    def run(self, function: str, batch: Sequence[Tensors]) -> list[Tensors]:
        """Compute a function for several items of equal shapes in one pass.

        batch: inputs of each item, without the batch dimension. Returns the outputs of each item.
        """
        ...


def open_engine(
    network: nn.Module,
    config: RuntimeConfig,
    device: str | torch.device,
    *,
    name: str = "custom",
    timed: bool = False,
) -> Engine:
    """Open the engine that the settings choose, with the network's weights on ``device``.

    network: its attribute ``functions`` names the methods that take and return tensors, batch
    first; a method ``inference_form`` is optional. The engine takes ownership of it. name: of the
    preset, for files and messages. timed: whether calls wait for the device, so that their time is
    exact (benchmarks and evaluation only). Raises DeviceError, MissingExtraError.
    """
    place = resolve_device(device)
    kind, reason = choose_engine(config, place)
    network = inference_form(network)
    if kind == "torch":
        engine: Engine = TorchEngine(network, config, place, timed=timed)
    else:
        finalise(network, config)
        engine = _open(kind, network, config, place, name)
    log.info("%s, %s (%s)", engine.description, engine.precision, reason)
    return engine


def inference_form(network: nn.Module) -> nn.Module:
    """Convert a network to its form for inference, if it has a method of this name: a module with
    the same functions, which are faster once the weights are final."""
    convert = getattr(network, "inference_form", None)
    if convert is None:
        return network
    converted: nn.Module = convert()
    return converted


def open_exported(
    exported: ExportedFolder, config: RuntimeConfig, device: str | torch.device
) -> Engine:
    """Open an engine for functions written by 'stemseg export'. Raises DeviceError,
    MissingExtraError."""
    place = resolve_device(device)
    kind = config.engine
    if kind == "torch":
        raise DeviceError(
            f"runtime.engine torch cannot run exported functions ({exported.folder}); use auto, "
            "openvino, onnxruntime or tensorrt"
        )
    if kind == "auto":
        on_cpu = place.type == "cpu" and find_spec("openvino") is not None
        kind = "openvino" if on_cpu else "onnxruntime"
    engine = _open(kind, exported, config, place)
    log.info("%s, %s (%s)", engine.description, engine.precision, exported.folder)
    return engine


def choose_engine(config: RuntimeConfig, device: torch.device) -> tuple[str, str]:
    """Choose the engine for a device; returns its name and the reason."""
    if config.engine != "auto":
        return config.engine, "set by runtime.engine"
    if device.type != "cpu":
        return "torch", "the default for a GPU"
    if config.compile:
        return "torch", "required by runtime.compile"
    if config.precision not in ("auto", "float32", resolve_precision("auto", device)):
        return "torch", f"required by runtime.precision {config.precision}"
    if find_spec("openvino") is None:
        return "torch", "OpenVINO is not installed: pip install 'stemseg-ros[cpu]' brings it"
    return "openvino", "the default for a CPU"


def _open(
    kind: str,
    source: nn.Module | FunctionFiles,
    config: RuntimeConfig,
    device: torch.device,
    name: str = "",
) -> Engine:
    if kind == "openvino":
        from stemseg_ros.execution.openvino_engine import OpenVinoEngine

        return OpenVinoEngine(source, config, device)
    from stemseg_ros.execution.onnx_engine import OnnxRuntimeEngine

    files = CachedExports(source, name) if isinstance(source, nn.Module) else source
    return OnnxRuntimeEngine(files, config, device)
