"""ONNX Runtime: on the CPU, on CUDA, and on CUDA by way of TensorRT."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stemseg_ros.errors import DeviceError, needs_extra
from stemseg_ros.execution.function_files import FunctionFiles, cache_folder
from stemseg_ros.execution.onnx_export import as_input, sha256_of
from stemseg_ros.execution.settings import RuntimeConfig

Tensors = tuple[Tensor, ...]
Shapes = tuple[tuple[int, ...], ...]
TYPES = {torch.float32: np.float32, torch.bool: np.bool_, torch.int64: np.int64}
"""Of inputs."""
CPU, CUDA, TENSORRT = (
    "CPUExecutionProvider",
    "CUDAExecutionProvider",
    "TensorrtExecutionProvider",
)


class OnnxRuntimeEngine:
    """Runs exported functions in ONNX Runtime, with inputs and outputs in PyTorch's memory on the
    device of the provider: nothing goes over the host between two functions."""

    def __init__(
        self, functions: FunctionFiles, config: RuntimeConfig, device: torch.device
    ) -> None:
        """Raises DeviceError where ONNX Runtime has no provider for the device, or computes in
        another precision than is asked for."""
        with needs_extra("onnx"):
            import onnxruntime
        self.device = device
        self._functions, self._config = functions, config
        self._runtime = onnxruntime
        self._provider = self._choose(onnxruntime.get_available_providers())
        self.precision = self._arithmetic(functions.precision)
        self._sessions: dict[Path, Any] = {}
        self._found: dict[tuple[str, Shapes], Path] = {}
        self._output_shapes: dict[tuple[str, Shapes], Shapes] = {}
        where = self._provider.removesuffix("ExecutionProvider")
        self.description = f"ONNX Runtime {onnxruntime.__version__}, {where} on {device}"

    def run(self, function: str, batch: Sequence[Tensors]) -> list[Tensors]:
        """See ``Engine``."""
        inputs = [_batched(items) for items in zip(*batch, strict=True)]
        key = function, tuple(tuple(tensor.shape) for tensor in inputs)
        if key not in self._found:
            self._found[key] = self._functions.find(function, batch[0])
        session = self._session(self._found[key])
        outputs = self._bound(session, inputs, self._shapes(session, key, inputs))
        return [tuple(output[n] for output in outputs) for n in range(len(batch))]

    def _choose(self, available: Sequence[str]) -> str:
        tensorrt = self._config.engine == "tensorrt"
        if tensorrt and self.device.type != "cuda":
            raise DeviceError(
                f"runtime.engine tensorrt needs a CUDA device, not {self.device}; on a CPU "
                "openvino or onnxruntime compute the same"
            )
        wanted = TENSORRT if tensorrt else CUDA if self.device.type == "cuda" else CPU
        if wanted not in available:
            raise DeviceError(
                f"ONNX Runtime has no {wanted} here, only {', '.join(available)}; "
                "onnxruntime-gpu brings those of CUDA, and runtime.engine torch needs none"
            )
        return wanted

    def _arithmetic(self, written: str) -> str:
        """Precision of the arithmetic. written: that of the files, which TensorRT may shorten."""
        shortened = self._provider == TENSORRT and written == "float32"
        able = [written, "float16"] if shortened else [written]
        asked = self._config.precision
        if asked not in ("auto", *able):
            raise DeviceError(
                f"runtime.precision {asked}: runtime.engine {self._config.engine} computes these "
                f"functions in {' or '.join(able)}; use auto or {able[0]}, or runtime.engine torch"
            )
        return able[-1] if asked == "auto" else asked

    def _options(self, path: Path) -> list[tuple[str, dict[str, str]]]:
        """The providers for a file, with their options."""
        if self._provider == CPU:
            return [(CPU, {})]
        cuda = (CUDA, {"device_id": str(self.device.index or 0), "use_tf32": "0"})
        if self._provider == CUDA:
            return [cuda]
        half = self.precision == "float16"
        name = torch.cuda.get_device_name(self.device)
        folder = tensorrt_cache(sha256_of(path), name, half, self._runtime.__version__)
        folder.mkdir(parents=True, exist_ok=True)
        tensorrt = {
            "device_id": str(self.device.index or 0),
            "trt_fp16_enable": str(int(half)),
            "trt_engine_cache_enable": "1",
            "trt_engine_cache_path": str(folder),
            "trt_timing_cache_enable": "1",
            "trt_timing_cache_path": str(folder),
        }
        return [(TENSORRT, tensorrt), cuda]

    def _session(self, path: Path) -> Any:
        if path not in self._sessions:
            options = self._runtime.SessionOptions()
            options.log_severity_level = 3  # errors; warnings tell of its own rewriting of graphs
            options.intra_op_num_threads = self._config.threads
            self._sessions[path] = self._runtime.InferenceSession(
                str(path), options, providers=self._options(path)
            )
        return self._sessions[path]

    def _shapes(self, session: Any, key: tuple[str, Shapes], inputs: list[Tensor]) -> Shapes:
        """Shapes of the outputs, learned from a first run: files hold formulas for them."""
        if key not in self._output_shapes:
            names = [value.name for value in session.get_inputs()]
            feed = {n: tensor.cpu().numpy() for n, tensor in zip(names, inputs, strict=True)}
            self._output_shapes[key] = tuple(
                tuple(output.shape) for output in session.run(None, feed)
            )
        return self._output_shapes[key]

    def _bound(self, session: Any, inputs: list[Tensor], shapes: Shapes) -> list[Tensor]:
        binding = session.io_binding()
        outputs = [torch.empty(shape, device=self.device) for shape in shapes]
        place = self.device.type, self.device.index or 0
        for value, tensor in zip(session.get_inputs(), inputs, strict=True):
            shape, address = list(tensor.shape), tensor.data_ptr()
            binding.bind_input(value.name, *place, TYPES[tensor.dtype], shape, address)
        for value, tensor in zip(session.get_outputs(), outputs, strict=True):
            shape, address = list(tensor.shape), tensor.data_ptr()
            binding.bind_output(value.name, *place, np.float32, shape, address)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)  # the provider computes on a stream of its own
        session.run_with_iobinding(binding)
        return outputs


def _batched(items: Sequence[Tensor]) -> Tensor:
    """One input of all items as the session takes it; that of a single item is not copied."""
    ready = [as_input(item) for item in items]
    return ready[0].unsqueeze(0).contiguous() if len(ready) == 1 else torch.stack(ready)


def tensorrt_cache(weights: str, device: str, half: bool, version: str) -> Path:
    """Folder of the engines that TensorRT built: another one for another file (by its digest),
    device, precision or version of ONNX Runtime, so that none is used for what it was not built
    for. Engines for several input shapes lie side by side under names of their own."""
    key = f"{weights[:16]}-{device.replace(' ', '_')}-{'fp16' if half else 'fp32'}-{version}"
    return cache_folder() / "tensorrt" / key
