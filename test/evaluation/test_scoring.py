"""``stemseg evaluate`` from end to end, with an engine that reads objects off their colours."""

from __future__ import annotations

import json
import pickle
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from colour_engine import ColourEngine
from evaluated import (
    SETTINGS,
    SIZE,
    evaluate,
    frame,
    run,
)
from mask_strips import switching, two_cars

pytest.importorskip("trackeval")

from stemseg_ros.config import load_config
from stemseg_ros.evaluation import runs, scoring
from stemseg_ros.evaluation.inputs import read_input
from stemseg_ros.evaluation.variants import STORED, LinkingVariant
from stemseg_ros.formats import FORMATS
from stemseg_ros.formats.sequence_masks import EvaluationError, SequenceMasks


def test_a_failure_leaves_the_reports_of_the_run_before(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk, met by the page: its numbers do not appear beside the old page."""
    results, out = dataset / "instances_txt", tmp_path / "out"
    arguments = ("--ground-truth", dataset, "--results", results, "--out", out)
    evaluate(*arguments, "--sequence", "0001")
    before = {name: (out / name).read_bytes() for name in ("report.json", "report.html")}

    def full(path: Path, *_: object, **__: object) -> None:
        path.write_text("<html>")
        raise EvaluationError(f"cannot write {path}: No space left on device")

    monkeypatch.setattr("stemseg_ros.evaluation.report.page.write_page", full)
    assert "No space left" in evaluate(*arguments, code=2)
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before


def test_linkers_give_stored_masks_new_identities(dataset: Path, tmp_path: Path) -> None:
    """Ground truth as results, its ids shuffled: own has the switches, flow repairs them."""
    texts = dataset / "instances_txt"
    shuffled = tmp_path / "shuffled"
    shuffled.mkdir()
    for text in texts.glob("*.txt"):
        lines = [line.split(maxsplit=2) for line in text.read_text().splitlines()]
        lines = [(f, str(int(id_) + 10 * (int(f) % 2)), rest) for f, id_, rest in lines]
        (shuffled / text.name).write_text("".join(" ".join(line) + "\n" for line in lines))
    common = ("--ground-truth", dataset, "--results", shuffled, "--out", tmp_path / "out")
    evaluate(*common, "--linker", "own", "--linker", "of", "--post-filter", "without")
    own, of = json.loads((tmp_path / "out" / "report.json").read_text())["runs"]
    assert (own["name"], of["name"]) == ("stored results", "stored results + linked by of")
    assert own["measures"]["car"]["IDS"] == 11 + 8, "every frame but the first of both sequences"
    assert of["measures"]["car"]["IDS"] == of["measures"]["pedestrian"]["IDS"] == 0
    assert of["measures"]["car"]["sMOTSA"] == 100
    message = evaluate(*common, "--linker", "ri", "--checkpoint", "random", code=2)
    assert "lite has no embeddings of masks" in message


def test_run_in_all_modes(dataset: Path, engines: list[ColourEngine], tmp_path: Path) -> None:
    modes = ["--mode", "offline", "--mode", "near_online", "--mode", "online"]
    report = run(dataset, tmp_path / "out", *modes)
    assert [variant["name"] for variant in report["runs"]] == [
        "offline",
        "offline + post-filter",
        "near_online",
        "near_online + post-filter",
        "online",
        "online + post-filter",
    ]
    for variant in report["runs"]:
        car, pedestrian = (variant["measures"][name] for name in ("car", "pedestrian"))
        assert car["MOTSA"] == 100
        assert 80 < car["sMOTSA"] <= 100  # the stride-4 grid rounds corners off
        # Pedestrians need 10 frames to pass the post-filter: those of the second sequence, 9 of
        # 21, do not.
        kept = 12 / 21 if variant["post_filter"] else 1
        assert pedestrian["MOTSA"] == pytest.approx(100 * kept, abs=0.001)
        timing = variant["timing"]
        assert timing["frames"] == 21
        assert timing["fps_end_to_end"] < timing["fps_network_and_clustering"]
    assert [engine.config.window.mode for engine in engines] == [
        "offline",
        "offline",
        "near_online",
        "near_online",
        "online",
        "online",
    ]
    assert "input" in report["config"] and report["checkpoint"] == "random"


def test_stored_sequences_are_not_run_again(
    dataset: Path, engines: list[ColourEngine], tmp_path: Path
) -> None:
    first = run(dataset, tmp_path / "out")
    assert len(engines) == 2
    (tmp_path / "out" / "results" / "near_online" / "0001.json").unlink()
    assert run(dataset, tmp_path / "out")["runs"][0]["measures"] == first["runs"][0]["measures"]
    assert len(engines) == 3
    run(dataset, tmp_path / "out", "--set", "clustering.min_heat=0.7")
    assert len(engines) == 5


def test_changed_images_are_run_again(
    dataset: Path, engines: list[ColourEngine], tmp_path: Path
) -> None:
    first = run(dataset, tmp_path / "out", "--sequence", "0001")
    image = dataset / "image_02" / "0001" / "000004.png"
    cv2.imwrite(str(image), np.zeros((*SIZE, 3), np.uint8))
    second = run(dataset, tmp_path / "out", "--sequence", "0001")
    found = [report["runs"][0]["measures"]["car"]["TP"] for report in (first, second)]
    assert len(engines) == 2 and found[1] < found[0]
    run(dataset, tmp_path / "out", "--sequence", "0001")
    assert len(engines) == 2


def test_a_fingerprint_holds_for_one_device_and_version(
    dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup = runs.Setup(load_config("lite"), "random", "cpu")
    images = read_input(dataset, "kitti_mots", None).images["0000"]
    first = setup.fingerprint("0000", images)
    assert setup.fingerprint("0000", images) == first
    assert replace(setup, device="cuda").fingerprint("0000", images) != first
    monkeypatch.setattr(runs, "__version__", "another")
    assert setup.fingerprint("0000", images) != first


@pytest.mark.parametrize("exported", [False, True], ids=["weights", "exported functions"])
def test_a_fingerprint_holds_for_one_content_of_a_checkpoint(
    dataset: Path, tmp_path: Path, exported: bool
) -> None:
    checkpoint = tmp_path / "weights"
    if exported:
        checkpoint.mkdir()
    file = checkpoint / "export.json" if exported else checkpoint
    setup = runs.Setup(load_config("lite"), str(checkpoint), "cpu")
    images = read_input(dataset, "kitti_mots", None).images["0000"]
    found = []
    for content in ("one", "one", "another"):
        file.write_text(content)
        found.append(setup.fingerprint("0000", images))
    assert found[0] == found[1] != found[2]


def test_the_network_itself(dataset: Path, tmp_path: Path) -> None:
    """Random weights find nothing useful, but everything runs."""
    report = run(dataset, tmp_path / "out", "--config", "lite")
    frames = {variant["name"]: variant["timing"]["frames"] for variant in report["runs"]}
    assert frames == {"near_online": 21, "near_online + post-filter": 21}


def test_a_cut_record_is_run_again(
    dataset: Path, engines: list[ColourEngine], tmp_path: Path
) -> None:
    run(dataset, tmp_path / "out", "--sequence", "0001")
    record = tmp_path / "out" / "results" / "near_online" / "0001.json"
    record.write_text(record.read_text()[:40])
    run(dataset, tmp_path / "out", "--sequence", "0001")
    assert len(engines) == 2


def test_results_of_a_run_score_the_same_when_stored(
    dataset: Path, engines: list[ColourEngine], tmp_path: Path
) -> None:
    made = run(dataset, tmp_path / "out")
    evaluate(
        "--ground-truth",
        dataset,
        "--out",
        tmp_path / "again",
        "--results",
        tmp_path / "out" / "results" / "near_online",
    )
    again = json.loads((tmp_path / "again" / "report.json").read_text())
    assert [v["name"] for v in again["runs"]] == ["stored results", "stored results + post-filter"]
    assert [v["measures"] for v in again["runs"]] == [v["measures"] for v in made["runs"]]
    assert again["config"] is None and again["runs"][0]["timing"] is None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--sequence", "0009"], "no sequence 0009; there are 0000, 0001"),
        (["--images", "{tmp}"], "no images of 0000, 0001"),
        (["--results", "{tmp}"], "no results for sequences 0000, 0001"),
        (["--format", "davis"], "no label images"),
        (["--ground-truth", "{tmp}/none"], "no ground truth at"),
        (["--pixel-scores"], "the measures of kitti_mots take no scores of tracks"),
        (["--set", "window.overlap=9"], "overlap 9 is not below length"),
    ],
)
def test_mistakes_take_one_line(
    arguments: list[str], words: str, dataset: Path, engines: list[ColourEngine], tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    filled = [argument.replace("{tmp}", str(tmp_path / "empty")) for argument in arguments]
    base = ["--ground-truth", dataset, "--out", tmp_path / "out", "--checkpoint", "random"]
    assert words in evaluate(*base, *filled, code=2)


def test_too_few_images(dataset: Path, engines: list[ColourEngine], tmp_path: Path) -> None:
    (dataset / "image_02" / "0001" / "000008.png").unlink()
    text = evaluate(
        "--ground-truth",
        dataset,
        "--out",
        tmp_path / "out",
        "--device",
        "cpu",
        "--checkpoint",
        "random",
        *SETTINGS,
        code=2,
    )
    assert "sequence 0001: 8 images" in text and "ground truth has 9 frames" in text


def test_sequences_in_parallel_processes(tmp_path: Path) -> None:
    truths = {name: replace(two_cars(), name=name) for name in ("0000", "0001")}
    results = {name: replace(switching(), name=name) for name in truths}
    given = scoring.EvaluationInput("kitti_mots", truths, {})
    stored = scoring.StoredResults(results, {})
    told: list[int] = []

    @contextmanager
    def progress(title: str, total: int) -> Any:
        yield told.append

    (one,) = scoring.evaluate_stored(given, stored, [LinkingVariant(STORED)], 1, progress)
    (two,) = scoring.evaluate_stored(given, stored, [LinkingVariant(STORED)], 2, progress)
    assert (one.measures, one.sequences) == (two.measures, two.sequences)
    assert told == [1, 2] * 2


def test_what_a_process_is_handed_can_travel(dataset: Path) -> None:
    setup = runs.Setup(load_config("lite"), "random", "cpu", threads=1).in_mode("online")
    task = (setup, "0000", read_input(dataset, "kitti_mots", None).images["0000"], dataset)
    assert pickle.loads(pickle.dumps(task)) == task


def test_videos_without_annotations_get_a_results_file(
    dataset: Path, engines: list[ColourEngine], tmp_path: Path
) -> None:
    """As the validation and test videos of YouTube-VIS come, for the benchmark's server."""
    videos = [
        {
            "id": 7,
            "width": SIZE[1],
            "height": SIZE[0],
            "file_names": [f"0001/{index:06d}.png" for index in range(9)],
        }
    ]
    categories = [{"id": 4, "name": "pedestrian"}, {"id": 9, "name": "car"}]
    (tmp_path / "valid.json").write_text(json.dumps({"videos": videos, "categories": categories}))
    evaluate(
        "--ground-truth",
        tmp_path / "valid.json",
        "--format",
        "youtube_vis",
        "--images",
        dataset / "image_02",
        "--out",
        tmp_path / "out",
        "--checkpoint",
        "random",
        "--device",
        "cpu",
        "--post-filter",
        "without",
        "--pixel-scores",
        *SETTINGS,
    )
    folder = tmp_path / "out" / "benchmark" / "near_online_scores-by-pixels"
    tracks = json.loads((folder / "results.json").read_text())
    assert [(t["video_id"], t["category_id"]) for t in tracks] == [(7, 9), (7, 4)]
    assert all(len(track["segmentations"]) == 9 for track in tracks)
    assert (
        tracks[0]["score"] == 1.0 and 0.4 < tracks[1]["score"] < 0.7
    )  # 24 x 24 to 32 x 32 pixels
    assert "The ground truth holds no object" in (tmp_path / "out" / "report.html").read_text()


def test_only_the_frames_that_the_ground_truth_names(
    dataset: Path, engines: list[ColourEngine], tmp_path: Path
) -> None:
    """The images lie at full rate, every third frame is annotated: BDD100K and YouTube-VIS can be
    so."""
    labels = tmp_path / "labels"
    every_third = [
        replace(r, frame=r.frame // 3) for index in range(0, 9, 3) for r in frame(index)[1]
    ]
    truth = SequenceMasks(
        "0001",
        SIZE,
        3,
        {1: "car", 2: "pedestrian"},
        tuple(every_third),
        files=("000000", "000003", "000006"),
    )
    FORMATS["bdd100k"].write(labels, [truth], truth=True)
    arguments = [
        "--format",
        "bdd100k",
        "--images",
        dataset / "image_02",
        "--set",
        "clustering.min_heat=0.5",
    ]
    report = run(labels, tmp_path / "out", *arguments)
    assert report["runs"][0]["timing"]["frames"] == 3
    assert report["runs"][0]["measures"]["car"]["MOTSA"] == 100
    assert sorted(file.name for file in (tmp_path / "out" / "benchmark").rglob("*.png")) == [
        "000000.png",
        "000003.png",
        "000006.png",
    ]
    (dataset / "image_02" / "0001" / "000003.png").unlink()
    assert "no image 000003" in evaluate(
        "--ground-truth",
        labels,
        "--out",
        tmp_path / "other",
        "--checkpoint",
        "random",
        "--device",
        "cpu",
        *SETTINGS,
        *arguments,
        code=2,
    )
