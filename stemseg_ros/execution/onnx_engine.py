"""Engine of ONNX Runtime: on the CPU, on CUDA, and with TensorRT."""

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
"""Data types of inputs."""
CPU, CUDA, TENSORRT = (
    "CPUExecutionProvider",
    "CUDAExecutionProvider",
    "TensorrtExecutionProvider",
)


class OnnxRuntimeEngine:
    """Engine for exported functions. Inputs and outputs are PyTorch tensors on the provider's
    device, so that nothing is copied to the host between functions."""

    def __init__(
        self, functions: FunctionFiles, config: RuntimeConfig, device: torch.device
    ) -> None:
        """Choose provider and precision. Raises DeviceError if ONNX Runtime has no provider for
        the device, or cannot compute in the configured precision."""
        with needs_extra("onnx"):
            import onnxruntime
        self.device = device
        self._functions, self._config = functions, config
        self._runtime = onnxruntime
        self._provider = self._choose_provider(onnxruntime.get_available_providers())
        self.precision = self._choose_precision(functions.precision)
        self._sessions: dict[Path, Any] = {}
        self._found: dict[tuple[str, Shapes], Path] = {}
        self._output_shapes: dict[tuple[str, Shapes], Shapes] = {}
        where = self._provider.removesuffix("ExecutionProvider")
        self.description = f"ONNX Runtime {onnxruntime.__version__}, {where} on {device}"

    def run(self, function: str, batch: Sequence[Tensors]) -> list[Tensors]:
        """See ``Engine``."""
        inputs = [_batch(items) for items in zip(*batch, strict=True)]
        key = function, tuple(tuple(tensor.shape) for tensor in inputs)
        if key not in self._found:
            self._found[key] = self._functions.find(function, batch[0])
        session = self._session(self._found[key])
        outputs = self._run_bound(session, inputs, self._shapes(session, key, inputs))
        return [tuple(output[n] for output in outputs) for n in range(len(batch))]

    def _choose_provider(self, available: Sequence[str]) -> str:
        tensorrt = self._config.engine == "tensorrt"
        if tensorrt and self.device.type != "cuda":
            raise DeviceError(
                f"runtime.engine tensorrt needs a CUDA device, not {self.device}; use openvino or "
                "onnxruntime on a CPU"
            )
        wanted = TENSORRT if tensorrt else CUDA if self.device.type == "cuda" else CPU
        if wanted not in available:
            raise DeviceError(
                f"ONNX Runtime has no {wanted} here, only {', '.join(available)}; install "
                "onnxruntime-gpu for CUDA, or use runtime.engine torch"
            )
        return wanted

    def _choose_precision(self, written: str) -> str:
        """Choose the precision of the arithmetic. written: that of the files, which TensorRT may
        reduce."""
        if written == "int8" and self._provider != CPU:
            raise DeviceError(
                "these functions are exported in int8 for CPUs; use runtime.device cpu, or export "
                "them with --precision float16"
            )
        reducible = self._provider == TENSORRT and written == "float32"
        supported = [written, "float16"] if reducible else [written]
        configured = self._config.precision
        if configured not in ("auto", *supported):
            choices = "auto" if written == "int8" else f"auto or {written}"  # int8 is no setting
            raise DeviceError(
                f"runtime.precision {configured}: runtime.engine {self._config.engine} computes "
                f"these functions in {' or '.join(supported)}; use {choices}, or "
                "runtime.engine torch"
            )
        return supported[-1] if configured == "auto" else configured

    def _options(self, path: Path) -> list[tuple[str, dict[str, str]]]:
        """Return the providers for a file, with their options."""
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
            options.log_severity_level = 3  # errors; warnings are about its graph optimisation
            options.intra_op_num_threads = self._config.threads
            self._sessions[path] = self._runtime.InferenceSession(
                str(path), options, providers=self._options(path)
            )
        return self._sessions[path]

    def _shapes(self, session: Any, key: tuple[str, Shapes], inputs: list[Tensor]) -> Shapes:
        """Return the shapes of the outputs, from a first run: in the files they are symbolic."""
        if key not in self._output_shapes:
            names = [value.name for value in session.get_inputs()]
            feed = {n: tensor.cpu().numpy() for n, tensor in zip(names, inputs, strict=True)}
            self._output_shapes[key] = tuple(
                tuple(output.shape) for output in session.run(None, feed)
            )
        return self._output_shapes[key]

    def _run_bound(self, session: Any, inputs: list[Tensor], shapes: Shapes) -> list[Tensor]:
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
            torch.cuda.synchronize(self.device)  # the provider uses its own CUDA stream
        session.run_with_iobinding(binding)
        return outputs


def _batch(items: Sequence[Tensor]) -> Tensor:
    """Stack one input of all items, (N, ...) in the type that exported functions take; a single
    contiguous item is not copied."""
    inputs = [as_input(item) for item in items]
    return inputs[0].unsqueeze(0).contiguous() if len(inputs) == 1 else torch.stack(inputs)


def tensorrt_cache(weights: str, device: str, half: bool, version: str) -> Path:
    """Return the cache folder of TensorRT engines, one for each file (by digest), device,
    precision and version of ONNX Runtime. TensorRT names the engines in it by input shapes."""
    key = f"{weights[:16]}-{device.replace(' ', '_')}-{'fp16' if half else 'fp32'}-{version}"
    return cache_folder() / "tensorrt" / key
