"""The command ``stemseg export``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from stemseg_ros.cli.options import (
    CheckpointOption,
    PresetArgument,
    SetOption,
    config_from,
    frame_size,
)

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from stemseg_ros.config import Config
    from stemseg_ros.execution.function_files import Content

    Tensors = tuple[Tensor, ...]


def export(
    config: PresetArgument,
    checkpoint: CheckpointOption = None,
    out: Annotated[
        Path, typer.Option(help="Folder for a .onnx file a function and export.json.")
    ] = Path("out/export"),
    size: Annotated[
        str, typer.Option(metavar="WxH", help="Size of the images; others fit, too.")
    ] = "1280x720",
    fixed: Annotated[
        bool, typer.Option("--fixed", help="For images of this size alone, in any batch.")
    ] = False,
    precision: Annotated[
        Literal["float32", "float16"],
        typer.Option(help="Type of the arithmetic; inputs and outputs are float32."),
    ] = "float32",
    opset: Annotated[int, typer.Option(min=18, help="Version of ONNX' operators.")] = 20,
    settings: SetOption = None,
) -> None:
    """Write the functions of a preset's network as ONNX files, checked against PyTorch.

    The folder takes the place of a checkpoint: --checkpoint OUT.
    """
    from stemseg_ros.media.outputs import appear_together

    tree = config_from(config, settings)
    width, height = frame_size(size)
    with appear_together(out, last="export.json") as folder:
        content, differences = export_network(
            tree,
            checkpoint,
            folder,
            (height, width),
            precision=precision,
            opset=opset,
            fixed=fixed,
        )
    for entry in content.functions:
        difference = differences.get(entry.function)
        checked = (
            "not compared: ONNX Runtime is not installed"
            if difference is None
            else f"differs from PyTorch by {difference:.1e} of the largest value"
        )
        typer.echo(f"{out / entry.file}: {checked}")


def export_network(
    config: Config,
    checkpoint: str | None,
    folder: Path,
    size: tuple[int, int],
    *,
    precision: str,
    opset: int,
    fixed: bool,
) -> tuple[Content, dict[str, float]]:
    """Write all functions of a network and ``export.json`` into a folder.

    size: (H, W) of the images. Returns what was written, and for each function the largest
    difference of its outputs from PyTorch's, relative to their largest value; without ONNX Runtime
    none. Raises ExportError, CheckpointError, MissingExtraError.
    """
    from stemseg_ros.execution.engine import inference_form
    from stemseg_ros.execution.function_files import describe
    from stemseg_ros.execution.onnx_export import export_function
    from stemseg_ros.execution.torch_engine import DTYPES, finalise
    from stemseg_ros.labelling.job import versions
    from stemseg_ros.models.registry import model_package

    network = inference_form(model_package(config.model).load_network(config, checkpoint))
    finalise(network, config.runtime)
    inputs = example_inputs(config, network, size)
    dtype = DTYPES[precision]
    content = describe(
        network, config.name, config.alone.classes, dtype, opset=opset, versions=versions()
    )
    metadata = {
        "stemseg.config": content.config,
        "stemseg.classes": ", ".join(content.classes),
        "stemseg.fingerprint": content.fingerprint,
        "stemseg.precision": content.precision,
        "stemseg.versions": str(content.versions),
    }
    for function, example in inputs.items():
        written = export_function(
            network,
            function,
            example,
            folder / f"{function}.onnx",
            metadata={**metadata, "stemseg.function": function},
            dtype=dtype,
            opset=opset,
            fixed=fixed,
        )
        content = replace(content, functions=(*content.functions, written))
    content.write(folder)
    return content, compare(network, folder, inputs, dtype)


def example_inputs(
    config: Config, network: nn.Module, size: tuple[int, int]
) -> dict[str, Tensors]:
    """Inputs of each function, without the batch dimension, as frames of (H, W) give them."""
    from stemseg_ros.execution.comparison import RecordingEngine
    from stemseg_ros.execution.torch_engine import TorchEngine
    from stemseg_ros.stream import Model

    exact = config.runtime.model_copy(update={"precision": "float32", "fuse": False})
    recorder = RecordingEngine(TorchEngine(network, exact, "cpu"))
    Model(config, recorder).warm_up(size)
    return recorder.inputs


def compare(
    network: nn.Module, folder: Path, inputs: dict[str, Tensors], dtype: torch.dtype
) -> dict[str, float]:
    """How far the files of a folder are from PyTorch, by function; nothing without ONNX Runtime.
    Raises ExportError for a file that is further off than its precision allows."""
    from importlib.util import find_spec

    import torch

    from stemseg_ros.execution.engine import open_exported
    from stemseg_ros.execution.function_files import ExportedFolder
    from stemseg_ros.execution.onnx_export import CLOSE, ExportError, largest_difference
    from stemseg_ros.execution.settings import RuntimeConfig

    if find_spec("onnxruntime") is None:
        return {}
    runtime = RuntimeConfig(engine="onnxruntime", precision="auto")
    engine = open_exported(ExportedFolder(folder), runtime, "cpu")
    differences = {}
    for function, example in inputs.items():
        outputs = engine.run(function, [example])[0]
        difference = largest_difference(network, function, example, outputs)
        if difference > CLOSE * (1 if dtype == torch.float32 else 100):
            raise ExportError(
                f"'{function}' as ONNX differs from PyTorch by {difference:.1e} of its largest "
                "value; this is a fault of the exporter, please report it"
            )
        differences[function] = difference
    return differences
