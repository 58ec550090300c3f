"""Settings of the execution of a network."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from stemseg_ros.settings import Section


class RuntimeConfig(Section):
    """Where and how the network runs."""

    engine: Literal["auto", "torch", "openvino", "onnxruntime", "tensorrt"] = "torch"
    """What computes the network. auto: OpenVINO on a CPU if it is installed, else PyTorch.
    OpenVINO converts the network in memory; onnxruntime and tensorrt compute an ONNX export.
    Either is made at the first start and kept (docs/speed.md)."""
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "float32"
    """Type of the network's arithmetic; outputs are float32 in any case. auto: the shortest type
    that the device computes in natively, so that the last digits differ between machines;
    float16 with TensorRT, that of the exported files with ONNX Runtime,
    which computes in no other."""
    threads: int = Field(0, ge=0, le=1024)
    """CPU threads of the network; 0: as many as the engine chooses. For torch of the process."""
    channels_last: bool = False
    """Memory format of convolutions (torch)."""
    compile: bool = False
    """torch.compile all network functions (torch; slow first window)."""
    fuse: bool = False
    """Fold frozen batch norms into their convolutions (faster; the last digits of float32
    change)."""
