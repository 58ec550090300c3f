"""The parts of the load benchmark that need no node."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.load import LOADS, VARIANTS, Run, StandIn, draw
from stemseg_ros.models.stemseg.settings import load_settings
from stemseg_ros.records import Frame
from stemseg_ros.stream import Model


def run(policy: str = "stride", bound: int = 0, load: float = 2.0) -> Run:
    times = np.arange(10.0)
    return Run(policy, bound, load, 25, times, times / 10, {"stride": 15, "late": 0})


def test_the_fake_takes_its_time_and_has_a_result_for_every_frame(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slept: list[float] = []
    monkeypatch.setattr("benchmarks.load.time.sleep", slept.append)
    config = load_settings("lite", {"window.length": 4, "window.overlap": 2, "input.min_dim": 64})
    stream = Model(config, StandIn(config, 0.1, 0.6)).stream()
    image = np.zeros((64, 96, 3), np.uint8)
    results = [r for index in range(8) for r in stream.push(Frame(image, 1 + index))]
    assert [(r.stamp_ns, r.instances) for r in results] == [(1 + index, ()) for index in range(8)]
    assert (slept.count(0.1), slept.count(0.6)) == (8, 3)


def test_a_row_of_the_table() -> None:
    assert run().row() == "| stride | 2 | 25 | 10 | stride 15 | 0.45 | 0.85 | 0.90 | 0.90 |"
    assert run(bound=500).row().startswith("| stride, max_latency_ms 500 | 2 |")


def test_the_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs the extra 'evaluation'")
    draw([run(*variant, load) for variant in VARIANTS for load in LOADS], 2.4, tmp_path / "a.jpg")
    assert (tmp_path / "a.jpg").stat().st_size > 10_000
