"""``stemseg evaluate`` from end to end, with a network that reads objects off their colours."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Iterable
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice, pairwise
from operator import attrgetter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from colour_network import ColourNetwork, Image, scene
from mask_strips import switching, two_cars
from typer.testing import CliRunner

pytest.importorskip("trackeval")

from stemseg_ros.cli import app
from stemseg_ros.config import Config, load_config
from stemseg_ros.demo import VIDEO
from stemseg_ros.evaluation import evaluate as work
from stemseg_ros.evaluation import runs
from stemseg_ros.evaluation.formats import FORMATS, kitti_mots
from stemseg_ros.evaluation.inputs import read_bag, read_input
from stemseg_ros.evaluation.kitti_text import ResultRow
from stemseg_ros.evaluation.sequence_masks import SequenceMasks
from stemseg_ros.evaluation.truth_bag import write_labelled_bag
from stemseg_ros.evaluation.variants import STORED, Variant
from stemseg_ros.masks import encode
from stemseg_ros.media.image_bag import ImageBagReader
from stemseg_ros.media.instance_bag import InstanceBagReader, InstanceBagWriter
from stemseg_ros.media.sources import Video
from stemseg_ros.network.checkpoint import bundled_checkpoint
from stemseg_ros.pipeline import Pipeline
from stemseg_ros.records import FrameResult
from stemseg_ros.resources import resource_path

SIZE = (96, 160)
SETTINGS = ["--set", "input.min_dim=96", "--set", "input.max_dim=512"]
CAR, PEDESTRIAN = 1, 2


def frame(index: int) -> tuple[Image, list[ResultRow]]:
    """A car that moves to the right and a pedestrian that stands, with their true masks."""
    places = [(1, CAR, 16, 8 + 4 * index, 32), (2, PEDESTRIAN, 56, 112, 24)]
    image = scene(SIZE, *places)
    rows = [
        ResultRow(index, kind * 1000 + number, kind, encode(image[..., 0] == number))
        for number, kind, *_ in places
    ]
    return image, rows


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """A KITTI-MOTS folder with the sequences 0000 (12 frames) and 0001 (9 frames)."""
    for name, length in (("0000", 12), ("0001", 9)):
        folder = tmp_path / "kitti" / "image_02" / name
        folder.mkdir(parents=True)
        frames = [frame(index) for index in range(length)]
        for index, (image, _) in enumerate(frames):
            cv2.imwrite(str(folder / f"{index:06d}.png"), image)
        rows = tuple(row for _, rows in frames for row in rows)
        truth = SequenceMasks(name, SIZE, length, kitti_mots.CLASSES, rows)
        kitti_mots.write(tmp_path / "kitti" / "instances_txt", [truth], truth=True)
    return tmp_path / "kitti"


@pytest.fixture
def networks(monkeypatch: pytest.MonkeyPatch) -> list[ColourNetwork]:
    """The stand-in for the network; one entry for each sequence that was really run."""
    made: list[ColourNetwork] = []

    def load(config_json: str, checkpoint: str | None, device: str) -> ColourNetwork:
        made.append(ColourNetwork(Config.model_validate_json(config_json)))
        return made[-1]

    monkeypatch.setattr(runs, "_network", load)
    return made


def evaluate(*arguments: object, code: int = 0) -> str:
    done = CliRunner().invoke(app, ["evaluate", *map(str, arguments)])
    assert done.exit_code == code, done.output
    return " ".join(done.output.split())


def run(dataset: Path, out: Path, *arguments: object) -> dict[str, Any]:
    evaluate(
        "--ground-truth",
        dataset,
        "--out",
        out,
        "--checkpoint",
        "random",
        "--device",
        "cpu",
        *SETTINGS,
        *arguments,
    )
    report: dict[str, Any] = json.loads((out / "report.json").read_text())
    return report


def test_run_in_all_modes(dataset: Path, networks: list[ColourNetwork], tmp_path: Path) -> None:
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
    assert [network.config.window.mode for network in networks] == [
        "offline",
        "offline",
        "near_online",
        "near_online",
        "online",
        "online",
    ]
    assert "input" in report["config"] and report["checkpoint"] == "random"


def test_stored_sequences_are_not_run_again(
    dataset: Path, networks: list[ColourNetwork], tmp_path: Path
) -> None:
    first = run(dataset, tmp_path / "out")
    assert len(networks) == 2
    (tmp_path / "out" / "results" / "near_online" / "0001.json").unlink()
    assert run(dataset, tmp_path / "out")["runs"][0]["measures"] == first["runs"][0]["measures"]
    assert len(networks) == 3
    run(dataset, tmp_path / "out", "--set", "clustering.min_heat=0.7")
    assert len(networks) == 5


def test_changed_images_are_run_again(
    dataset: Path, networks: list[ColourNetwork], tmp_path: Path
) -> None:
    first = run(dataset, tmp_path / "out", "--sequence", "0001")
    image = dataset / "image_02" / "0001" / "000004.png"
    cv2.imwrite(str(image), np.zeros((*SIZE, 3), np.uint8))
    second = run(dataset, tmp_path / "out", "--sequence", "0001")
    found = [report["runs"][0]["measures"]["car"]["TP"] for report in (first, second)]
    assert len(networks) == 2 and found[1] < found[0]
    run(dataset, tmp_path / "out", "--sequence", "0001")
    assert len(networks) == 2


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


def test_the_network_itself(dataset: Path, tmp_path: Path) -> None:
    """Random weights find nothing useful, but everything runs."""
    report = run(dataset, tmp_path / "out", "--config", "lite")
    frames = {variant["name"]: variant["timing"]["frames"] for variant in report["runs"]}
    assert frames == {"near_online": 21, "near_online + post-filter": 21}


def test_a_cut_record_is_run_again(
    dataset: Path, networks: list[ColourNetwork], tmp_path: Path
) -> None:
    run(dataset, tmp_path / "out", "--sequence", "0001")
    record = tmp_path / "out" / "results" / "near_online" / "0001.json"
    record.write_text(record.read_text()[:40])
    run(dataset, tmp_path / "out", "--sequence", "0001")
    assert len(networks) == 2


def test_results_of_a_run_score_the_same_when_stored(
    dataset: Path, networks: list[ColourNetwork], tmp_path: Path
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


def test_bag_with_ground_truth(
    dataset: Path, networks: list[ColourNetwork], tmp_path: Path
) -> None:
    """From frames and text to a bag, and the bag evaluated: the same measures as the folder."""
    bag = tmp_path / "0001.mcap"
    done = CliRunner().invoke(
        app,
        [
            "bag",
            "from-frames",
            str(dataset / "image_02" / "0001"),
            str(bag),
            "--ground-truth",
            str(dataset),
            "--sequence",
            "0001",
        ],
    )
    assert done.exit_code == 0, done.output
    from_bag = run(bag, tmp_path / "bag_out")
    from_folder = run(dataset, tmp_path / "folder_out", "--sequence", "0001")
    assert from_bag["format"] == "bag"
    assert from_bag["runs"][0]["measures"] == from_folder["runs"][0]["measures"]


@dataclass(frozen=True)
class Clip:
    """A labelled bag to be made, and the options to evaluate it with."""

    images: list[Image]
    rows: tuple[ResultRow, ...]
    stamps: list[int]
    options: list[str]

    def write(self, bag: Path) -> None:
        truth = SequenceMasks(
            bag.stem, self.images[0].shape[:2], len(self.images), kitti_mots.CLASSES, self.rows
        )
        write_labelled_bag(
            zip(self.stamps, self.images, strict=True),
            truth,
            bag,
            topic="/camera/image_raw",
            frame_id="camera",
            encoding="bgr8",
            storage=None,
            progress=lambda count: None,
        )


LOOPED = 2 * [(25 + index) * 400_000_000 for index in range(5)]
"""Stamps of a stream that starts again, in ns; a step back of less than a second is disorder."""


def drawn_clip(stamps: list[int]) -> Clip:
    """Random weights: without thresholds they find something in every frame."""
    frames = [frame(index) for index in range(len(stamps))]
    settings = ("min_heat=0", "foreground_probability=0", "max_instances=5")
    return Clip(
        [image for image, _ in frames],
        tuple(row for _, rows in frames for row in rows),
        stamps,
        [part for setting in settings for part in ("--set", f"clustering.{setting}")],
    )


def filmed_clip() -> Clip:
    """The bundled weights with their own thresholds, on two cars of the bundled video.

    The ground truth is boxes around the cars.
    """
    top, left, height, width = 300, 760, 256, 480
    with Video(resource_path(VIDEO)) as video:
        images = [
            image[top : top + height, left : left + width].copy() for _, image in islice(video, 6)
        ]
    rows = []
    for number, (x, y, w, h) in enumerate([(811, 405, 134, 90), (1010, 405, 178, 90)], start=1):
        box = np.zeros((height, width), bool)
        box[y - top : y - top + h, x - left : x - left + w] = True
        rows += [ResultRow(i, CAR * 1000 + number, CAR, encode(box)) for i in range(6)]
    weights = str(bundled_checkpoint(load_config("lite")))
    options = ["--config", "lite", "--checkpoint", weights, "--set", "input.min_dim=256"]
    return Clip(images, tuple(rows), [i * 40_000_000 for i in range(6)], options)


@pytest.mark.ros
@pytest.mark.parametrize(
    "make",
    [lambda: drawn_clip([i * 10**8 for i in range(9)]), filmed_clip, lambda: drawn_clip(LOOPED)],
    ids=["random weights", "bundled weights", "looped stamps"],
)
def test_through_ros_equals_in_process(make: Callable[[], Clip], tmp_path: Path) -> None:
    """A labelled bag through the real node: every frame is answered, with the same bits as without
    ROS."""
    clip = make()
    clip.write(tmp_path / "0001.mcap")
    report = run(tmp_path / "0001.mcap", tmp_path / "ros", "--through-ros", *clip.options)
    expected = run(tmp_path / "0001.mcap", tmp_path / "plain", *clip.options)
    folder = tmp_path / "ros" / "results" / "near_online-through-ROS"
    through = folder / "0001.txt"
    plain = tmp_path / "plain" / "results" / "near_online" / "0001.txt"
    assert through.read_bytes() == plain.read_bytes()
    frames = {int(line.split()[0]) for line in through.read_text().splitlines()}
    assert frames == set(range(len(clip.images)))
    assert [v["name"] for v in report["runs"]] == [
        "near_online through ROS",
        "near_online through ROS + post-filter",
    ]
    for ros, process in zip(report["runs"], expected["runs"], strict=True):
        assert ros["measures"] == process["measures"]
    assert report["runs"][0]["timing"]["fps_network_and_clustering"] is None
    with InstanceBagReader(folder / "0001.ros" / "instances.mcap") as answers:
        assert [(r.stamp_ns, r.epoch) for r in answers] == [
            (stamp, sum(b < a for a, b in pairwise(clip.stamps[: index + 1])))
            for index, stamp in enumerate(clip.stamps)
        ]


def test_looped_bag_equals_its_frames(tmp_path: Path) -> None:
    """Masks, ids and epochs of a labelled bag whose stamps start again, and its ground truth."""
    clip = drawn_clip(LOOPED)
    clip.write(tmp_path / "looped.mcap")
    config = load_config("lite", {"input.min_dim": 96, "input.max_dim": 512})

    def results(source: Iterable[tuple[int, Image]]) -> list[FrameResult]:
        pipeline = Pipeline(config, network=ColourNetwork(config))  # type: ignore[arg-type]
        found = [r for stamp, image in source for r in pipeline.push(image, stamp)]
        return found + pipeline.flush()

    direct = results(zip(LOOPED, clip.images, strict=True))
    with ImageBagReader(tmp_path / "looped.mcap") as images:
        assert results(images) == direct
    assert [(r.stamp_ns, r.epoch) for r in direct] == [
        (stamp, index // 5) for index, stamp in enumerate(LOOPED)
    ]
    assert all(len(r.instances) == 2 for r in direct)
    truth = read_input(tmp_path / "looped.mcap", "kitti_mots", None).truths["looped"]
    key = attrgetter("frame", "class_id")
    assert [(r.frame, r.class_id, r.rle) for r in sorted(truth.rows, key=key)] == [
        (r.frame, r.class_id, r.rle) for r in sorted(clip.rows, key=key)
    ]


def test_ignored_pixels_survive_the_bag(dataset: Path, tmp_path: Path) -> None:
    truth = kitti_mots.read_truth(dataset)["0000"]
    labels = tmp_path / "labels"
    corner = np.zeros(SIZE, bool)
    corner[:8] = True
    kitti_mots.write(labels, [replace(truth, ignored={2: encode(corner)})], truth=True)
    done = CliRunner().invoke(
        app,
        [
            "bag",
            "from-frames",
            str(dataset / "image_02" / "0000"),
            str(tmp_path / "b.db3"),
            "--ground-truth",
            str(labels),
        ],
    )
    assert done.exit_code == 0, done.output
    given = read_input(tmp_path / "b.db3", "kitti_mots", None).truths["b"]
    assert list(given.ignored) == [2]
    assert given.frames == 12 and len(given.rows) == 24


def record_answers(config: Config, bag: Path, first: int = 0) -> None:
    """What the node would answer to the images of sequence 0001, from frame ``first`` on."""
    pipeline = Pipeline(config, network=ColourNetwork(config))  # type: ignore[arg-type]
    with InstanceBagWriter(bag) as answers:
        for index in range(first, 9):
            for result in pipeline.push(frame(index)[0], index * 100_000_000):
                answers.write(result)
        for result in pipeline.flush():
            answers.write(result)


def test_recorded_answers_to_benchmark_files(
    dataset: Path, networks: list[ColourNetwork], tmp_path: Path
) -> None:
    """A recorded bag, converted, holds what an evaluation stores."""
    run(dataset, tmp_path / "out", "--sequence", "0001")
    bag = tmp_path / "answers.mcap"
    record_answers(networks[0].config, bag)
    for name in FORMATS:
        place = tmp_path / name / ("r.json" if name == "youtube_vis" else "")
        options = ["--name", "0001", "--format", name]
        done = CliRunner().invoke(app, ["convert", str(bag), str(place), *options])
        assert done.exit_code == 0, done.output
    stored = tmp_path / "out" / "results" / "near_online" / "0001.txt"
    assert (tmp_path / "kitti_mots" / "0001.txt").read_bytes() == stored.read_bytes()
    assert len(list((tmp_path / "davis" / "0001").glob("*.png"))) == 9
    assert {r.class_id for r in read_bag(bag, None).rows} == {CAR, PEDESTRIAN}


def test_recorded_answers_are_scored_against_a_bag(
    dataset: Path, networks: list[ColourNetwork], tmp_path: Path
) -> None:
    truth, answers, out = (tmp_path / name for name in ("0001.mcap", "answers.mcap", "scored"))
    arguments = ["--ground-truth", str(dataset), "--sequence", "0001"]
    images = str(dataset / "image_02" / "0001")
    CliRunner().invoke(app, ["bag", "from-frames", images, str(truth), *arguments])
    expected = run(truth, tmp_path / "out")["runs"][0]["measures"]
    record_answers(networks[0].config, answers)
    evaluate("--ground-truth", truth, "--results", answers, "--out", out)
    report = json.loads((out / "report.json").read_text())
    assert report["runs"][0]["measures"] == expected
    record_answers(networks[0].config, tmp_path / "late.mcap", first=1)
    late = ["--ground-truth", truth, "--results", tmp_path / "late.mcap", "--out", out]
    assert "same stamps; they differ from frame 0 on (8 and 9 messages)" in evaluate(*late, code=2)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--sequence", "0009"], "no sequence 0009; there are 0000, 0001"),
        (["--images", "{tmp}"], "no images of 0000, 0001"),
        (["--results", "{tmp}"], "no results for sequences 0000, 0001"),
        (["--format", "davis"], "no label images"),
        (["--ground-truth", "{tmp}/none"], "no ground truth at"),
        (["--set", "window.overlap=9"], "overlap 9 is not below length"),
    ],
)
def test_mistakes_take_one_line(
    arguments: list[str], words: str, dataset: Path, networks: list[ColourNetwork], tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    filled = [argument.replace("{tmp}", str(tmp_path / "empty")) for argument in arguments]
    base = ["--ground-truth", dataset, "--out", tmp_path / "out", "--checkpoint", "random"]
    assert words in evaluate(*base, *filled, code=2)


def test_too_few_images(dataset: Path, networks: list[ColourNetwork], tmp_path: Path) -> None:
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
    given = work.EvaluationInput("kitti_mots", truths, {})
    told: list[int] = []

    @contextmanager
    def progress(title: str, total: int) -> Any:
        yield told.append

    (one,) = work.evaluate_stored(given, results, [Variant(STORED)], 1, progress)
    (two,) = work.evaluate_stored(given, results, [Variant(STORED)], 2, progress)
    assert (one.measures, one.sequences) == (two.measures, two.sequences)
    assert told == [1, 2] * 2


def test_what_a_process_is_handed_can_travel(dataset: Path) -> None:
    setup = runs.Setup(load_config("lite"), "random", "cpu", threads=1).in_mode("online")
    task = (setup, "0000", read_input(dataset, "kitti_mots", None).images["0000"], dataset)
    assert pickle.loads(pickle.dumps(task)) == task


def test_videos_without_annotations_get_a_results_file(
    dataset: Path, networks: list[ColourNetwork], tmp_path: Path
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
    assert "hold a mask" in (tmp_path / "out" / "report.html").read_text()


def test_only_the_frames_that_the_ground_truth_names(
    dataset: Path, networks: list[ColourNetwork], tmp_path: Path
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
