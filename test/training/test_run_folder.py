"""What a run leaves in its folder, and what is drawn into it."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from driving_pack import tiny_config, write_pack

from stemseg_ros.config import load_config
from stemseg_ros.models.stemseg.network import Maps, StemSeg
from stemseg_ros.training.batches import Batch, load_sources
from stemseg_ros.training.prediction_pictures import draw_predictions
from stemseg_ros.training.run_folder import code_version, statistics
from stemseg_ros.training.run_log import run_log
from stemseg_ros.training.train import train

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pack(tmp_path_factory.mktemp("pack"))


@pytest.fixture(scope="module")
def out(pack: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps with a picture after each."""
    out = tmp_path_factory.mktemp("out") / "run"
    train(tiny_config(steps=2, picture_steps=1), pack, out)
    return out


def test_settings_version_and_data(out: Path, pack: Path) -> None:
    config = load_config(out / "config.yaml")
    assert config == tiny_config(steps=2, picture_steps=1)
    version = json.loads((out / "version.json").read_text())
    assert version["torch"] == torch.__version__
    assert version["commit"] == code_version()
    data = json.loads((out / "data.json").read_text())
    assert data["folder"] == str(pack)
    # Clip 0003 and the first still are held out; every frame shows two cars.
    clips, stills = data["mix"]["clips"], data["mix"]["stills_city"]
    assert (clips["clips"], clips["frames"], clips["counted_frames"]) == (1, 8, 8)
    assert (clips["instances"], clips["masks"]) == ({"car": 2}, {"car": 16})
    assert (stills["clips"], stills["frames"], stills["masks"]) == (1, 1, {"car": 2})
    assert (clips["format"], clips["weight"]) == ("driving", 0.6)


def test_large_datasets_are_counted_in_part(pack: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stemseg_ros.training.run_folder.COUNTED_FRAMES", 3)
    config = tiny_config()
    found = statistics("clips", load_sources(config, pack)["clips"], config)
    assert (found.frames, found.counted_frames) == (8, 3)
    assert (found.instances, found.masks) == ({"car": 2}, {"car": 6})


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="no git checkout")
def test_commit_of_a_checkout() -> None:
    head = subprocess.run(
        ["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    )
    assert code_version().removesuffix("-dirty") == head.stdout.strip()


def test_logs(out: Path) -> None:
    with (out / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["2"]
    assert {"rate", "lovasz", "total", "gradient", "clips_per_second"} <= rows[0].keys()
    assert float(rows[0]["clips_per_second"]) > 0
    assert "started at step 0 of 2: config lite" in (out / "train.log").read_text()


def test_tensorboard_has_numbers_and_pictures(out: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(out / "tensorboard"))
    events.Reload()
    with (out / "log.csv").open() as file:
        row = next(csv.DictReader(file))
    for tag, column in (
        ("loss/total", "total"),
        ("loss/lovasz", "lovasz"),
        ("rate", "rate"),
        ("clips_per_second", "clips_per_second"),
        ("gradient", "gradient"),
    ):
        (scalar,) = events.Scalars(tag)
        assert scalar.step == 2
        assert scalar.value == pytest.approx(float(row[column]), rel=1e-4), tag
    for tag in ("clip of this step", "clip of the first step"):
        pictures = events.Images(tag)
        assert [picture.step for picture in pictures] == [1, 2]
        image = cv2.imdecode(np.frombuffer(pictures[0].encoded_image_string, np.uint8), 1)
        assert image.shape[1] == 1600
        assert image.std() > 10


def test_what_a_killed_run_logged_after_its_checkpoint_is_removed(tmp_path: Path) -> None:
    with run_log(tmp_path, 0) as log:
        for step in (20, 40, 60):
            log.numbers(step, 1e-3, 2.0, {"total": 1.0 / step})
    with (tmp_path / "log.csv").open("a") as file:
        file.write("80,0.00")  # killed while writing
    with run_log(tmp_path, 40) as log:
        log.numbers(60, 1e-3, 2.0, {"total": 0.5})
    lines = (tmp_path / "log.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["step", "20", "40", "60"]
    assert lines[-1].split(",")[2] == "0.5"


def test_without_tensorboard_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with run_log(tmp_path, 0) as log:
        log.numbers(20, 1e-3, 2.0, {"total": 1.0})
        log.picture(20, "clip", np.zeros((8, 8, 3), np.uint8))
    assert "pip install 'stemseg-ros[train]'" in caplog.text
    assert (tmp_path / "log.csv").is_file()
    assert not (tmp_path / "tensorboard").exists()


class TwoCars:
    """Stands in for the network: two objects at known places, in all four frames."""

    device = torch.device("cpu")
    outputs = StemSeg.outputs

    def __call__(self, clips: torch.Tensor) -> Maps:
        embeddings, heat = torch.zeros(1, 3, 4, 24, 32), torch.full((1, 1, 4, 24, 32), 0.05)
        semantic = torch.full((1, 4, 4, 24, 32), -9.0)
        for number, box in enumerate((np.s_[:, 4:10, 3:12], np.s_[:, 12:20, 18:30])):
            embeddings[0, 1][box] = 2.0 * number
            heat[0, 0][box] = 0.95
            semantic[0, 1][box] = semantic[0, -1][box] = 9.0
        variance = torch.full((1, 3, 4, 24, 32), 2.0)
        return Maps(embeddings, variance, heat, semantic)


def test_a_picture_shows_the_instances_that_are_found() -> None:
    config = tiny_config()
    none = torch.zeros(1, 4, 24, 32)
    grey = torch.zeros(1, 4, 3, 96, 128)  # the mean colour
    batch = Batch(grey, none[:, None], none.long(), none.bool(), none.bool(), ("clips[0]",))
    sheet = draw_predictions(TwoCars(), batch, config)  # type: ignore[arg-type]
    tile = sheet.shape[1] // 4
    assert sheet.shape[1] == 1600
    scale = tile / 128

    def at(x: int, y: int) -> np.ndarray:
        return sheet[round(y * scale), round(x * scale)].astype(int)

    mean = np.array(config.input.mean_bgr).round().astype(int)
    assert np.abs(at(110, 20) - mean).max() <= 2, "background keeps its colour"
    first, second = at(30, 32), at(100, 70)
    assert np.abs(first - mean).max() > 30 and np.abs(second - mean).max() > 30
    assert np.abs(first - second).max() > 30, "each instance has a colour of its own"
    below = sheet[sheet.shape[0] // 2 :]
    assert below.std() > 20, "heat maps"
