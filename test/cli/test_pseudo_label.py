"""``stemseg data pseudo-label``."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner, Result

from stemseg_ros.cli.main import app
from stemseg_ros.datasets.driving import load_driving


def pseudo_label(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["data", "pseudo-label", *map(str, arguments)])


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    folder = tmp_path / "frames"
    folder.mkdir()
    for number in range(4):
        cv2.imwrite(str(folder / f"{number}.png"), np.full((48, 96, 3), 90, np.uint8))
    return folder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text("base: lite\ninput: {min_dim: 48, max_dim: 96}\nruntime: {engine: torch}\n")
    return path


def test_a_clip_for_training(recording: Path, model: Path, tmp_path: Path) -> None:
    (recording / "2.png").write_bytes(b"no image")
    out = tmp_path / "data" / "clips" / "0100"
    done = pseudo_label(
        recording, "--out", out, "--model", f"{model}:random", "--scale", 1, "--agree", 2
    )
    assert done.exit_code == 0, done.output
    assert f"{out}: 3 frames, " in done.stdout
    assert "frame 2 is skipped" in done.stderr
    [sequence] = load_driving(tmp_path / "data", "train")
    assert len(sequence) == 3
    assert sequence.labels.read(0).shape == (48, 96)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", "lite", "--agree", 5], "--agree 5: there are 4 views"),
        (["--model", "lite", "--model", "youtube_vis"], "'person' is none of the driving pack"),
        (["--scale", 1, "--scale", 1], "--scale: the same one twice"),
        (["--model", "lite", "--model", "lite"], "--model: the same one twice"),
        (["--model", "lite", "--model", "lite:none.pt"], "none.pt"),
        (["--ignore", "truck"], "--ignore truck: the classes are car, pedestrian, large"),
        (["--model", "hodor_lite"], "--model hodor_lite: follows objects"),
        (["--model", "lite", "--scale", 0.01], "greater than or equal to 0.1"),
        (["--model", "missing"], "missing"),
    ],
)
def test_options_that_do_not_fit(
    recording: Path, tmp_path: Path, options: list[object], message: str
) -> None:
    done = pseudo_label(recording, "--out", tmp_path / "clip", *options)
    assert done.exit_code == 2
    assert message in " ".join(done.stderr.split())
    assert not (tmp_path / "clip").exists()


def test_a_used_folder_is_refused(recording: Path) -> None:
    done = pseudo_label(recording, "--out", recording)
    assert done.exit_code == 2
    assert f"--out {recording}: is there already; choose a new folder" in done.stderr


def test_strict(recording: Path, model: Path, tmp_path: Path) -> None:
    (recording / "2.png").write_bytes(b"no image")
    options = ["--model", f"{model}:random", "--scale", 1, "--agree", 1, "--strict"]
    assert pseudo_label(recording, "--out", tmp_path / "clip", *options).exit_code == 3
