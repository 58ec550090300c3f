"""STC from the command line: results of every frame, and the message without weights."""

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
from stemseg_ros.masks import decode
from stemseg_ros.media.sources import open_source
from stemseg_ros.resources import resource_path

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


def run(source: Path, *options: object, config: str = "stc_lite") -> Any:
    arguments = ["run", source, "--config", config, "--device", "cpu", *options]
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


def test_the_bundled_weights_find_a_car_in_every_frame(tmp_path: Path) -> None:
    video = resource_path("media/highway_1280x720_25fps.mp4")
    frames = tmp_path / "frames"
    frames.mkdir()
    with open_source(video) as source:
        for index, (_, image) in zip(range(3), source, strict=False):
            cv2.imwrite(str(frames / f"{index}.png"), image)
    done = run(frames, "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    rows = read_results(tmp_path / "out" / "instances.txt")
    near = [row for row in rows if row.class_id == 1 and decode(row.rle).sum() > 10_000]
    assert {row.frame for row in near} == {0, 1, 2}
    assert len({row.id for row in near}) == len(near) / 3, "ids are kept"


def test_the_error_without_weights_names_the_remedy(images: Path, tmp_path: Path) -> None:
    done = run(images, "--out", tmp_path / "out", config="stc_r50")
    assert done.exit_code == 2
    words = " ".join(done.output.split())
    assert "no weights are bundled with the config 'stc_r50'" in words
    assert "'stemseg train' makes one" in words and "tracking.enabled=false" in words
    assert "sabarim" not in words, "the authors of another model"
