"""Devices and the precisions that they support."""

from __future__ import annotations

import torch

from stemseg_ros.errors import DeviceError


def resolve_device(name: str | torch.device) -> torch.device:
    """Resolve "auto" (CUDA if available, else the CPU), "cpu", "cuda" or "cuda:N".

    Raises DeviceError for other names, and for a CUDA device that does not exist.
    """
    name = str(name)
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cpu":
        return torch.device(name)
    kind, _, number = name.partition(":")
    if kind != "cuda" or not (number.isdigit() or name == "cuda"):
        raise DeviceError(f"unknown device '{name}'; expected auto, cpu, cuda or cuda:N")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if int(number or 0) >= count:
        there = f"there {'is' if count == 1 else 'are'} {count}" if count else "there is none"
        raise DeviceError(f"no CUDA device for '{name}': {there}; use the device cpu")
    return torch.device("cuda", int(number or 0))


def describe_device(device: torch.device) -> str:
    """Name the device and its hardware, for reports."""
    return (
        f"{device} ({torch.cuda.get_device_name(device)})"
        if device.type == "cuda"
        else str(device)
    )


def fast_precision(device: torch.device) -> torch.dtype:
    """Choose the shortest float type that the device supports natively: bfloat16 or float16, else
    float32."""
    if device.type == "cuda":
        return (
            torch.bfloat16
            if torch.cuda.is_bf16_supported(including_emulation=False)
            else torch.float16
        )
    # Private functions, because PyTorch has no public check. Without these instructions bfloat16
    # is emulated, which is slower than float32.
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if native else torch.float32


def resolve_precision(name: str, device: torch.device) -> str:
    """Resolve a precision: "auto" becomes the name of ``fast_precision`` (float32, bfloat16 or
    float16), other names are returned unchanged."""
    return str(fast_precision(device)).removeprefix("torch.") if name == "auto" else name
