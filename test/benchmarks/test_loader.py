"""The loader benchmark draws what it says it draws."""

from __future__ import annotations

from pathlib import Path

from driving_pack import tiny_config, write_pack

from benchmarks.loader import drawn_by_workers, drawn_per_core
from stemseg_ros.training.batches import load_sources


def test_rates_of_one_core_and_of_a_worker(tmp_path: Path) -> None:
    config = tiny_config(crop=[96, 96])
    sources = load_sources(config, write_pack(tmp_path))
    assert 1 < drawn_per_core(sources, config, clips=3) < 1e5
    assert 0 < drawn_by_workers(sources, config, workers=1, clips=2) < 1e5
