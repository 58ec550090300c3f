"""Runs with ``tracking: own_tracks``: two networks, random weights, the detector's modes."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("trackeval")

from evaluated import evaluate, run

from stemseg_ros.evaluation import runs

FIND_MUCH = """
base: lite
input: {min_dim: 96, max_dim: 160}
window: {length: 4, overlap: 2}
runtime: {engine: torch, precision: float32, threads: 1}
clustering:
  {min_heat: 0.0, foreground_probability: 0.0, leftover_probability: 0.001, max_instances: 3}
output: {min_area: 0, min_score: 0.0}
"""
"""A detector that, untrained, finds many an object."""


def own_tracks(detector: object) -> list[str]:
    settings = ("tracking=own_tracks", f"bridging.detector={detector}", "output.min_area=0")
    settings += ("bridging.checkpoint=random",)
    return ["--config", "hodor_lite", *(w for one in settings for w in ("--set", one))]


def test_every_mode_of_the_detector_is_run_and_resumed(dataset: Path, tmp_path: Path) -> None:
    detector, out = tmp_path / "detector.yaml", tmp_path / "out"
    detector.write_text(FIND_MUCH)
    options = [*own_tracks(detector), "--sequence", "0001", "--post-filter", "without"]
    modes = ("offline", "near_online", "online")
    options += [word for mode in modes for word in ("--mode", mode)]
    report = run(dataset, out, *options)
    assert [entry["name"] for entry in report["runs"]] == [*modes]
    rows = [runs.stored_masks(out / "results" / mode, "0001").rows for mode in modes]
    assert all({row.frame for row in found} == set(range(9)) for found in rows)
    assert {row.class_id for found in rows for row in found} <= {1, 2}
    assert rows[1] != rows[2]
    written = [file.stat().st_mtime_ns for file in sorted((out / "results").rglob("0001.json"))]
    run(dataset, out, *options)
    again = [file.stat().st_mtime_ns for file in sorted((out / "results").rglob("0001.json"))]
    assert again == written
    detector.write_text(FIND_MUCH.replace("max_instances: 3", "max_instances: 2"))
    run(dataset, out, *options)
    assert written != [
        file.stat().st_mtime_ns for file in sorted((out / "results").rglob("0001.json"))
    ]


def test_modes_that_the_detector_lacks_are_refused(dataset: Path, tmp_path: Path) -> None:
    options = [*own_tracks("stc_lite"), "--ground-truth", dataset, "--out", tmp_path / "out"]
    said = evaluate(*options, "--mode", "offline", code=2)
    assert "the model stc has no mode 'offline', only 'online'" in said
