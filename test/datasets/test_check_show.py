"""``stemseg data check`` counts and lists what is bad; ``data show`` draws training clips."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from dataset_files import CASES, SIZE, masks, painted
from typer.testing import CliRunner

from stemseg_ros.cli.main import app
from stemseg_ros.config import Config, load_config, update_config
from stemseg_ros.datasets.check import check_mix
from stemseg_ros.media.overlay import track_color
from stemseg_ros.models.layers.preprocess import normalise
from stemseg_ros.training.batches import load_sources, make_batch
from stemseg_ros.training.clip_sheet import draw_labels, show_clips
from stemseg_ros.training.clips import Clip

MIX = {
    "city": {"format": "cityscapes", "root": "cs", "weight": 1},
    "tracking": {"format": "kitti_mots", "root": "kitti", "weight": 3},
}
SETTINGS = {"training.mix": MIX, "training.crop": [64, 96], "training.scale": [1.0, 1.0]}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    CASES["cityscapes"].write(tmp_path / "cs")
    CASES["kitti_mots"].write(tmp_path / "kitti")
    return tmp_path


@pytest.fixture
def config() -> Config:
    return load_config("lite", SETTINGS)


class Bars:
    """What a progress bar would have been told."""

    def __init__(self) -> None:
        self.totals: dict[str, int] = {}
        self.done: dict[str, list[int]] = {}

    @contextmanager
    def __call__(self, name: str, total: int) -> Iterator[Any]:
        self.totals[name], self.done[name] = total, []
        yield self.done[name].append


def test_counts(data: Path, config: Config) -> None:
    bars = Bars()
    city, tracking = check_mix(config, data, bars)
    assert (city.name, city.format, city.share) == ("city", "cityscapes", 0.25)
    assert (city.sequences, city.frames) == (1, 1)
    assert (tracking.share, tracking.sequences, tracking.frames) == (0.75, 12, 36)
    assert tracking.sizes == {(SIZE[1], SIZE[0]): 36}
    assert tracking.tracks == {"car": 12, "pedestrian": 12}
    assert tracking.masks == {"car": 36, "pedestrian": 36}
    assert tracking.ignored == pytest.approx(masks(0)["ignored"].mean())
    assert not city.bad and not tracking.bad
    assert bars.totals == {"city": 1, "tracking": 36} and bars.done["tracking"] == list(
        range(1, 37)
    )


def test_bad_files_are_listed_and_the_rest_is_read(data: Path, config: Config) -> None:
    label = data / "kitti/instances/0020/000002.png"
    label.write_bytes(label.read_bytes()[:-20])
    (data / "kitti/training/image_02/0001/000000.png").write_bytes(b"none")
    (data / "cs/gtFine/train/ulm/ulm_000000_000019_gtFine_instanceIds.png").unlink()
    city, tracking = check_mix(config, data, Bars())
    assert [line.split(":")[0].rpartition("/")[2] for line in city.bad] == [
        "ulm_000000_000019_gtFine_instanceIds.png"
    ]
    assert [Path(line.split(":")[0]).parts[-2:] for line in tracking.bad] == [
        ("0001", "000000.png"),
        ("0020", "000002.png"),
    ]
    assert tracking.frames == 34 and tracking.masks["car"] == 34 and tracking.tracks["car"] == 12


def run(data: Path, tmp_path: Path, *arguments: object) -> Any:
    (tmp_path / "mix.yaml").write_text(
        "network: {backbone: mobilenet_v2}\nwindow: {length: 4, overlap: 2}\n"
        "training:\n  crop: [64, 96]\n  mix:\n"
        "    city: {format: cityscapes, root: cs}\n"
        "    tracking: {format: kitti_mots, root: kitti, weight: 3}\n"
    )
    command, *rest = arguments
    return CliRunner().invoke(
        app,
        ["data", str(command), str(tmp_path / "mix.yaml"), "--data", str(data), *map(str, rest)],
    )


def test_the_command_prints_counts(data: Path, tmp_path: Path) -> None:
    result = run(data, tmp_path, "check")
    assert result.exit_code == 0, result.output
    for words in ("tracking", "kitti_mots", "75.0%", "36", "32x24", "12 (36)", "1.56%"):
        assert words in result.output


def test_the_command_fails_on_bad_files(data: Path, tmp_path: Path) -> None:
    (data / "kitti/instances/0020/000002.png").write_bytes(b"none")
    result = run(data, tmp_path, "check")
    assert result.exit_code == 2
    assert "tracking" in result.stdout
    assert "0020/000002.png: is cut off before its end, or no PNG file" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["check", "--set", "training.mix={a: {format: cocoo}}"],
            "no format 'cocoo'; did you mean 'coco'",
        ),
        (
            ["check", "--set", "training.mix={a: {root: zz}, b: {root: zz}}"],
            "zz: no such folder",
        ),
        (["check", "--set", "training.mix={a: 0}"], "training.mix gives no weight"),
        (["show", "--out", "sheet.jpg"], "sheet.jpg: the contact sheet is a PNG"),
        (
            ["show", "--out", "sheet.png", "--set", "training.mix={a: {format: coco, root: zz}}"],
            "zz: no such folder",
        ),
    ],
)
def test_mistakes_end_in_one_line(
    arguments: list[str], words: str, data: Path, tmp_path: Path
) -> None:
    result = run(data, tmp_path, *arguments)
    assert (
        result.exit_code == 2
        and words in result.stderr
        and len(result.stderr.strip().splitlines()) == 1
    )


def test_the_contact_sheet_has_a_row_per_clip(data: Path, tmp_path: Path) -> None:
    result = run(data, tmp_path, "show", "--out", tmp_path / "new/sheet.png", "--clips", 3)
    assert result.exit_code == 0, result.output
    sheet = cv2.imread(str(tmp_path / "new/sheet.png"))
    assert sheet is not None and abs(sheet.shape[1] / sheet.shape[0] - (4 * 96) / (3 * 64)) < 0.05
    again = run(data, tmp_path, "show", "--out", tmp_path / "again.png", "--clips", 3)
    assert again.exit_code == 0
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "new/sheet.png").read_bytes()


def test_the_clips_shown_are_those_of_training(
    data: Path, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    two_sizes = {**MIX, "city": {**MIX["city"], "crop": [32, 64]}}
    config = update_config(
        config,
        {"training.mix": two_sizes, "training.accumulate": 2, "training.copy_paste": 0.0},
    )
    shown: list[Clip] = []
    monkeypatch.setattr(
        "stemseg_ros.training.clip_sheet.draw_labels",
        lambda clip, classes: shown.append(clip) or draw_labels(clip, classes),
    )
    clips_a_step = 2 * config.training.batch_size
    show_clips(config, data, tmp_path / "sheet.png", 3 * clips_a_step)
    sources = load_sources(config, data)
    for step in range(3):
        clips = shown[step * clips_a_step :][:clips_a_step]
        batch = make_batch(sources, config, step)
        assert tuple(clip.name for clip in clips) == batch.names
        for clip, pixels in zip(clips, batch.clips, strict=True):
            frames = torch.from_numpy(clip.frames).float().permute(0, 3, 1, 2)
            assert torch.equal(normalise(frames, config.input), pixels)
    assert len({clip.frames.shape for clip in shown}) == 2, "both sizes occur"


def test_objects_have_the_colours_of_their_labels_and_ignored_pixels_stripes() -> None:
    labels = painted(0, {"car": 1001, "person": 2003, "ignored": 10000}, np.int32)
    large = labels.repeat(10, 0).repeat(10, 1)
    frame = np.full((240, 320, 3), 100, np.uint8)
    drawn = draw_labels(Clip(frame[None], large[None]), ("car", "pedestrian"))[0]
    for label in (1001, 2003):
        inside = drawn[large == label].astype(int)
        tint = np.median(inside, axis=0)
        np.testing.assert_allclose(tint, 0.55 * 100 + 0.45 * np.array(track_color(label)), atol=2)
    ignored = drawn[large == 10000]
    assert 0.15 < (ignored == 255).all(-1).mean() < 0.35, "two of eight diagonals are white"
    assert (drawn[-20:] == 100).all(), "background stays as it is"
