"""The model STC from the command line: frames in, results out, and what is missing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from stemseg_ros.cli.main import app
from stemseg_ros.formats.kitti_lines import read_results

FIND_ALL = [
    "input.min_dim=96",
    "input.max_dim=128",
    "condinst.candidate_score=0.0",
    "condinst.max_detections=8",
    "association.min_score=0.0",
    "association.new_score=0.0",
    "output.min_score=0.0",
    "output.min_area=1",
]


def run(source: Path, *options: object) -> Any:
    arguments = ["run", source, "--config", "stc_lite", "--device", "cpu", *options]
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    random = np.random.default_rng(0)
    for index in range(3):
        image = random.integers(0, 256, (96, 128, 3), np.uint8)
        cv2.imwrite(str(folder / f"{index}.png"), image)
    return folder


def test_run_reports_every_frame(images: Path, tmp_path: Path) -> None:
    settings = [part for setting in FIND_ALL for part in ("--set", setting)]
    done = run(images, "--checkpoint", "random", "--out", tmp_path / "out", *settings)
    assert done.exit_code == 0, done.output
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["frames"] == 3
    assert set(summary["stage_ms"]) == {"detect", "track"}
    rows = read_results(tmp_path / "out" / "instances.txt")
    assert {row.frame for row in rows} == {0, 1, 2}
    assert len({row.id for row in rows}) == summary["tracks"]


def test_without_weights_the_remedy_is_named(images: Path, tmp_path: Path) -> None:
    done = run(images, "--out", tmp_path / "out")
    assert done.exit_code == 2
    words = " ".join(done.output.split())
    assert "no weights are bundled with the config 'stc_lite'" in words
    assert "'stemseg train' makes one" in words and "tracking.enabled=false" in words
    assert "sabarim" not in words, "those are of another model"
