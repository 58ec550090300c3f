"""What computes a network's functions: one engine per runtime, behind one method."""

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
    """Computes the functions of one network on one device. Not thread-safe."""

    @property
    def device(self) -> torch.device:
        """Where inputs are expected and outputs lie."""
        ...

    @property
    def description(self) -> str:
        """The runtime, its version and where it computes, for logs and diagnostics."""
        ...

    @property
    def precision(self) -> str:
        """Type of the arithmetic: float32, bfloat16 or float16."""
        ...

    def run(self, function: str, batch: Sequence[Tensors]) -> list[Tensors]:
        """Compute a function for several items of equal shapes in one pass.

        batch: the inputs of each item, without the batch dimension. Returns the outputs of each.
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
    """The engine that the settings ask for, with the network's weights on ``device``.

    network: has an attribute ``functions``, the names of those of its methods that take and return
    tensors, batch first, and perhaps an ``inference_form``; it belongs to the engine from now on.
    name: of the preset, for files and messages. timed: every call waits for the device, so that
    its time is exact (benchmarks and evaluation only). Raises DeviceError, MissingExtraError.
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
    """What the network's method of this name returns, if it has one: a module with the same
    functions, which are computed faster where weights are final."""
    make = getattr(network, "inference_form", None)
    if make is None:
        return network
    made: nn.Module = make()
    return made


def open_exported(
    exported: ExportedFolder, config: RuntimeConfig, device: str | torch.device
) -> Engine:
    """An engine for functions that 'stemseg export' wrote. Raises DeviceError,
    MissingExtraError."""
    place = resolve_device(device)
    kind = config.engine
    if kind == "torch":
        raise DeviceError(
            f"runtime.engine torch computes no exported functions ({exported.folder}); use auto, "
            "openvino, onnxruntime or tensorrt"
        )
    if kind == "auto":
        on_cpu = place.type == "cpu" and find_spec("openvino") is not None
        kind = "openvino" if on_cpu else "onnxruntime"
    engine = _open(kind, exported, config, place)
    log.info("%s, %s (%s)", engine.description, engine.precision, exported.folder)
    return engine


def choose_engine(config: RuntimeConfig, device: torch.device) -> tuple[str, str]:
    """Name of the engine for ``runtime.engine`` on a device, and why."""
    if config.engine != "auto":
        return config.engine, "as runtime.engine says"
    if device.type != "cpu":
        return "torch", "the choice for a GPU"
    if config.compile:
        return "torch", "runtime.compile asks for it"
    if config.precision not in ("auto", "float32", resolve_precision("auto", device)):
        return "torch", f"runtime.precision asks for {config.precision}"
    if find_spec("openvino") is None:
        return "torch", "OpenVINO is not installed: pip install 'stemseg-ros[cpu]' brings it"
    return "openvino", "the fastest on a CPU"


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
