"""The script for a GPU, tried on the CPU: sections, contestants that are left out, time limits."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks import gpu
from benchmarks.gpu import Plan, compare_precisions, measure_memory, measure_speed, run_section
from stemseg_ros.config import Config
from stemseg_ros.errors import StemsegError
from stemseg_ros.stream import Model

SMALL = ["input.min_dim=64", "input.max_dim=96", "runtime.threads=1"]


def plan(folder: Path, seconds: float = 1000.0) -> Plan:
    deadline = time.monotonic() + seconds
    report = {"folder": str(folder)}
    return Plan("cpu", 8, 2, SMALL, deadline, size=(96, 64), report=report)


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "PRESETS", ("lite",))
    monkeypatch.setattr(gpu, "CAMERAS", ("1",))
    monkeypatch.setattr(gpu, "PRECISIONS", ("float32", "bfloat16"))
    names = ("torch, float32", "torch, bfloat16", "tensorrt, float16")
    monkeypatch.setattr(gpu, "SPEED", {name: gpu.SPEED[name] for name in names})


def test_precisions_are_compared_with_float32_on_the_cpu(tmp_path: Path) -> None:
    rows = compare_precisions(plan(tmp_path))
    assert set(rows) == {"lite, float32", "lite, bfloat16"}
    for function, outputs in (("encode", 4), ("decode", 4)):
        exact, short = (rows[f"lite, {name}"][function] for name in ("float32", "bfloat16"))
        assert exact == [0.0] * outputs
        assert len(short) == outputs and 0 < max(short) < 0.5


def test_contestants_that_cannot_run_are_left_out_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = gpu.open_model

    def open_model(config: Config, *arguments: Any, **options: Any) -> Model:
        if config.runtime.precision == "bfloat16":
            raise RuntimeError("the compiler failed")
        return opened(config, *arguments, **options)

    monkeypatch.setattr(gpu, "open_model", open_model)
    rows = measure_speed(plan(tmp_path))
    assert rows["lite, torch, bfloat16"] == {"left out": "RuntimeError: the compiler failed"}
    assert "CUDA" in rows["lite, tensorrt, float16"]["left out"]
    assert len(rows["lite, torch, float32"]["ms"]) == 2
    assert rows["lite, torch, float32"]["fps"] > 0
    assert set(rows["lite, torch, float32"]["stages_ms"]) == {"encode", "decode", "track"}


def test_memory_of_cameras(tmp_path: Path) -> None:
    (row,) = measure_memory(plan(tmp_path))["rows"]
    assert row["cameras"] == 1 and row["memory_mb"] > 50


def test_a_section_without_time_or_that_fails_says_so(tmp_path: Path) -> None:
    assert run_section(measure_speed, plan(tmp_path, seconds=-1)) == {"left out": "no time left"}

    def broken(_: Plan) -> dict[str, object]:
        raise StemsegError("the card is gone")

    report = run_section(broken, plan(tmp_path))
    assert report == {"failed": "StemsegError: the card is gone"}
    json.dumps(report)
