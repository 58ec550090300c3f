"""``stemseg view``: bags to a file, and its errors."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

pytest.importorskip("rerun", reason="needs the extra view")
from view.bags import frame, given, square, write_drive
from view.rrd import read, values

from stemseg_ros.cli.main import app
from stemseg_ros.media.bags import write_bag


def view(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["view", *map(str, arguments)])


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """drive.mcap with images and results, plain.mcap with images alone, and no bag.txt."""
    folder = tmp_path_factory.mktemp("files")
    write_drive(folder / "drive.mcap", [frame(i) for i in range(3)])
    write_bag(
        ((10**9 + i, np.zeros((48, 64, 3), np.uint8)) for i in range(2)), folder / "plain.mcap"
    )
    (folder / "no bag.txt").write_text("")
    return folder


def test_a_bag_becomes_a_file(files: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "drive.rrd"
    done = view(files / "drive.mcap", "--save", out)
    assert done.exit_code == 0, done.output
    assert f"{out}: 3 frames" in done.output
    rows = read(out)
    for entity in ("image", "masks", "boxes", "trails"):
        assert sorted(rows[f"/camera/{entity}"]) == [0, 1, 2], entity
    assert values(rows, "/timing/latency_ms") == dict.fromkeys(range(3), 25.0)


def test_prompts_of_a_bag_are_shown(tmp_path: Path) -> None:
    """Their topic has the type of the results, and is not taken for them."""
    bag = write_drive(
        tmp_path / "drive.mcap",
        [frame(i) for i in range(3)],
        prompts=(given(1, square(3, 7, 4)), given(8, square(5, 7, 4), square(6, 30, 4))),
    )
    done = view(bag, "--save", tmp_path / "a.rrd")
    assert done.exit_code == 0, done.output
    assert "2 given objects are not shown, as the bag has no result of their frames" in done.stderr
    rows = read(tmp_path / "a.rrd")
    assert sorted(rows["/camera/masks"]) == [0, 1, 2]
    prompts = [entity for entity in rows if entity.startswith("/camera/prompts")]
    assert prompts == ["/camera/prompts/3"]
    assert rows[prompts[0]][1]["LineStrips2D:labels"] == ["prompt 3 car"]


@pytest.mark.parametrize("option", ["--results", "--answers"])
def test_frames_that_cannot_be_shown_are_reported(
    files: Path, tmp_path: Path, option: str
) -> None:
    done = view(files / "plain.mcap", option, files / "drive.mcap", "--save", tmp_path / "a.rrd")
    assert done.exit_code == 0, done.output
    assert "2 images without a result are not shown; 3 results have no image" in done.output
    assert ("now called --results" in done.stderr) == (option == "--answers")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.mcap"], "no bag at 'missing.mcap'"),
        (["{files}/no bag.txt"], "is no ROS 2 bag"),
        (["{files}/plain.mcap"], "no topic of type stemseg/msg/InstanceArray"),
        (["{files}/drive.mcap", "--topic", "/x"], "no topic named '/x'"),
        (["{files}/drive.mcap", "--image-topic", "/x"], "no topic named '/x'"),
        (["{files}/drive.mcap", "--save", "a.mp4"], "--save a.mp4: expected a name that ends in"),
        (["{files}/drive.mcap", "--save", "{files}/no bag.txt/a.rrd"], "cannot write"),
        (["--results", "{files}/drive.mcap"], "--results needs a bag of images"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_mistakes_are_one_line(files: Path, arguments: list[str], message: str) -> None:
    done = view(*(argument.format(files=files) for argument in arguments))
    assert done.exit_code == 2, done.output
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("stemseg: ") and message in line
    assert "Traceback" not in done.output


def test_without_the_extra(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rerun", None)
    for name in ("recording", "bag_frames"):
        monkeypatch.delitem(sys.modules, f"stemseg_ros.view.{name}", raising=False)
    done = view(files / "drive.mcap")
    assert done.exit_code == 2
    assert "pip install 'stemseg-ros[view]' brings it" in done.stderr


def test_live_without_ros(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stemseg_ros.replay.session.find_spec", lambda name: None)
    done = view("--save", tmp_path / "a.rrd")
    assert done.exit_code == 2
    assert "rclpy" in done.stderr


@pytest.mark.parametrize("writes", [0, 2], ids=["from the start", "after two frames"])
def test_a_full_disk_is_an_error_and_leaves_what_was_there(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    free = iter([10**12] * (writes + 1 if writes else 0))
    monkeypatch.setattr(
        "stemseg_ros.view.recording.shutil.disk_usage",
        lambda path: SimpleNamespace(free=next(free, 10 * 2**20)),
    )
    out = tmp_path / "drive.rrd"
    out.write_text("old")
    done = view(files / "drive.mcap", "--save", out)
    assert done.exit_code == 2, done.output
    assert f"stemseg: cannot write '{out}': 10 MiB are free on the disk" in done.stderr
    assert "make room, or name a file on another disk (--save)" in done.stderr
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("drive.rrd", "old")]
