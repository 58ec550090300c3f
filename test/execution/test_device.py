"""Device names, with and without CUDA."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from stemseg_ros.errors import DeviceError
from stemseg_ros.execution.device import describe_device, fast_precision, resolve_device


def fake_devices(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)


@pytest.mark.parametrize(
    "name, count, expected",
    [
        ("auto", 0, "cpu"),
        ("auto", 1, "cuda:0"),
        ("cpu", 1, "cpu"),
        ("cuda", 2, "cuda:0"),
        ("cuda:1", 2, "cuda:1"),
    ],
)
def test_device(name: str, count: int, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_devices(monkeypatch, count)
    assert resolve_device(name) == torch.device(expected)


@pytest.mark.parametrize(
    "name, count, words",
    [
        ("cuda", 0, "no CUDA device for 'cuda': there is none; use the device cpu"),
        ("cuda:1", 1, "no CUDA device for 'cuda:1': there is 1"),
        ("cuda:7", 2, "there are 2"),
        ("cuda:x", 2, "unknown device 'cuda:x'; expected auto, cpu, cuda or cuda:N"),
        ("cuda:", 2, "unknown device 'cuda:'"),
        ("gpu", 1, "unknown device 'gpu'"),
        ("", 1, "unknown device ''"),
    ],
)
def test_unknown_or_missing_device(
    name: str, count: int, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_devices(monkeypatch, count)
    with pytest.raises(DeviceError, match=words):
        resolve_device(name)


def test_description_of_the_cpu() -> None:
    assert describe_device(torch.device("cpu")) == "cpu"


def test_fast_precision_is_supported_by_autocast() -> None:
    dtype = fast_precision(torch.device("cpu"))
    assert dtype in (torch.float32, torch.bfloat16)
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    assert (dtype == torch.bfloat16) == ("avx512_bf16" in flags or "amx_tile" in flags)
