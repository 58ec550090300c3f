"""YouTube-VIS ground truth: what is wrong is refused and named, in training as in evaluation."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from dataset_damage import VIS
from dataset_files import CASES, DRIVING_CLASSES

from stemseg_ros.datasets.mix import FORMATS as DATASETS
from stemseg_ros.datasets.sequence import DataError
from stemseg_ros.formats import FORMATS
from stemseg_ros.formats.sequence_masks import EvaluationError

Content = dict[str, Any]


def track(**values: Any) -> Callable[[Content], None]:
    """Other values in annotations[1]."""
    return lambda content: content["annotations"][1].update(values)


def second(key: str, **values: Any) -> Callable[[Content], None]:
    """The first entry of a list once more at its end, with other values."""
    return lambda content: content[key].append({**content[key][0], **values})


BAD: list[tuple[Callable[[Content], Any], str]] = [
    (track(video_id=99), r"annotations\[1\]: video_id 99 is none of the videos"),
    (track(video_id="700"), r"annotations\[1\]: video_id is text, expected a whole number"),
    (track(video_id=700.0), r"annotations\[1\]: video_id is a fraction"),
    (track(video_id=None), r"annotations\[1\]: video_id is null"),
    (track(id="90002"), r"annotations\[1\]: id is text"),
    (track(id=True), r"annotations\[1\]: id is true"),
    (track(id=90001), r"annotations\[1\]: a second annotation with the id 90001"),
    (track(category_id="1"), r"annotations\[1\]: category_id is text"),
    (track(category_id=[1]), r"annotations\[1\]: category_id is a list"),
    (track(category_id=5), r"annotations\[1\]: category_id 5 is unknown"),
    (track(iscrowd="0"), r"annotations\[1\]: iscrowd is '0', expected 0 or 1"),
    (track(segmentations={"0": None}), r"annotations\[1\]: segmentations is an object"),
    (track(segmentations="abc"), r"annotations\[1\]: segmentations is text"),
    (track(segmentations=[0, None, None]), r"annotations\[1\]: frame 0: a mask is a whole number"),
    (track(segmentations=[[[1, 2]], None, None]), r"annotations\[1\]: frame 0: a mask is a list"),
    (lambda c: c["annotations"][1].pop("video_id"), r"annotations\[1\]: 'video_id' is missing"),
    (lambda c: c["annotations"][1].pop("id"), r"annotations\[1\]: 'id' is missing"),
    (lambda c: c["annotations"].insert(1, None), r"annotations\[1\]: is null, expected an object"),
    (lambda c: c.update(annotations={"0": c["annotations"][0]}), "annotations is an object"),
    (lambda c: c.update(annotations="none"), "annotations is text, expected a list"),
    (lambda c: c.update(videos=None), "videos is null, expected a list"),
    (lambda c: c.pop("categories"), "no list of categories"),
    (second("videos", file_names=["c/0.jpg"]), r"videos\[2\]: a second video with the id 700"),
    (second("videos", id=702), r"videos\[2\]: a second video in the folder a1"),
    (second("videos", id=702, height=0), r"videos\[2\]: an image of 32x0 pixels"),
    (second("videos", id=702, height=1 << 40), r"videos\[2\]: an image of"),
    (second("videos", id=702, file_names="a1"), r"videos\[2\]: file_names is text"),
    (second("videos", id=702, file_names=[7]), r"videos\[2\]: file_names are not all text"),
    (second("categories"), r"categories\[2\]: a second category with the id 1"),
    (second("categories", id="7"), r"categories\[2\]: id is text"),
    (second("categories", id=7, name=None), r"categories\[2\]: name is null"),
]


@pytest.mark.parametrize(("edit", "words"), BAD)
def test_training_and_evaluation_refuse_the_same(
    edit: Callable[[Content], Any], words: str, tmp_path: Path
) -> None:
    CASES["youtube_vis"].write(tmp_path)
    content = json.loads((tmp_path / VIS).read_text())
    edit(content)
    (tmp_path / VIS).write_text(json.dumps(content))
    with pytest.raises(EvaluationError, match=words):
        FORMATS["youtube_vis"].read_truth(tmp_path / VIS)
    with pytest.raises(DataError, match=words):
        DATASETS["youtube_vis"](tmp_path, "train", DRIVING_CLASSES, "entry")


def test_both_read_the_same_masks(tmp_path: Path) -> None:
    CASES["youtube_vis"].write(tmp_path)
    truths = FORMATS["youtube_vis"].read_truth(tmp_path / VIS)
    (trained,) = DATASETS["youtube_vis"](tmp_path, "train", DRIVING_CLASSES, "entry")
    assert list(truths) == ["a1", "b2"]
    assert trained.name == "a1"
    assert len(trained) == truths["a1"].frames == 3
    assert truths["a1"].crowd == {90003}
    frames = {id_: [row.frame for row in rows] for id_, rows in truths["a1"].by_track().items()}
    assert frames == {90001: [0, 2], 90002: [0, 1, 2], 90003: [0, 1, 2]}


@pytest.mark.parametrize("annotations", [None, []])
def test_videos_without_annotations_can_be_evaluated_but_not_trained_on(
    annotations: Any, tmp_path: Path
) -> None:
    CASES["youtube_vis"].write(tmp_path)
    content = json.loads((tmp_path / VIS).read_text())
    (tmp_path / VIS).write_text(json.dumps({**content, "annotations": annotations}))
    truths = FORMATS["youtube_vis"].read_truth(tmp_path / VIS)
    assert [truth.rows for truth in truths.values()] == [(), ()]
    with pytest.raises(DataError):
        DATASETS["youtube_vis"](tmp_path, "train", DRIVING_CLASSES, "entry")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"video_id": "1"}, r"\[0\]: video_id is text"),
        ({"video_id": 5}, r"\[0\]: video_id 5 is not in the ground truth"),
        ({"score": "0.9"}, r"\[0\]: score '0.9' is no finite number"),
        ({"score": float("nan")}, r"\[0\]: score nan is no finite number"),
        ({"score": None}, r"\[0\]: score None is no finite number"),
        ({"segmentations": {}}, r"\[0\]: segmentations is an object"),
    ],
)
def test_bad_results_are_named(values: Content, words: str, tmp_path: Path) -> None:
    CASES["youtube_vis"].write(tmp_path)
    truths = FORMATS["youtube_vis"].read_truth(tmp_path / VIS)
    good = {"video_id": 700, "category_id": 6, "score": 1, "segmentations": [None] * 3}
    (tmp_path / "r.json").write_text(json.dumps([{**good, **values}]))
    with pytest.raises(EvaluationError, match=words):
        FORMATS["youtube_vis"].read_results(tmp_path / "r.json", truths)
