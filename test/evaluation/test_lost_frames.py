"""Recordings with frames that cannot be read: what ``stemseg evaluate`` scores and reports."""

from __future__ import annotations

import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import pytest
from colour_engine import ColourEngine, colour_model
from evaluated import SETTINGS, drawn_clip, evaluate, frame, run

pytest.importorskip("trackeval")

from stemseg_ros.evaluation.bag_stamps import NO_FRAME, Stamps, frames_of
from stemseg_ros.evaluation.inputs import EvaluationInput, Images, read_input
from stemseg_ros.evaluation.runs import load_run
from stemseg_ros.evaluation.truth_bag import write_labelled_bag
from stemseg_ros.formats.sequence_masks import EvaluationError, SequenceMasks
from stemseg_ros.media.bags import IMAGE, BagReader, BagWriter, message_types
from stemseg_ros.media.damage import Damage, SkippedFrame
from stemseg_ros.media.image_bag import ImageBagReader
from stemseg_ros.media.result_bag import InstanceBagWriter
from stemseg_ros.media.sources import numbered_frames
from stemseg_ros.models.stemseg.settings import load_settings
from stemseg_ros.records import Frame


def cut(file: Path, share: float = 0.5) -> None:
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * share)])


def as_jpeg(file: Path, share: float) -> None:
    """In place of a PNG of the same number."""
    image = cv2.imread(str(file))
    cv2.imwrite(str(file.with_suffix(".jpg")), image)
    file.unlink()
    cut(file.with_suffix(".jpg"), share)


SPOIL: list[tuple[str, Callable[[Path], None]]] = [
    ("truncated PNG", cut),
    ("empty PNG", lambda file: cut(file, 0)),
    ("truncated JPEG", lambda file: as_jpeg(file, 0.7)),
    ("text", lambda file: file.write_text("not an image\n") and None),
]


@pytest.mark.parametrize("spoil", [s for _, s in SPOIL], ids=[name for name, _ in SPOIL])
@pytest.mark.parametrize("bad", [(0,), (4,), (3, 4, 8)])
def test_bad_images_count_as_frames_without_predictions(
    spoil: Callable[[Path], None],
    bad: tuple[int, ...],
    dataset: Path,
    engines: list[ColourEngine],
    tmp_path: Path,
) -> None:
    """Of nine frames with two objects each; the others are found, under their own numbers."""
    for number in bad:
        spoil(dataset / "image_02" / "0001" / f"{number:06d}.png")
    report = run(dataset, tmp_path / "out", "--sequence", "0001", "--post-filter", "without")
    for name in ("car", "pedestrian"):
        measures = report["runs"][0]["measures"][name]
        assert (measures["TP"], measures["FN"], measures["FP"]) == (9 - len(bad), len(bad), 0)
    (lost,) = report["runs"][0]["lost"].values()
    assert [item["frame"] for item in lost["skipped"]] == list(bad)
    assert all("not readable as an image" in item["reason"] for item in lost["skipped"])
    assert report["runs"][0]["timing"]["frames"] == 9 - len(bad)
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Frames without predictions" in page
    assert f"sequence 0001: frame {bad[0]} is skipped" in page


def test_bad_frames_are_reported_and_strict_ends_with_3(
    dataset: Path, engines: list[ColourEngine], tmp_path: Path
) -> None:
    cut(dataset / "image_02" / "0001" / "000004.png")
    arguments = ["--ground-truth", dataset, "--checkpoint", "random", "--device", "cpu"]
    arguments += [*SETTINGS, "--out", tmp_path / "out", "--strict"]
    for _ in range(2):  # the second time the stored results know it
        text = evaluate(*arguments, code=3)
        assert text.count("sequence 0001: frame 4 is skipped") == 1 and "MOTSA" in text
        assert (tmp_path / "out" / "report.html").is_file()
    assert len(engines) == 2
    evaluate(*arguments, "--sequence", "0000")


def test_a_whole_recording_reports_no_lost_frames(
    dataset: Path, engines: list[ColourEngine], tmp_path: Path
) -> None:
    report = run(dataset, tmp_path / "out", "--strict")
    assert report["runs"][0]["lost"] == {}
    assert "Frames without predictions" not in (tmp_path / "out" / "report.html").read_text()


def test_a_folder_without_any_readable_image_is_refused(
    dataset: Path, engines: list[ColourEngine], tmp_path: Path
) -> None:
    for file in (dataset / "image_02" / "0001").iterdir():
        cut(file)
    arguments = ["--ground-truth", dataset, "--checkpoint", "random", *SETTINGS]
    assert "not readable as an image" in evaluate(*arguments, "--out", tmp_path / "o", code=2)


def labelled_bag(path: Path, stamps: list[int]) -> Path:
    drawn_clip(stamps).write(path)
    return path


def truth_alone(path: Path, count: int) -> Path:
    """A bag with ground truth whose images are elsewhere."""
    frames = [frame(index) for index in range(count)]
    rows = tuple(row for _, rows in frames for row in rows)
    truth = SequenceMasks("0001", frames[0][0].shape[:2], count, {1: "car", 2: "pedestrian"}, rows)
    write_labelled_bag(
        ((i, i * 10**8, image) for i, (image, _) in enumerate(frames)),
        truth,
        path,
        topic="/camera/image_raw",
        frame_id="camera",
        encoding="bgr8",
        storage=None,
        progress=lambda count: None,
    )
    return path


def motion_jpeg(path: Path, count: int) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=Fraction(10))
        stream.width, stream.height, stream.pix_fmt = 160, 96, "yuvj444p"
        stream.options = {"q": "1", "qmin": "1", "qmax": "1"}
        for index in range(count):
            image = av.VideoFrame.from_ndarray(frame(index)[0], format="bgr24")
            container.mux(stream.encode(image))
        container.mux(stream.encode(None))
    return path


def given_bag(report: dict[str, Any]) -> tuple[list[int], list[str], dict[str, int]]:
    (lost,) = report["runs"][0]["lost"].values()
    return [item["frame"] for item in lost["skipped"]], lost["losses"], lost["dropped"]


@pytest.mark.parametrize("suffix", [".avi", ".mkv"])
def test_a_cut_video_of_a_sequence(
    suffix: str, engines: list[ColourEngine], tmp_path: Path
) -> None:
    """What is behind the cut counts as missed."""
    truth = truth_alone(tmp_path / "0001.mcap", 12)
    video = motion_jpeg(tmp_path / f"drive{suffix}", 12)
    cut(video, 0.6)
    report = run(truth, tmp_path / "out", "--images", video, "--post-filter", "without")
    stored = load_run(tmp_path / "out" / "results" / "near_online", "0001")
    assert stored is not None and stored.frames == 12
    read = len(stored.latency_ms)
    assert 4 < read < 9
    _, losses, _ = given_bag(report)
    assert len(losses) == 1 and "announces" in losses[0]
    every = report["runs"][0]["measures"]["all classes"]
    assert every["TP"] + every["FN"] == 24 and every["FN"] >= 2 * (12 - read)


def respoil(path: Path, bad: dict[int, Callable[[Any, bytes], bytes]]) -> None:
    """Write a labelled bag again with other data of some images."""
    out = path.with_name("spoiled.mcap")
    with (
        BagReader(path, [IMAGE]) as images,
        BagReader(path, ["stemseg/msg/InstanceArray"]) as labels,
        BagWriter(out, images.topic, images.type) as writer,
    ):
        second = writer.second_topic(labels.topic, labels.type)
        pairs = zip(images.raw(), labels, strict=True)
        for index, ((log_ns, data), (_, label)) in enumerate(pairs):
            writer.write_raw(log_ns, bad[index](images, data) if index in bad else data)
            second(log_ns, label)
    path.unlink()
    out.rename(path)


def unknown_encoding(bag: BagReader, data: bytes) -> bytes:
    message = bag.decode(data)
    message.encoding = "jp2"
    return bytes(message_types().serialize_cdr(message, IMAGE))


BAD_MESSAGES = {
    "another encoding": unknown_encoding,
    "cut": lambda _, data: data[:100],
    "without a stamp": lambda _, data: data[:6],
}


@pytest.mark.parametrize("spoil", BAD_MESSAGES.values(), ids=BAD_MESSAGES)
@pytest.mark.parametrize("bad", [(0,), (4,), (3, 4, 8)])
def test_bad_messages_of_a_labelled_bag(
    spoil: Callable[[BagReader, bytes], bytes],
    bad: tuple[int, ...],
    engines: list[ColourEngine],
    tmp_path: Path,
) -> None:
    bag = labelled_bag(tmp_path / "0001.mcap", [(1 + i) * 10**8 for i in range(9)])
    respoil(bag, dict.fromkeys(bad, spoil))
    report = run(bag, tmp_path / "out", "--post-filter", "without")
    assert given_bag(report) == (list(bad), [], {})
    every = report["runs"][0]["measures"]["all classes"]
    assert (every["TP"], every["FN"], every["FP"]) == (2 * (9 - len(bad)), 2 * len(bad), 0)


def test_a_glitch_of_the_stamps_costs_its_frame(
    engines: list[ColourEngine], tmp_path: Path
) -> None:
    """The frames behind it keep their numbers."""
    stamps = [(10 + i) * 10**8 for i in range(9)]
    stamps[4] = 0
    report = run(
        labelled_bag(tmp_path / "0001.mcap", stamps), tmp_path / "out", "--post-filter", "without"
    )
    assert given_bag(report) == ([], [], {"out_of_order": 1})
    every = report["runs"][0]["measures"]["all classes"]
    assert (every["TP"], every["FN"], every["FP"]) == (16, 2, 0)


def record(bag: Path, results: Path, leave_out: tuple[int, ...] = ()) -> None:
    """What a node publishes for a bag; some results get lost."""
    config = load_settings("lite", {"input.min_dim": 96, "input.max_dim": 512})
    stream = colour_model(config).stream()
    with ImageBagReader(bag) as images, InstanceBagWriter(results) as writer:
        for number, stamp, image in numbered_frames(images):
            found = stream.push(Frame(image, stamp, source=number))
            for result in found:
                if result.source not in leave_out:
                    writer.write(result)
        for result in stream.flush():
            if result.source not in leave_out:
                writer.write(result)


def test_recorded_results_of_a_damaged_bag(engines: list[ColourEngine], tmp_path: Path) -> None:
    """Results may lack the frames that cannot be read or have a bad stamp, and no others."""
    stamps = [(10 + i) * 10**8 for i in range(9)]
    stamps[6] = 0
    bag = labelled_bag(tmp_path / "0001.mcap", stamps)
    respoil(bag, {2: unknown_encoding, 4: BAD_MESSAGES["cut"]})
    expected = run(bag, tmp_path / "out", "--post-filter", "without")["runs"][0]
    assert given_bag({"runs": [expected]}) == ([2, 4], [], {"out_of_order": 1})
    results, out = tmp_path / "results.mcap", tmp_path / "scored"
    record(bag, results)
    common = ["--ground-truth", bag, "--results", results, "--out", out]
    evaluate(*common, "--post-filter", "without", "--strict", code=3)
    scored = json.loads((out / "report.json").read_text())["runs"][0]
    assert (scored["measures"], scored["lost"]) == (expected["measures"], expected["lost"])
    results.unlink()
    record(bag, results, leave_out=(5,))
    assert "must have the same stamps" in evaluate(*common, code=2)


def test_recorded_results_that_are_damaged_themselves(
    engines: list[ColourEngine], tmp_path: Path
) -> None:
    """Their loss is reported, though all images are there."""
    bag = labelled_bag(tmp_path / "0001.mcap", [(1 + i) * 10**8 for i in range(40)])
    results, out = tmp_path / "results.db3", tmp_path / "scored"
    record(bag, results)
    cut(results, 0.9)
    common = ["--ground-truth", bag, "--results", results, "--out", out]
    evaluate(*common, "--post-filter", "without", "--strict", code=3)
    report = json.loads((out / "report.json").read_text())
    skipped, losses, dropped = given_bag(report)
    assert (skipped, dropped) == ([], {})
    assert len(losses) == 1 and "cut off" in losses[0]
    every = report["runs"][0]["measures"]["all classes"]
    assert every["TP"] + every["FN"] == 80 and every["FN"] >= 2 and every["FP"] == 0


def test_recorded_results_without_ground_truth_are_not_scored(
    engines: list[ColourEngine], tmp_path: Path
) -> None:
    """The ground truth is cut after the node had all images."""
    bag = labelled_bag(tmp_path / "0001.mcap", [(1 + i) * 10**8 for i in range(40)])
    results, out = tmp_path / "results.mcap", tmp_path / "scored"
    record(bag, results)
    cut(bag, 0.8)
    evaluate(
        *["--ground-truth", bag, "--results", results, "--out", out], "--post-filter", "without"
    )
    (scored,) = json.loads((out / "report.json").read_text())["runs"]
    every = scored["measures"]["all classes"]
    given: EvaluationInput = read_input(bag, "kitti_mots", None)
    assert (every["FP"], every["FN"]) == (0, 0)
    assert every["TP"] == len(given.truths["0001"].rows) < 80


def test_frames_without_ground_truth_are_not_reported() -> None:
    images = Images(Path("drive.mcap"), numbers=(0, NO_FRAME, 1))
    damage = Damage([SkippedFrame(1, "cut"), SkippedFrame(2, "empty")])
    assert images.lost(damage).skipped == [SkippedFrame(1, "empty")]


@pytest.mark.parametrize(
    ("suffix", "share"),
    [(".mcap", 0.8), *((".db3", share) for share in (0.4, 0.49, 0.5, 0.51, 0.52, 0.9))],
)
def test_a_cut_labelled_bag(
    suffix: str, share: float, engines: list[ColourEngine], tmp_path: Path
) -> None:
    """Scored as far as its ground truth goes; images and ground truth end at most one apart."""
    bag = labelled_bag(tmp_path / f"0001{suffix}", [(1 + i) * 10**8 for i in range(40)])
    cut(bag, share)
    report = run(bag, tmp_path / "out", "--post-filter", "without")
    _, losses, _ = given_bag(report)
    assert losses and "cut off" in losses[0]
    every = report["runs"][0]["measures"]["all classes"]
    given: EvaluationInput = read_input(bag, "kitti_mots", None)
    assert every["FP"] == 0 and every["FN"] <= 2
    assert every["TP"] + every["FN"] == len(given.truths["0001"].rows) > 10


WHOLE = Stamps([10, 20, 30, 40], [])
LOOP = Stamps([10, 20, 10, 20], [])


@pytest.mark.parametrize(
    ("truth", "found", "frames"),
    [
        (WHOLE, WHOLE, ()),
        (LOOP, LOOP, ()),
        (WHOLE, Stamps([10, None, 30, 40], []), (0, 1, 2, 3)),
        (WHOLE, Stamps([None, None, 30, 40], []), (0, 1, 2, 3)),
        (WHOLE, Stamps([10, 20, 30, None], []), (0, 1, 2, 3)),
        (WHOLE, Stamps([10, 40], ["a chunk is damaged"]), (0, 3)),
        (WHOLE, Stamps([10, 20], ["cut off"]), (0, 1)),
        (LOOP, Stamps([10, 20, 10], ["cut off"]), (0, 1, 2)),
        (Stamps([10, 30], ["damaged"]), Stamps([10, 20, 30], ["damaged"]), (0, NO_FRAME, 1)),
        (Stamps([10, 30], ["damaged"]), Stamps([10, None, 30], []), (0, NO_FRAME, 1)),
        (Stamps([10, 30], ["damaged"]), Stamps([None, 10, 30], []), (NO_FRAME, 0, 1)),
        (Stamps([10, 30], ["cut off"]), Stamps([10, 30, None], []), (0, 1, NO_FRAME)),
        (Stamps([10, 20, 40], ["damaged"]), Stamps([10, None, 30, 40], []), (0, 1, NO_FRAME, 2)),
        (
            Stamps([10, 30, 40], ["damaged"]),
            Stamps([10, None, None, 40], []),
            (0, 1, NO_FRAME, 2),
        ),
    ],
)
def test_frames_of_messages_by_stamps(
    truth: Stamps, found: Stamps, frames: tuple[int, ...]
) -> None:
    assert frames_of(truth, found, "images") == frames


@pytest.mark.parametrize(
    ("truth", "found"),
    [
        (WHOLE, Stamps([10, 20, 30], [])),
        (WHOLE, Stamps([10, 20, 31, 40], [])),
        (WHOLE, Stamps([10, 20, 31], ["cut off"])),
        (WHOLE, Stamps([10, 20, 30, 40, 50], [])),
        (WHOLE, Stamps([10, 30, 20, 40], [])),
        (WHOLE, Stamps([10, 20, None, 30, 40], [])),
        (WHOLE, Stamps([10, 20, 30, 40, None], [])),
    ],
)
def test_stamps_of_another_recording_are_refused(truth: Stamps, found: Stamps) -> None:
    with pytest.raises(EvaluationError, match=r"images and ground truth must have the same"):
        frames_of(truth, found, "images")
