"""YouTube-VOS: label images and meta.json, strictly read."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mask_strips import row, sequence

from stemseg_ros.formats import youtube_vos_pngs
from stemseg_ros.formats.sequence_masks import EvaluationError, GivenObject, SequenceMasks

ROWS = [replace(row(t, 1, 0, 10), id=1) for t in range(3)] + [replace(row(1, 2, 20, 30), id=4)]
OBJECTS = {1: GivenObject("person", (0, 1, 2)), 4: GivenObject("tractor", (1, 2))}


def written(folder: Path) -> SequenceMasks:
    truth = replace(sequence(ROWS, 3, "a"), given=OBJECTS, files=("00000", "00005", "00010"))
    youtube_vos_pngs.write(folder, [truth], truth=True)
    return truth


@pytest.mark.parametrize("given", ["", "Annotations"], ids=["root", "annotations"])
def test_ground_truth(given: str, tmp_path: Path) -> None:
    truth = written(tmp_path)
    (read,) = youtube_vos_pngs.read_truth(tmp_path / given).values()
    assert (read.given, read.files) == (OBJECTS, truth.files)
    assert {(r.frame, r.id) for r in read.rows} == {(r.frame, r.id) for r in truth.rows}


@pytest.mark.parametrize("below", ["", "Annotations"], ids=["plain", "as submitted"])
def test_results(below: str, tmp_path: Path) -> None:
    truth = written(tmp_path / "truth")
    youtube_vos_pngs.write(tmp_path / "results" / below, [truth])
    read = youtube_vos_pngs.read_results(tmp_path / "results", {"a": truth})["a"]
    assert {(r.frame, r.id) for r in read.rows} == {(r.frame, r.id) for r in truth.rows}


def entry(meta: Any, *keys: str, value: object) -> None:
    *parents, last = keys
    for key in parents:
        meta = meta[key]
    meta[last] = value


OBJECT = ("videos", "a", "objects", "4")


@pytest.mark.parametrize(
    ("keys", "value", "reason"),
    [
        (("videos",), [], "videos is a list, expected an object"),
        (("videos", "a"), 3, "video a: it is a whole number, expected an object"),
        (("videos", "b"), {"objects": {}}, "Annotations: no video b"),
        (("videos", "a", "objects"), {}, "video a: object 1, which 00000.png shows, is missing"),
        (("videos", "a", "objects", "x"), {"category": "cat", "frames": []}, "object x: invalid"),
        (OBJECT, None, "object 4: it is null, expected an object"),
        ((*OBJECT, "category"), 7, "object 4: category is a whole number, expected text"),
        ((*OBJECT, "frames"), "00005", "object 4: frames is text, expected a list"),
        ((*OBJECT, "frames"), [["00005"]], "object 4: unhashable"),
        (
            (*OBJECT, "frames"),
            ["00005", "00015", "00020"],
            "object 4: there is no label image of frame 00015 .of 2 .*are not public",
        ),
    ],
)
def test_refused(keys: tuple[str, ...], value: object, reason: str, tmp_path: Path) -> None:
    written(tmp_path)
    file = tmp_path / "meta.json"
    meta = json.loads(file.read_text())
    entry(meta, *keys, value=value)
    file.write_text(json.dumps(meta))
    with pytest.raises(EvaluationError, match=reason):
        youtube_vos_pngs.read_truth(tmp_path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "meta.json: not readable: No such file"),
        (b"{", "not readable as JSON"),
        (b"[]", "list"),
    ],
)
def test_no_list_of_objects(content: bytes | None, reason: str, tmp_path: Path) -> None:
    written(tmp_path)
    file = tmp_path / "meta.json"
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(EvaluationError, match=reason):
        youtube_vos_pngs.read_truth(tmp_path)


def test_a_video_that_the_list_does_not_have(tmp_path: Path) -> None:
    written(tmp_path)
    (tmp_path / "Annotations" / "a").rename(tmp_path / "Annotations" / "b")
    with pytest.raises(EvaluationError, match="Annotations: no video a"):
        youtube_vos_pngs.read_truth(tmp_path)


def test_categories() -> None:
    assert len(youtube_vos_pngs.SEEN) == 65
