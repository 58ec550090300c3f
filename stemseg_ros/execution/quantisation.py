"""Conversion of an exported function to 8-bit arithmetic, calibrated on real inputs.

For CPUs: their engines multiply 8-bit integers several times as fast as floats. Only ordinary
convolutions are converted; weights by output channel, inputs by the range of the calibration.
Depthwise ones would gain little and lose most: their channels differ in range, and share a scale.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from stemseg_ros.errors import needs_extra
from stemseg_ros.execution.onnx_export import FunctionFile, as_input, sha256_of

Tensors = tuple[Tensor, ...]
QUANTISED = "encode"
"""The function that is converted: most of the arithmetic. The others have few convolutions to gain
from, and their outputs are the results."""


def quantise(folder: Path, written: FunctionFile, samples: Sequence[Tensors]) -> FunctionFile:
    """Convert the file of a function in a folder, in place; returns its new entry.

    samples: inputs of the function, without the batch dimension.
    """
    with needs_extra("export"):
        import onnx
    with needs_extra("onnx"):
        from onnxruntime import quantization as tools

    path = folder / written.file
    exact = onnx.load(str(path))
    names = [value.name for value in exact.graph.input]

    class Samples(tools.CalibrationDataReader):  # type: ignore[misc]  # untyped
        def __init__(self) -> None:
            self._left = iter(samples)

        def get_next(self) -> object:
            item = next(self._left, None)
            if item is None:
                return None
            values = (as_input(tensor).unsqueeze(0).cpu().numpy() for tensor in item)
            return dict(zip(names, values, strict=True))

    partial = path.with_name(path.name + ".partial")
    with _without_advice():
        tools.quantize_static(
            exact,
            str(partial),
            Samples(),
            quant_format=tools.QuantFormat.QDQ,
            op_types_to_quantize=["Conv"],
            nodes_to_exclude=_depthwise(exact),
            per_channel=True,
            activation_type=tools.QuantType.QUInt8,
            weight_type=tools.QuantType.QInt8,
        )
    converted = onnx.load(str(partial))
    del converted.metadata_props[:]
    converted.metadata_props.extend(exact.metadata_props)
    onnx.checker.check_model(converted)
    onnx.save(converted, str(partial))
    partial.replace(path)
    return replace(written, sha256=sha256_of(path))


def _depthwise(model: Any) -> list[str]:
    """Return the names of the convolutions with groups."""
    return [
        node.name
        for node in model.graph.node
        if node.op_type == "Conv" and any(a.name == "group" and a.i > 1 for a in node.attribute)
    ]


@contextmanager
def _without_advice() -> Iterator[None]:
    """Silence advice on preparing the file: batch normalisation is folded already."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
