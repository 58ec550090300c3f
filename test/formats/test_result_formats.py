"""Files of the benchmarks: what is written is read back, and what is wrong is refused by file and
line."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from mask_strips import PEDESTRIAN, row, sequence, strip, two_cars
from PIL import Image as PillowImage

from stemseg_ros.formats import FORMATS, bdd100k_bitmasks, format_named, mots_challenge_text
from stemseg_ros.formats.kitti_lines import ResultRow, write_results
from stemseg_ros.formats.sequence_masks import EvaluationError, SequenceMasks
from stemseg_ros.masks import encode


def people(name: str = "0000") -> SequenceMasks:
    """Two pedestrians, one of them only in the first frame, and an ignored strip in the second."""
    rows = [
        row(0, 1, 0, 10, PEDESTRIAN),
        row(0, 2, 20, 25, PEDESTRIAN),
        row(1, 1, 2, 12, PEDESTRIAN),
        row(2, 1, 4, 14, PEDESTRIAN),
    ]
    return sequence(rows, 3, name, ignored={1: strip(40, 50)})


def tracks(sequence: SequenceMasks) -> list[set[tuple[int, bytes]]]:
    return [{(r.frame, r.rle["counts"]) for r in rows} for rows in sequence.by_track().values()]


def path_for(name: str, folder: Path) -> Path:
    return folder / "file.json" if name == "youtube_vis" else folder


FOLLOWED = ("davis2016_semi", "davis2017_semi", "youtube_vos")
"""Formats of given objects: their ids are those of the prompts, 1 to 254."""


@pytest.mark.parametrize(
    "name", [name for name in FORMATS if name not in ("davis2016", *FOLLOWED)]
)
def test_round_trip(name: str, tmp_path: Path) -> None:
    files, truth, result = FORMATS[name], people("a"), replace(people("a"), ignored={})
    files.write(path_for(name, tmp_path / "truth"), [truth], truth=True)
    files.write(path_for(name, tmp_path / "results"), [result])
    read = files.read_truth(path_for(name, tmp_path / "truth"))
    assert list(read) == ["a"]
    assert (read["a"].size, read["a"].frames) == (truth.size, truth.frames)
    assert sorted(map(sorted, tracks(read["a"]))) == sorted(map(sorted, tracks(truth)))
    if name != "youtube_vis":  # which has no ignored pixels
        assert {t: rle["counts"] for t, rle in read["a"].ignored.items()} == {
            1: strip(40, 50)["counts"]
        }
    again = files.read_results(path_for(name, tmp_path / "results"), read)["a"]
    assert sorted(map(sorted, tracks(again))) == sorted(map(sorted, tracks(result)))
    if name not in ("davis", "youtube_vis"):
        assert {again.classes[r.class_id] for r in again.rows} == {"pedestrian"}


def test_davis_2016_is_one_object(tmp_path: Path) -> None:
    files = FORMATS["davis2016"]
    files.write(tmp_path, [replace(people(), ignored={})])
    read = files.read_truth(tmp_path)["0000"]
    assert [r.id for r in read.rows] == [1, 1, 1]
    columns = np.isin(np.arange(60), [*range(10), *range(20, 25)])
    assert read.rows[0].rle == encode(columns[None].repeat(20, 0))


def test_davis_2016_takes_the_masks_of_the_dataset(tmp_path: Path) -> None:
    """There the foreground is 255."""
    (tmp_path / "cows").mkdir()
    PillowImage.fromarray(np.uint8([[0, 255], [0, 255]])).save(tmp_path / "cows" / "00000.png")
    read = FORMATS["davis2016"].read_truth(tmp_path)["cows"]
    assert (read.ignored, len(read.rows), read.size) == ({}, 1, (2, 2))


def write_bitmask(folder: Path, name: str, columns: list[tuple[int, int, int, int]]) -> None:
    """One pixel wide objects beside each other: category, attributes, object id on two bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    PillowImage.fromarray(np.uint8([columns, columns])).save(folder / f"{name}.png")


def test_bdd100k_crowds_and_ignored_objects_are_left_out(tmp_path: Path) -> None:
    """As in BDD100K's code, of the ground truth and of results."""
    write_bitmask(tmp_path / "v", "0", [(3, 1, 0, 1), (3, 2, 0, 2), (3, 0, 0, 3), (0, 0, 0, 0)])
    truth = bdd100k_bitmasks.read_truth(tmp_path)
    assert [row.id for row in truth["v"].rows] == [3]
    assert [len(masks) for masks in truth["v"].ignored_apart.values()] == [2]
    results = bdd100k_bitmasks.read_results(tmp_path, truth)
    assert [row.id for row in results["v"].rows] == [3]


def test_bdd100k_id_0_is_background(tmp_path: Path) -> None:
    write_bitmask(tmp_path / "v", "0", [(3, 0, 0, 0), (3, 1, 0, 0), (3, 0, 0, 1)])
    truth = bdd100k_bitmasks.read_truth(tmp_path)["v"]
    assert ([row.id for row in truth.rows], truth.ignored) == ([1], {})


def test_bdd100k_an_id_may_change_its_class(tmp_path: Path) -> None:
    """Each class is scored by itself, so the car 1 and the truck 1 are two tracks; 2 is taken."""
    for name, category in (("0", 3), ("1", 4), ("2", 3)):
        write_bitmask(tmp_path / "v", name, [(category, 0, 0, 1), (1, 0, 0, 2)])
    rows = bdd100k_bitmasks.read_truth(tmp_path)["v"].rows
    assert [(r.frame, r.id) for r in rows if r.class_id != 1] == [(0, 1), (1, 3), (2, 1)]


def test_bdd100k_ignored_pixels_are_written_as_objects(tmp_path: Path) -> None:
    FORMATS["bdd100k"].write(tmp_path, [people("a")], truth=True)
    pixels = np.asarray(PillowImage.open(tmp_path / "a" / "00001.png"))
    ignored = pixels[pixels[..., 1] == bdd100k_bitmasks.IGNORED]
    assert {int(id_) for id_ in ignored[:, 3]} == {len({r.id for r in people().rows}) + 1}


def test_bdd100k_bits(tmp_path: Path) -> None:
    """R category, G attributes, B * 256 + A id; crowd and ignored objects are ignored."""
    (tmp_path / "v").mkdir()
    pixels = np.uint8([[[3, 8 + 4, 1, 2], [1, 2, 0, 5]], [[0, 0, 0, 0], [2, 1, 0, 6]]])
    PillowImage.fromarray(pixels).save(tmp_path / "v" / "v-0000001.png")
    read = bdd100k_bitmasks.read_truth(tmp_path)["v"]
    assert [(r.id, bdd100k_bitmasks.CLASSES[r.class_id]) for r in read.rows] == [(258, "car")]
    assert read.ignored[0] == encode(np.array([[False, True], [False, True]]))


def test_mots_challenge_counts_frames_from_1(tmp_path: Path) -> None:
    mots_challenge_text.write(tmp_path, [people()])
    lines = (tmp_path / "0000.txt").read_text().splitlines()
    assert [line.split()[0] for line in lines] == ["1", "2", "3", "1"]


def test_mots_challenge_leaves_cars_out(tmp_path: Path) -> None:
    mots_challenge_text.write(tmp_path, [two_cars(1)])
    assert (tmp_path / "0000.txt").read_text() == ""


def test_youtube_vis_truth_has_plain_run_lengths(tmp_path: Path) -> None:
    FORMATS["youtube_vis"].write(tmp_path / "t.json", [sequence([row(0, 1, 1, 3)], 2)], truth=True)
    (annotation,) = json.loads((tmp_path / "t.json").read_text())["annotations"]
    assert annotation["segmentations"] == [{"size": [20, 60], "counts": [20, 40, 57 * 20]}, None]
    assert annotation["areas"] == [40, None]


def test_no_such_format() -> None:
    with pytest.raises(EvaluationError, match="unknown format 'mot'; formats: kitti_mots, "):
        format_named("mot")


ROWS = list(two_cars(3).rows)


def broken(row: ResultRow) -> str:
    return str(row)[:-1]


BAD_TEXTS: dict[str, tuple[Callable[[], list[str]], str]] = {
    "overlapping masks": (
        lambda: [str(ROWS[0]), str(row(0, 2, 11, 20))],
        "line 2: the mask of id 1002 overlaps that of id 1001 in frame 0",
    ),
    "frames out of order": (
        lambda: [str(r) for r in (ROWS[0], ROWS[1], ROWS[4], ROWS[5], ROWS[2], ROWS[3])],
        "line 5: frame 1 after frame 2",
    ),
    "a track out of order": (
        lambda: [str(ROWS[i]) for i in (0, 4, 2)],
        "line 3: frame 1 after frame 2",
    ),
    "another size than the rest": (
        lambda: [str(ROWS[0]), str(ROWS[1]).replace(" 20 60 ", " 60 20 ")],
        r"line 2: \[60, 20\] differs from the size \[20, 60\]",
    ),
    "run lengths too short": (
        lambda: [str(ROWS[0]), broken(ROWS[1])],
        "line 2: run lengths cover",
    ),
    "not run lengths": (lambda: [f"0 1001 1 20 60 {chr(33)}"], "line 1: byte 33"),
    "an id twice": (
        lambda: [str(ROWS[0]), str(row(0, 1, 30, 40))],
        "line 2: id 1001 occurs twice in frame 0",
    ),
    "a class that is not scored": (
        lambda: [str(ROWS[0]), str(row(0, 1, 30, 40, 3))],
        "line 2: class 3 is none of 1 car, 2 pedestrian",
    ),
    "ignored pixels in results": (lambda: [str(row(0, 0, 30, 40, 10))], "line 1: class 10"),
    "too few fields": (
        lambda: ["0 1001 1 20 60"],
        "line 1: expected 'frame id class height width rle'",
    ),
}


@pytest.mark.parametrize("case", BAD_TEXTS)
def test_bad_text_is_refused_by_line(case: str, tmp_path: Path) -> None:
    lines, words = BAD_TEXTS[case]
    (tmp_path / "0000.txt").write_text("".join(f"{line}\n" for line in lines()))
    with pytest.raises(EvaluationError, match=rf"0000\.txt, {words}"):
        FORMATS["kitti_mots"].read_results(tmp_path, {"0000": two_cars(3)})


@pytest.mark.parametrize("name", ["kitti_mots", "mots_challenge"])
def test_ids_of_stored_results_are_free(name: str, tmp_path: Path) -> None:
    truth = people("0000")
    FORMATS[name].write(tmp_path / "results", [truth])
    file = tmp_path / "results" / "0000.txt"
    lines = [line.split(" ") for line in file.read_text().splitlines()]
    for line in lines:
        line[1] = str(int(line[1]) % 1000 + 6)
    file.write_text("".join(" ".join(line) + "\n" for line in lines))
    again = FORMATS[name].read_results(tmp_path / "results", {"0000": truth})["0000"]
    assert {row.id for row in again.rows} == {row.id % 1000 + 6 for row in truth.rows}
    assert sorted(tracks(again), key=len) == sorted(tracks(truth), key=len)


def test_size_of_results_against_truth(tmp_path: Path) -> None:
    write_results(tmp_path / "0000.txt", ROWS)
    with pytest.raises(
        EvaluationError, match=r"line 1: \[20, 60\] differs from the size \[20, 61\]"
    ):
        FORMATS["kitti_mots"].read_results(tmp_path, {"0000": replace(two_cars(3), size=(20, 61))})


def test_both_orders_are_taken(tmp_path: Path) -> None:
    """By frame, as ground truth is, and by track, as results are."""
    for order in (ROWS, sorted(ROWS, key=lambda r: r.id)):
        write_results(tmp_path / "0000.txt", order)
        assert (
            len(FORMATS["kitti_mots"].read_results(tmp_path, {"0000": two_cars(3)})["0000"].rows)
            == 6
        )


@pytest.mark.parametrize("name", ["kitti_mots", "mots_challenge", "davis", "bdd100k"])
def test_missing_sequences_are_named(name: str, tmp_path: Path) -> None:
    FORMATS[name].write(tmp_path, [people("a")])
    truths = {n: people(n) for n in ("a", "b", "c")}
    with pytest.raises(EvaluationError, match="no results for sequences b, c"):
        FORMATS[name].read_results(tmp_path, truths)


@pytest.mark.parametrize("name", list(FORMATS))
def test_no_ground_truth(name: str, tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=str(tmp_path)):
        FORMATS[name].read_truth(tmp_path)


def test_frame_beyond_the_sequence(tmp_path: Path) -> None:
    mots_challenge_text.write(tmp_path / "truth", [people()], truth=True)
    mots_challenge_text.write(tmp_path, [sequence([row(3, 1, 0, 5, PEDESTRIAN)], 4)])
    with pytest.raises(
        EvaluationError, match="line 1: frame 4 of a sequence of 3 frames, counted from 1"
    ):
        mots_challenge_text.read_results(
            tmp_path, mots_challenge_text.read_truth(tmp_path / "truth")
        )


def test_missing_frame_of_a_folder(tmp_path: Path) -> None:
    files = FORMATS["davis"]
    files.write(tmp_path / "truth", [people("a")], truth=True)
    files.write(tmp_path / "results", [people("a")])
    (tmp_path / "results" / "a" / "00001.png").unlink()
    with pytest.raises(EvaluationError, match="results lack frame 00001"):
        files.read_results(tmp_path / "results", files.read_truth(tmp_path / "truth"))


def test_image_of_another_size(tmp_path: Path) -> None:
    FORMATS["davis"].write(tmp_path, [people("a")], truth=True)
    PillowImage.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "a" / "00001.png")
    with pytest.raises(
        EvaluationError, match=r"00001\.png: 4x4 pixels, the first frame has 60x20"
    ):
        FORMATS["davis"].read_truth(tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda track: track.pop("score"), r"\[0\]: 'score' is missing"),
        (lambda track: track.update(video_id=7), r"\[0\]: video_id 7 is not in the ground truth"),
        (
            lambda track: track.update(category_id=7),
            r"\[0\]: category_id 7 is unknown",
        ),
        (
            lambda track: track["segmentations"].pop(),
            r"\[0\]: 2 segmentations for 3 frames",
        ),
        (
            lambda track: track["segmentations"][0].update(size=[60, 20]),
            r"\[0\]: frame 0: mask size \[60, 20\]",
        ),
        (
            lambda track: track["segmentations"][0].update(counts="00"),
            r"\[0\]: frame 0: run lengths cover 0",
        ),
        (
            lambda track: track["segmentations"][0].update(counts=[5]),
            r"frame 0: run lengths cover 5 of 1200",
        ),
    ],
)
def test_bad_youtube_vis_results(
    change: Callable[[dict[str, object]], object], words: str, tmp_path: Path
) -> None:
    files, path = FORMATS["youtube_vis"], tmp_path / "r.json"
    files.write(tmp_path / "truth.json", [people("a")], truth=True)
    files.write(path, [people("a")])
    entries = json.loads(path.read_text())
    change(entries[0])
    path.write_text(json.dumps(entries))
    with pytest.raises(EvaluationError, match=words):
        files.read_results(path, files.read_truth(tmp_path / "truth.json"))


def test_bad_json_is_refused_by_line(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text("[\n{,}]")
    with pytest.raises(EvaluationError, match="line 2: not readable as JSON"):
        FORMATS["youtube_vis"].read_results(tmp_path / "r.json", {})
