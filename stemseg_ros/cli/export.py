"""The command ``stemseg export``."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
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
    from torch import Tensor, nn

    from stemseg_ros.config import Config
    from stemseg_ros.execution.comparison import RecordingEngine
    from stemseg_ros.execution.function_files import Content

    Tensors = tuple[Tensor, ...]

CALIBRATION_FRAMES = 16
"""Frames of the recording that are used for int8."""
CALIBRATION_STEP = 5
"""Every so-many-th frame is one of them."""
ALLOWED = {"float32": 1e-3, "float16": 0.1, "int8": 0.8}
"""Largest accepted difference from PyTorch's outputs, relative to their largest value: a check of
the exporter. Whether int8 is accurate enough, ``stemseg evaluate`` says."""


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
        Literal["float32", "float16", "int8"],
        typer.Option(
            help="Type of the arithmetic; inputs and outputs are float32. int8: of the "
            "convolutions of 'encode', for CPUs."
        ),
    ] = "float32",
    calibration: Annotated[
        Path | None,
        typer.Option(help="Recording that shows the ranges of values for int8; not a test video."),
    ] = None,
    opset: Annotated[int, typer.Option(min=18, help="Version of ONNX' operators.")] = 20,
    settings: SetOption = None,
) -> None:
    """Write the functions of a preset's network as ONNX files, checked against PyTorch.

    The folder takes the place of a checkpoint: --checkpoint OUT.
    """
    from stemseg_ros.media.outputs import appear_together

    if (precision == "int8") != (calibration is not None):
        raise typer.BadParameter("int8 needs --calibration RECORDING, other types none")
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
            calibration=calibration,
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
    calibration: Path | None = None,
) -> tuple[Content, dict[str, float]]:
    """Write all functions of a network and ``export.json`` into a folder.

    size: (H, W) of the images; calibration: a recording, for int8. Returns what was written, and
    for each function the largest difference of its outputs from PyTorch's, relative to their
    largest value; without ONNX Runtime none. Raises ExportError, CheckpointError, MediaError,
    MissingExtraError.
    """
    import torch

    from stemseg_ros.execution.engine import inference_form
    from stemseg_ros.execution.function_files import describe
    from stemseg_ros.execution.onnx_export import export_function
    from stemseg_ros.execution.quantisation import QUANTISED, quantise
    from stemseg_ros.execution.torch_engine import DTYPES, finalise
    from stemseg_ros.labelling.job import versions
    from stemseg_ros.models.registry import model_package

    network = inference_form(model_package(config.model).load_network(config, checkpoint))
    finalise(network, config.runtime)
    inputs = example_inputs(config, network, size)
    dtype = DTYPES.get(precision, torch.float32)  # int8: a float32 file is converted
    content = describe(
        network, config.name, config.alone.classes, precision, opset=opset, versions=versions()
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
        if calibration and function == QUANTISED:
            samples = calibration_inputs(config, network, calibration, function)
            written = quantise(folder, written, samples)
        content = replace(content, functions=(*content.functions, written))
    content.write(folder)
    return content, compare(network, folder, inputs, ALLOWED[precision])


def example_inputs(
    config: Config, network: nn.Module, size: tuple[int, int]
) -> dict[str, Tensors]:
    """Inputs of each function, without the batch dimension, as frames of (H, W) give them."""
    from stemseg_ros.stream import Model

    recorder = open_recorder(config, network)
    Model(config, recorder).warm_up(size)
    return recorder.inputs


def calibration_inputs(
    config: Config, network: nn.Module, recording: Path, function: str
) -> list[Tensors]:
    """Inputs of a function, without the batch dimension, as frames of a recording give them.
    Raises MediaError."""
    from stemseg_ros.media.sources import open_source
    from stemseg_ros.records import Frame
    from stemseg_ros.stream import Model

    recorder = open_recorder(config, network)
    stream = Model(config, recorder).stream()
    with open_source(recording) as source:
        chosen = islice(source, 0, CALIBRATION_FRAMES * CALIBRATION_STEP, CALIBRATION_STEP)
        for number, (_, image) in enumerate(chosen):
            prompts = () if number else stream.example_prompts(image.shape[:2])
            stream.push(Frame(image, 1 + number, prompts))
    return recorder.recorded[function]


def open_recorder(config: Config, network: nn.Module) -> RecordingEngine:
    """Open an engine that keeps the inputs of a network and computes in float32."""
    from stemseg_ros.execution import comparison
    from stemseg_ros.execution.torch_engine import TorchEngine

    exact = config.runtime.model_copy(update={"precision": "float32", "fuse": False})
    return comparison.RecordingEngine(TorchEngine(network, exact, "cpu"))


def compare(
    network: nn.Module, folder: Path, inputs: dict[str, Tensors], allowed: float
) -> dict[str, float]:
    """How far the files of a folder are from PyTorch, by function; nothing without ONNX Runtime.
    Raises ExportError for a file that is further off than is ``allowed``."""
    from importlib.util import find_spec

    from stemseg_ros.execution.engine import open_exported
    from stemseg_ros.execution.function_files import ExportedFolder
    from stemseg_ros.execution.onnx_export import ExportError, largest_difference
    from stemseg_ros.execution.settings import RuntimeConfig

    if find_spec("onnxruntime") is None:
        return {}
    runtime = RuntimeConfig(engine="onnxruntime", precision="auto")
    engine = open_exported(ExportedFolder(folder), runtime, "cpu")
    differences = {}
    for function, example in inputs.items():
        outputs = engine.run(function, [example])[0]
        difference = largest_difference(network, function, example, outputs)
        if difference > allowed:
            raise ExportError(
                f"'{function}' as ONNX differs from PyTorch by {difference:.1e} of its largest "
                "value; this is a fault of the exporter, please report it"
            )
        differences[function] = difference
    return differences
