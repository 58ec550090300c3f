"""Bags with ground truth, and bags of recorded answers, as input of an evaluation."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from operator import attrgetter
from pathlib import Path

import numpy as np
import pytest
from colour_engine import ColourEngine, colour_model
from evaluated import (
    CAR,
    LOOPED,
    PEDESTRIAN,
    SIZE,
    drawn_clip,
    evaluate,
    frame,
    run,
)
from typer.testing import CliRunner

pytest.importorskip("trackeval")


from stemseg_ros.cli.main import app
from stemseg_ros.config import Config
from stemseg_ros.evaluation.inputs import TRUTH_TOPIC, read_bag, read_input
from stemseg_ros.formats import FORMATS, kitti_mots_text
from stemseg_ros.masks import encode
from stemseg_ros.media.bags import INSTANCE_ARRAY, BagWriter
from stemseg_ros.media.image_bag import ImageBagReader
from stemseg_ros.media.result_bag import InstanceBagReader, InstanceBagWriter, message_from_result
from stemseg_ros.models.stemseg.settings import load_settings
from stemseg_ros.records import Frame, FrameResult, Image


def test_bag_with_ground_truth(dataset: Path, engines: list[ColourEngine], tmp_path: Path) -> None:
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


def test_looped_bag_equals_its_frames(tmp_path: Path) -> None:
    """Masks, ids and epochs of a labelled bag whose stamps start again, and its ground truth."""
    clip = drawn_clip(LOOPED)
    clip.write(tmp_path / "looped.mcap")
    config = load_settings("lite", {"input.min_dim": 96, "input.max_dim": 512})

    def results(source: Iterable[tuple[int, Image]]) -> list[FrameResult]:
        stream = colour_model(config).stream()
        found = [r for stamp, image in source for r in stream.push(Frame(image, stamp))]
        return found + stream.flush()

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
    truth = kitti_mots_text.read_truth(dataset)["0000"]
    labels = tmp_path / "labels"
    corner = np.zeros(SIZE, bool)
    corner[:8] = True
    kitti_mots_text.write(labels, [replace(truth, ignored={2: encode(corner)})], truth=True)
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


def test_a_bad_image_of_a_labelled_folder_is_left_out(
    dataset: Path, engines: list[ColourEngine], tmp_path: Path
) -> None:
    """With its ground truth, so that what is in the bag fits together."""
    folder = dataset / "image_02" / "0001"
    for number in (2, 8):
        (folder / f"{number:06d}.png").write_bytes(b"")
    arguments = ["--ground-truth", str(dataset), "--sequence", "0001"]
    bag = tmp_path / "0001.mcap"
    done = CliRunner().invoke(app, ["bag", "from-frames", str(folder), str(bag), *arguments])
    assert done.exit_code == 0, done.output
    assert "frame 2 is skipped" in done.output and "7 labelled frames" in done.output
    report = run(bag, tmp_path / "out", "--post-filter", "without")
    assert report["runs"][0]["lost"] == {}
    assert report["runs"][0]["measures"]["all classes"]["TP"] == 14
    (folder / "000008.png").unlink()
    done = CliRunner().invoke(app, ["bag", "from-frames", str(folder), str(bag), *arguments])
    assert done.exit_code == 2
    assert "8 images in" in done.output and "the ground truth has 9 frames" in done.output


def record_results(config: Config, bag: Path, first: int = 0) -> None:
    """What the node would answer to the images of sequence 0001, from frame ``first`` on."""
    stream = colour_model(config).stream()
    with InstanceBagWriter(bag) as answers:
        for index in range(first, 9):
            for result in stream.push(Frame(frame(index)[0], index * 100_000_000)):
                answers.write(result)
        for result in stream.flush():
            answers.write(result)


def record_all(answers: Path, bag: Path) -> None:
    """The same results beside other topics of their type: the ground truth and prompts."""
    with InstanceBagReader(answers) as results, BagWriter(bag, "/x", INSTANCE_ARRAY) as writer:
        others = [
            writer.second_topic(name, INSTANCE_ARRAY) for name in (TRUTH_TOPIC, "/stemseg/prompts")
        ]
        for result in results:
            message = message_from_result(result, "camera")
            writer.write(result.stamp_ns, message)
            for write in others:
                write(result.stamp_ns, message)


def test_recorded_results_to_benchmark_files(
    dataset: Path, engines: list[ColourEngine], tmp_path: Path
) -> None:
    """A recorded bag, converted, holds what an evaluation stores."""
    run(dataset, tmp_path / "out", "--sequence", "0001")
    bag = tmp_path / "answers.mcap"
    record_results(engines[0].config, bag)
    for name in FORMATS.keys() - {"davis2017_semi", "youtube_vos"}:  # which keep ids of prompts
        place = tmp_path / name / ("r.json" if name == "youtube_vis" else "")
        options = ["--name", "0001", "--format", name]
        done = CliRunner().invoke(app, ["convert", str(bag), str(place), *options])
        assert done.exit_code == 0, done.output
    stored = tmp_path / "out" / "results" / "near_online" / "0001.txt"
    assert (tmp_path / "kitti_mots" / "0001.txt").read_bytes() == stored.read_bytes()
    assert len(list((tmp_path / "davis" / "0001").glob("*.png"))) == 9
    assert {r.class_id for r in read_bag(bag, None).rows} == {CAR, PEDESTRIAN}


def test_recorded_results_are_scored_against_a_bag(
    dataset: Path, engines: list[ColourEngine], tmp_path: Path
) -> None:
    truth, answers, out = (tmp_path / name for name in ("0001.mcap", "answers.mcap", "scored"))
    arguments = ["--ground-truth", str(dataset), "--sequence", "0001"]
    images = str(dataset / "image_02" / "0001")
    CliRunner().invoke(app, ["bag", "from-frames", images, str(truth), *arguments])
    expected = run(truth, tmp_path / "out")["runs"][0]["measures"]
    record_results(engines[0].config, answers)
    evaluate("--ground-truth", truth, "--results", answers, "--out", out)
    report = json.loads((out / "report.json").read_text())
    assert report["runs"][0]["measures"] == expected
    record_all(answers, tmp_path / "all.mcap")
    evaluate("--ground-truth", truth, "--results", tmp_path / "all.mcap", "--out", out)
    assert json.loads((out / "report.json").read_text())["runs"] == report["runs"]
    record_results(engines[0].config, tmp_path / "late.mcap", first=1)
    late = ["--ground-truth", truth, "--results", tmp_path / "late.mcap", "--out", out]
    assert "same stamps; they differ from frame 0 on (8 and 9 messages)" in evaluate(*late, code=2)


@pytest.mark.parametrize(
    ("topics", "words"),
    [
        ([], "no images of drive; name their folder (--images), or give results (--results)"),
        (["/camera/image_raw"], "has no message on /camera/image_raw; topics there are:"),
    ],
    ids=["ground truth alone", "a topic without images"],
)
def test_a_bag_without_images_cannot_be_run(topics: list[str], words: str, tmp_path: Path) -> None:
    bag = tmp_path / "drive.mcap"
    with BagWriter(bag, TRUTH_TOPIC, INSTANCE_ARRAY) as writer:
        for topic in topics:
            writer.second_topic(topic, "sensor_msgs/msg/Image")
        writer.write(10**9, message_from_result(FrameResult(0, 10**9, 4, 4, 0, ()), "camera"))
    base = ["--ground-truth", bag, "--out", tmp_path / "out", "--checkpoint", "random"]
    assert words in evaluate(*base, "--device", "cpu", code=2)
