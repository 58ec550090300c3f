"""Exports functions of a network as ONNX files, and compares them with PyTorch."""

from __future__ import annotations

import contextlib
import hashlib
import io
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stemseg_ros.errors import StemsegError, needs_extra
from stemseg_ros.execution.comparison import relative_difference

Tensors = tuple[Tensor, ...]
OPSET = 20
"""Oldest opset with all operators that the networks need."""


class ExportError(StemsegError):
    """A function cannot be exported, or an exported file is invalid; the message names it and the
    remedy."""


@dataclass(frozen=True, slots=True)
class FunctionFile:
    """One function of a network as an ONNX file."""

    function: str
    file: str
    """Name within its folder."""
    sha256: str
    inputs: tuple[tuple[int | None, ...], ...]
    """Shapes of the inputs, batch first; None for dynamic axes."""

    def takes(self, shapes: Sequence[Sequence[int]]) -> bool:
        """Check whether the file accepts inputs of these shapes."""
        return len(shapes) == len(self.inputs) and all(
            len(shape) == len(own)
            and all(fixed in (None, length) for fixed, length in zip(own, shape, strict=True))
            for shape, own in zip(shapes, self.inputs, strict=True)
        )

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> FunctionFile:
        """Parse an entry of ``export.json``."""
        shapes = tuple(tuple(shape) for shape in entry["inputs"])
        return cls(str(entry["function"]), str(entry["file"]), str(entry["sha256"]), shapes)


class FunctionModule(nn.Module):
    """Module whose forward pass is a method of a network; dtype: of autocast."""

    def __init__(self, network: nn.Module, name: str, dtype: torch.dtype) -> None:
        super().__init__()
        self.network, self._name, self._dtype = network, name, dtype

    def forward(self, *inputs: Tensor) -> Tensors:
        """Compute the outputs of the function, as float32."""
        compute = getattr(self.network, self._name)
        if self._dtype == torch.float32:
            outputs: Tensors = compute(*inputs)
        else:
            with torch.autocast(inputs[0].device.type, dtype=self._dtype):
                outputs = compute(*inputs)
        return tuple(output.float() for output in outputs)


def export_function(
    network: nn.Module,
    function: str,
    inputs: Tensors,
    path: Path,
    *,
    metadata: Mapping[str, str],
    dtype: torch.dtype = torch.float32,
    opset: int = OPSET,
    fixed: bool = False,
) -> FunctionFile:
    """Export a function as ONNX with PyTorch's exporter and check the file with ONNX' checker.

    inputs: one example, without the batch dimension. The batch is dynamic and, where the function
    allows it, the size of maps (the last two axes) and all axes of other tensors; fixed: only the
    batch is. dtype: of the arithmetic; inputs and outputs are float32. metadata: stored in the
    file. Raises ExportError.
    """
    with needs_extra("export"):
        import onnx
        import onnxscript  # noqa: F401  (needed by PyTorch's exporter)
    module = FunctionModule(network, function, dtype).eval()
    # Two items, because axes of length 1 become static; copies, because tensors of inference mode
    # cannot be traced.
    with torch.inference_mode(False), torch.no_grad():
        batch = tuple(torch.stack([item.clone(), item.clone()]) for item in inputs)
        try:
            program = _trace(module, batch, opset, fixed)
        except Exception as error:  # the exporter raises exceptions of all kinds
            raise ExportError(
                f"'{function}' cannot be exported as ONNX: {_first_line(error)}; use "
                "runtime.engine: torch, which needs no export"
            ) from error
    program.model.metadata_props.update(metadata)
    partial = path.with_name(path.name + ".partial")
    program.save(str(partial), external_data=False)
    written = onnx.load(str(partial))
    onnx.checker.check_model(written)
    shapes = tuple(_shape(value) for value in written.graph.input)
    partial.replace(path)
    return FunctionFile(function, path.name, sha256_of(path), shapes)


def largest_difference(
    network: nn.Module, function: str, inputs: Tensors, outputs: Tensors
) -> float:
    """Compute the largest difference of outputs from PyTorch's, relative to the largest value of
    each; 0 for empty outputs. inputs, outputs: of one item, without the batch dimension."""
    with torch.no_grad():
        expected = getattr(network, function)(*(item.unsqueeze(0) for item in inputs))
    differences = [0.0]
    for output, reference in zip(outputs, expected, strict=True):
        if output.numel():
            differences.append(relative_difference(output, reference[0]))
    return max(differences)


def as_input(tensor: Tensor) -> Tensor:
    """Convert a tensor to the type that exported functions take: floating-point ones to
    float32."""
    return tensor.float() if tensor.is_floating_point() else tensor


def sha256_of(path: Path) -> str:
    """Compute the SHA-256 digest of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _trace(module: nn.Module, batch: Tensors, opset: int, fixed: bool) -> Any:
    axis = torch.export.Dim.AUTO
    shapes = tuple(dict.fromkeys(_dynamic_axes(item, fixed), axis) for item in batch)
    # The exporter prints its progress; failures are raised.
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        return torch.onnx.export(
            module,
            batch,
            dynamo=True,
            opset_version=opset,
            verbose=False,
            dynamic_shapes=(shapes,),
        )


def _dynamic_axes(item: Tensor, fixed: bool) -> tuple[int, ...]:
    """Return the dynamic axes of an input; each one makes the exporter slower."""
    if fixed:
        return (0,)
    return (0, item.ndim - 2, item.ndim - 1) if item.ndim >= 4 else tuple(range(item.ndim))


def _shape(value: Any) -> tuple[int | None, ...]:
    axes = value.type.tensor_type.shape.dim
    return tuple(axis.dim_value if axis.HasField("dim_value") else None for axis in axes)


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
