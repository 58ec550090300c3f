"""Settings of execution."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from stemseg_ros.settings import Section


class RuntimeConfig(Section):
    """Runtime of the network."""

    engine: Literal["auto", "torch", "openvino", "onnxruntime", "tensorrt"] = "torch"
    """Engine of the network. auto: OpenVINO on a CPU if it is installed, else PyTorch. openvino
    converts the network in memory; onnxruntime and tensorrt run an ONNX export. The result is
    cached at the first start (docs/speed.md)."""
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "float32"
    """Precision of the network's arithmetic; outputs are always float32. auto: the shortest type
    with native support on the device, so the last digits differ between machines; float16 with
    TensorRT; with ONNX Runtime that of the exported files, the only one it supports."""
    threads: int = Field(0, ge=0, le=1024)
    """CPU threads of the network; 0: chosen by the engine. With torch, of the whole process."""
    channels_last: bool = False
    """Memory format of convolutions (torch)."""
    compile: bool = False
    """torch.compile all network functions (torch; slow first window)."""
    fuse: bool = False
    """Fold frozen batch norms into their convolutions (faster; the last digits of float32
    change)."""
