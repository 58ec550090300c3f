"""Engine of OpenVINO, for CPUs."""

from __future__ import annotations

import contextlib
import hashlib
import platform
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stemseg_ros.errors import DeviceError, needs_extra
from stemseg_ros.execution.device import resolve_precision
from stemseg_ros.execution.function_files import FunctionFiles, cache_folder, fingerprint
from stemseg_ros.execution.onnx_export import ExportError, FunctionModule, as_input
from stemseg_ros.execution.settings import RuntimeConfig

Tensors = tuple[Tensor, ...]
Shapes = tuple[tuple[int, ...], ...]
HINTS = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}
CAPABILITIES = {"float32": "FP32", "bfloat16": "BF16", "float16": "FP16"}


@cache
def shared_core() -> Any:
    """Return the only ``openvino.Core`` of the process.

    Its CPU plugin installs an alternate signal stack for the thread and restores the previous one
    when it is destroyed. With two plugins, the second restores the stack of the first, which may
    have been freed; the next signal (Ctrl-C, the end of a child process) then kills the process.
    """
    import openvino

    return openvino.Core()


@dataclass(slots=True, eq=False)
class _Compiled:
    """A function compiled for inputs of given shapes."""

    request: Any
    outputs: tuple[tuple[int, ...], ...]
    """Shapes of the outputs, batch first."""


class OpenVinoEngine:
    """Engine that compiles a function for each shape of its inputs. The items of a batch are
    computed one after the other, because batches are not faster on a CPU.

    A network is converted in memory; its compiled functions are cached. Inputs and outputs share
    the memory of PyTorch's tensors, so that they are not copied.
    """

    device = torch.device("cpu")

    def __init__(
        self, source: nn.Module | FunctionFiles, config: RuntimeConfig, device: torch.device
    ) -> None:
        """source: the network, or files of its functions. Raises DeviceError if the device is not
        the CPU, or if OpenVINO does not support the precision on this CPU."""
        if device.type != "cpu":
            raise DeviceError(
                f"runtime.engine openvino computes on the CPU, not on {device}; use device cpu "
                "or runtime.engine torch"
            )
        with needs_extra("cpu"):
            import openvino
        self._source = source
        self._key = fingerprint(source) if isinstance(source, nn.Module) else ""
        self._core = shared_core()
        self._tensor = openvino.Tensor
        self._version = openvino.__version__
        self.precision = resolve_precision(config.precision, device)
        self._properties = self._choose(config)
        self._compiled: dict[tuple[str, Shapes], _Compiled] = {}
        int8 = not isinstance(source, nn.Module) and source.precision == "int8"
        self.description = (
            f"OpenVINO {self._version.split('-')[0]} on the CPU{', int8 convolutions' * int8}"
        )

    def run(self, function: str, batch: Sequence[Tensors]) -> list[Tensors]:
        """See ``Engine``."""
        return [self._infer(function, item) for item in batch]

    def _choose(self, config: RuntimeConfig) -> dict[str, Any]:
        supported: Sequence[str] = self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if CAPABILITIES[self.precision] not in supported:
            raise DeviceError(
                f"OpenVINO does not compute in {self.precision} on this CPU "
                "(runtime.precision); use float32"
            )
        properties: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": HINTS[self.precision],
        }
        if config.threads:
            properties["INFERENCE_NUM_THREADS"] = config.threads
        return properties

    def _infer(self, function: str, item: Tensors) -> Tensors:
        inputs = tuple(as_input(tensor).unsqueeze(0).contiguous() for tensor in item)
        key = function, tuple(tuple(tensor.shape) for tensor in inputs)
        compiled = self._compiled.get(key)
        if compiled is None:
            compiled = self._compiled[key] = self._compile(function, inputs)
        outputs = tuple(torch.empty(shape) for shape in compiled.outputs)
        for index, tensor in enumerate(inputs):
            compiled.request.set_input_tensor(index, self._shared(tensor))
        for index, tensor in enumerate(outputs):
            compiled.request.set_output_tensor(index, self._shared(tensor))
        compiled.request.infer()
        return tuple(output[0] for output in outputs)

    def _compile(self, function: str, inputs: Tensors) -> _Compiled:
        kept = self._kept(function, inputs)
        compiled = self._load(kept)
        if compiled is None:
            model = self._model(function, inputs)
            model.reshape({n: tuple(tensor.shape) for n, tensor in enumerate(inputs)})
            compiled = self._core.compile_model(model, "CPU", self._properties)
            _keep(kept, compiled)
        shapes = tuple(tuple(output.shape) for output in compiled.outputs)
        return _Compiled(compiled.create_infer_request(), shapes)

    def _model(self, function: str, inputs: Tensors) -> Any:
        if not isinstance(self._source, nn.Module):
            return self._core.read_model(
                self._source.find(function, tuple(tensor[0] for tensor in inputs))
            )
        return convert(self._source, function, inputs)

    def _kept(self, function: str, inputs: Tensors) -> Path | None:
        """Return the path of a compiled function in the cache; None for exported files, which are
        not cached."""
        if not self._key:
            return None
        shapes = [(tensor.dtype, tuple(tensor.shape)) for tensor in inputs]
        what = f"{self._key} {shapes} {sorted(self._properties.items())} {self._version} {_cpu()}"
        digest = hashlib.sha256(what.encode()).hexdigest()[:32]
        return cache_folder() / "openvino" / f"{function}-{digest}.blob"

    def _load(self, kept: Path | None) -> Any:
        if kept is None or not kept.is_file():
            return None
        try:
            return self._core.import_model(kept.read_bytes(), "CPU", self._properties)
        except (RuntimeError, OSError):  # damaged, or of another build: compiled again
            return None

    def _shared(self, tensor: Tensor) -> Any:
        return self._tensor(tensor.numpy(), shared_memory=True)


def convert(network: nn.Module, function: str, inputs: Tensors) -> Any:
    """Convert a function of a network to an OpenVINO model. inputs: an example, batch first.
    Raises ExportError if OpenVINO cannot convert it."""
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    module = FunctionModule(network, function, torch.float32).eval()
    # Copies, because tensors of inference mode cannot be traced.
    with torch.inference_mode(False), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        example = tuple(tensor.clone() for tensor in inputs)
        frontend = FrontEndManager().load_by_framework("pytorch")
        try:
            decoder = TorchScriptPythonDecoder(module, example_input=example)
            return frontend.convert(frontend.load(decoder))
        except RuntimeError as error:
            reason = " ".join(str(error).split())[-200:]
            raise ExportError(
                f"OpenVINO cannot compute '{function}': {reason}; use runtime.engine: torch"
            ) from error


def _keep(kept: Path | None, compiled: Any) -> None:
    """Write a compiled function into the cache; if that fails, it is compiled again at the next
    start."""
    if kept is None:
        return
    with contextlib.suppress(OSError):
        kept.parent.mkdir(parents=True, exist_ok=True)
        partial = kept.with_name(f"{kept.name}.{platform.node()}-{id(compiled)}.partial")
        partial.write_bytes(compiled.export_model().getvalue())
        partial.replace(kept)


def _cpu() -> str:
    """Describe the CPU by all that affects the generated code."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor()
    lines = dict.fromkeys(
        line for line in text.splitlines() if line.startswith(("model name", "flags"))
    )
    return "\n".join(lines)
