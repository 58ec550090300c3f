"""Runs that are given the first masks: HODOR on DAVIS folders, ids kept from prompt to file."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image as PillowImage
from typer.testing import CliRunner

pytest.importorskip("trackeval")

from stemseg_ros.cli.main import app
from stemseg_ros.evaluation import runs
from stemseg_ros.evaluation.inputs import first_masks, read_input
from stemseg_ros.masks import decode

SMALL = ["--set", "input.min_dim=64", "--set", "input.max_dim=96", "--set", "output.min_area=0"]
FRAMES = 4


@pytest.fixture
def davis(tmp_path: Path) -> Path:
    """One sequence; object 5 from frame 0 on, object 2 from frame 1 on."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    for frame in range(FRAMES):
        labels = np.zeros((64, 96), np.uint8)
        labels[8:40, 10 + frame : 40 + frame] = 5
        if frame:
            labels[20:60, 60:90] = 2
        for place, picture in (("JPEGImages", noise), ("Annotations", labels)):
            file = tmp_path / place / "480p" / "dance" / f"{frame:05d}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            if place == "Annotations":
                PillowImage.fromarray(picture).save(file)
            else:
                cv2.imwrite(str(file), picture)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "expected"),
    [("davis2017_semi", {0: [(5, 960)], 1: [(2, 1200)]}), ("davis2016_semi", {0: [(1, 960)]})],
)
def test_the_first_mask_of_every_object_is_given(
    davis: Path, name: str, expected: dict[int, list[tuple[int, int]]]
) -> None:
    given = read_input(davis / "Annotations" / "480p", name, davis)
    prompts = given.images["dance"].prompts
    assert prompts == first_masks(given.truths["dance"])
    assert expected == {
        frame: [(p.track_id, np.count_nonzero(decode(p.rle))) for p in those]
        for frame, those in prompts.items()
    }
    assert not read_input(davis / "Annotations" / "480p", "davis", davis).images["dance"].prompts


def test_objects_keep_their_ids_from_the_prompt_to_the_file(
    davis: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = davis / "out"
    arguments = ["--ground-truth", str(davis / "Annotations" / "480p"), "--images", str(davis)]
    arguments += ["--format", "davis2017_semi", "--out", str(out), "--device", "cpu"]
    arguments += ["--config", "hodor_lite", "--checkpoint", "random", *SMALL]
    ran = CliRunner().invoke(app, ["evaluate", *arguments])
    assert ran.exit_code == 0, ran.output
    stored = runs.stored_masks(out / "results" / "online", "dance")
    assert {row.id for row in stored.rows} <= {1002, 1005}
    first = out / "benchmark" / "online" / "dance" / "00000.png"
    truth = davis / "Annotations" / "480p" / "dance" / "00000.png"
    np.testing.assert_array_equal(*(np.asarray(PillowImage.open(file)) for file in (first, truth)))
    assert "J&F" in (out / "report.json").read_text()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--config", "lite"], "the model 'lite' follows no prompts; 'hodor_lite' does"),
        (["--config", "hodor_lite", "--through-ros"], "given masks cannot go through ROS"),
    ],
)
def test_who_cannot_be_given_masks_says_so(davis: Path, options: list[str], reason: str) -> None:
    arguments = ["--ground-truth", str(davis / "Annotations" / "480p"), "--images", str(davis)]
    arguments += ["--format", "davis2017_semi", "--out", str(davis / "out"), "--device", "cpu"]
    ran = CliRunner().invoke(app, ["evaluate", *arguments, "--checkpoint", "random", *options])
    assert ran.exit_code != 0
    assert reason in f"{ran.output} {ran.exception}"


@pytest.fixture
def overlapping(davis: Path) -> Path:
    """The first image cannot be read, and object 2 begins where its mask of object 5 is."""
    (davis / "JPEGImages" / "480p" / "dance" / "00000.png").write_bytes(b"damaged")
    file = davis / "Annotations" / "480p" / "dance" / "00001.png"
    labels = np.zeros((64, 96), np.uint8)
    labels[8:40, 10:40] = 2
    PillowImage.fromarray(labels).save(file)
    return davis


REFUSED = (
    "a prompt came too late and is not followed: object 5: its mask overlaps that of object 2"
)


def test_a_late_mask_in_the_place_of_another_is_reported(overlapping: Path) -> None:
    out, masks = overlapping / "out", overlapping / "Annotations" / "480p"
    arguments = ["--ground-truth", str(masks), "--images", str(overlapping), "--out", str(out)]
    arguments += ["--format", "davis2017_semi", "--device", "cpu"]
    arguments += ["--config", "hodor_lite", "--checkpoint", "random", *SMALL]
    for _ in range(2):  # the second time, the stored run is scored
        ran = CliRunner().invoke(app, ["evaluate", *arguments])
        assert ran.exit_code == 0, ran.output
        assert f"sequence dance: {REFUSED}" in ran.stderr
        assert REFUSED in (out / "report.json").read_text()
        assert {row.id for row in runs.stored_masks(out / "results" / "online", "dance").rows} <= {
            1002
        }


def test_so_it_is_by_propagate(overlapping: Path) -> None:
    out = overlapping / "propagated"
    images = overlapping / "JPEGImages" / "480p" / "dance"
    masks = overlapping / "Annotations" / "480p" / "dance"
    arguments = [str(images), "--masks", str(masks), "--out", str(out), "--device", "cpu"]
    ran = CliRunner().invoke(app, ["propagate", *arguments, "--checkpoint", "random", *SMALL])
    assert ran.exit_code == 0, ran.output
    notes = json.loads((out / "summary.json").read_text())["notes"]
    assert f"frame 00001: {REFUSED}" in notes
