"""``stemseg convert``: recorded answers as a benchmark's results, which ``evaluate`` scores."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from mask_strips import HEIGHT, PEDESTRIAN, WIDTH, row, sequence, strip
from typer.testing import CliRunner

from stemseg_ros.cli.main import app
from stemseg_ros.formats import FORMATS
from stemseg_ros.formats.sequence_masks import SequenceMasks
from stemseg_ros.media.result_bag import InstanceBagWriter
from stemseg_ros.records import FrameResult, Instance

FRAMES = 4
PLACES = {"car": (0, 12), "pedestrian": (20, 25)}
NODE_CLASSES = {"pedestrian": 1, "car": 2}
"""Unlike those of any benchmark here, so that only the names can match."""


def record(bag: Path, frames: int = FRAMES) -> Path:
    """What a node would answer to a car and a pedestrian that stand still."""
    with InstanceBagWriter(bag) as answers:
        for index in range(frames):
            instances = tuple(
                Instance(n, NODE_CLASSES[name], name, 0.9, strip(*place), (place[0], 0, 5, HEIGHT))
                for n, (name, place) in enumerate(PLACES.items(), start=1)
            )
            answers.write(FrameResult(index, index * 10**8, HEIGHT, WIDTH, 0, instances))
    return bag


def truth_named(format_name: str) -> SequenceMasks:
    """The same objects with the numbers and names of a benchmark that annotates every third
    frame."""
    car, pedestrian = PLACES["car"], PLACES["pedestrian"]
    rows = [
        one for t in range(FRAMES) for one in (row(t, 1, *car), row(t, 2, *pedestrian, PEDESTRIAN))
    ]
    truth = sequence(rows, FRAMES, "drive")
    if format_name == "youtube_vis":
        ids = {1: 9, 2: 4}
        files = tuple(f"drive/{3 * t:05d}.jpg" for t in range(FRAMES))
        renumbered = tuple(replace(r, class_id=ids[r.class_id]) for r in rows)
        classes = {9: "car", 4: "pedestrian"}
        return replace(truth, number=7, files=files, rows=renumbered, classes=classes)
    return replace(truth, files=tuple(f"{3 * t:07d}" for t in range(FRAMES)))


def place(format_name: str, folder: Path) -> Path:
    return folder / "file.json" if format_name == "youtube_vis" else folder


def stemseg(*arguments: object, code: int = 0) -> str:
    done = CliRunner().invoke(app, list(map(str, arguments)))
    assert done.exit_code == code, done.output
    return " ".join(done.output.split())


@pytest.mark.parametrize(
    "name", [n for n in FORMATS if n not in ("davis2017_semi", "youtube_vos")]
)
def test_converted_results_are_scored(name: str, tmp_path: Path) -> None:
    pytest.importorskip("trackeval")
    truth, results = place(name, tmp_path / "truth"), place(name, tmp_path / "results")
    FORMATS[name].write(truth, [truth_named(name)], truth=True)
    bag = record(tmp_path / "answers.mcap")
    stemseg("convert", bag, results, "--format", name, "--ground-truth", truth)
    both = ["--format", name, "--ground-truth", truth, "--results", results]
    stemseg("evaluate", *both, "--out", tmp_path / "out", "--post-filter", "without")
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    (scored,) = report["runs"]
    first = {row: next(iter(measures.values())) for row, measures in scored["measures"].items()}
    if name == "bdd100k":  # two of its eight classes occur
        assert first.pop("mean of classes") == 100 * 2 / 8
    assert first and all(value == 100 for value in first.values()), scored["measures"]


def test_numbers_without_ground_truth(tmp_path: Path) -> None:
    bag = record(tmp_path / "answers.mcap")
    stemseg("convert", bag, tmp_path / "r.json", "--format", "youtube_vis")
    tracks = json.loads((tmp_path / "r.json").read_text())
    assert {(t["video_id"], t["category_id"]) for t in tracks} == {(1, 1), (1, 2)}
    stemseg("convert", bag, tmp_path / "b", "--format", "bdd100k", "--name", "drive")
    names = sorted(file.stem for file in (tmp_path / "b" / "drive").iterdir())
    assert names == ["00000", "00001", "00002", "00003"]


def test_results_that_do_not_fit_the_ground_truth(tmp_path: Path) -> None:
    truth = tmp_path / "truth.json"
    FORMATS["youtube_vis"].write(truth, [truth_named("youtube_vis")], truth=True)
    bag, out = record(tmp_path / "short.mcap", frames=3), tmp_path / "r.json"
    options = ["convert", bag, out, "--format", "youtube_vis", "--ground-truth", truth]
    assert "3 results, but the ground truth of drive has 4 frames" in stemseg(*options, code=2)
    assert "no sequence walk; there are drive" in stemseg(*options, "--name", "walk", code=2)
    assert not out.exists()
