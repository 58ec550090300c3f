"""Pseudo-labels: what several views of a recording agree on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from colour_engine import colour_model, scene

from stemseg_ros.config import load_config
from stemseg_ros.datasets.driving import load_driving
from stemseg_ros.datasets.sequence import IGNORE_LABEL
from stemseg_ros.errors import MediaError
from stemseg_ros.labelling.pseudo_labels import (
    View,
    WrittenClip,
    label_frames,
    scale_input,
    take_view,
    write_clip,
)
from stemseg_ros.models.stemseg.settings import load_settings
from stemseg_ros.records import FrameResult, Instance

HEIGHT, WIDTH = 20, 40
Object = tuple[int, int, int]
"""Track id, class id, first column; all are 10 x 10 pixels."""
NAMES = {1: "car", 2: "pedestrian"}


def view(model: str, *frames: Sequence[Object]) -> View:
    results = []
    for index, objects in enumerate(frames):
        items = []
        for track, class_id, left in objects:
            mask = np.zeros((HEIGHT, WIDTH), bool)
            mask[5:15, left : left + 10] = True
            items.append(Instance.from_mask(mask, track, class_id, NAMES[class_id]))
        results.append(FrameResult(index, 1 + index, HEIGHT, WIDTH, 1, tuple(items)))
    return View(model, results)


def row(views: Sequence[View], needed: int) -> list[list[int]]:
    """The labels of a row through the objects, at every tenth column, of each frame."""
    return [item.labels[10, ::10].tolist() for item in label_frames(views, needed)]


CAR, OTHER, PERSON = (3, 1, 0), (4, 1, 20), (5, 2, 20)
IGNORED = IGNORE_LABEL


@pytest.mark.parametrize(
    ("views", "needed", "expected"),
    [
        ([view("a", [CAR], [CAR], [CAR]), view("b", [CAR], [CAR], [CAR])], 2, [1001, 0, 0, 0]),
        ([view("a", [CAR], [CAR], [CAR]), view("b", [], [], [])], 1, [IGNORED, 0, 0, 0]),
        ([view("a", [CAR], [CAR], [CAR]), view("a", [], [], [])], 1, [1001, 0, 0, 0]),
        ([view("a", [CAR], [CAR], [CAR]), view("a", [], [], [])], 2, [IGNORED, 0, 0, 0]),
        ([view("a", *[[OTHER]] * 3), view("b", *[[PERSON]] * 3)], 2, [0, 0, IGNORED, 0]),
        (
            [view("a", *[[OTHER]] * 3), view("b", *[[OTHER]] * 3), view("a", *[[PERSON]] * 3)],
            2,
            [0, 0, IGNORED, 0],
        ),
        ([view("a", [CAR], [CAR], []), view("b", [CAR], [CAR], [])], 2, [IGNORED, 0, 0, 0]),
        ([view("a", [], [], [])] * 2, 1, [0, 0, 0, 0]),
        (
            [view("a", *[[OTHER, CAR]] * 3), view("b", *[[CAR, OTHER]] * 3)],
            2,
            [1002, 0, 1001, 0],
        ),
        ([view("a", *[[PERSON]] * 3), view("b", *[[PERSON]] * 3)], 2, [0, 0, 2001, 0]),
    ],
    ids=[
        "agreed",
        "one model does not show it",
        "one model alone, one view is enough",
        "too few views",
        "two classes",
        "a third view shows another class",
        "too few frames",
        "nothing",
        "two objects",
        "class 2",
    ],
)
def test_labels_of_the_first_frame(views: list[View], needed: int, expected: list[int]) -> None:
    assert row(views, needed)[0] == expected


def test_identity_lasts_where_tracks_of_the_views_change_in_turn() -> None:
    """One view loses the car after frame 3, the other after frame 6."""
    first = view("a", *[[(1, 1, 0)]] * 4, *[[(2, 1, 0)]] * 6)
    second = view("b", *[[(7, 1, 0)]] * 7, *[[(8, 1, 0)]] * 3)
    assert {labels[0] for labels in row([first, second], 2)} == {1001}


def test_ignored_classes() -> None:
    [item, *_] = label_frames([view("a", *[[CAR, PERSON]] * 3)], 1, ["pedestrian"])
    assert item.labels[10, ::10].tolist() == [1001, 0, IGNORED, 0]
    assert (item.kept, item.left_out) == (1, 1)


def test_tracks_that_one_view_swaps_stay_two_objects() -> None:
    left, right = (1, 1, 0), (2, 1, 20)
    first = view("a", *[[left, right]] * 12)
    second = view("b", *[[left, right]] * 6, *[[(1, 1, 20), (2, 1, 0)]] * 6)
    assert row([first, second], 2)[:6] == [[1001, 0, 1002, 0]] * 6


def test_pixels_that_half_of_the_views_show_are_ignored() -> None:
    views = [view("a", *[[CAR]] * 3), view("b", *[[(3, 1, 2)]] * 3)]
    labels = next(label_frames(views, 2)).labels[10]
    assert labels[:13].tolist() == [IGNORED] * 2 + [1001] * 8 + [IGNORED] * 2 + [0]


def test_too_many_objects_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stemseg_ros.labelling.pseudo_labels.LAST_NUMBER", 2)
    views = [view("a", *[[CAR, OTHER]] * 3)]
    with pytest.raises(MediaError, match="more than 1 objects of a class"):
        list(label_frames(views, 1))


def test_a_mirrored_view_has_the_coordinates_of_the_recording() -> None:
    config = load_settings("lite", {"input.min_dim": 64, "input.max_dim": 96})
    image = scene((64, 96), (1, 1, 20, 8, 30))
    stream = colour_model(config).stream()
    boxes = []
    for mirrored in (False, True):
        seen = take_view("colours", stream, [image] * 4, mirrored=mirrored)
        boxes.append([item.box for item in seen.results[0].instances])
    assert len(boxes[0]) == 1
    assert np.allclose(boxes[0], boxes[1], atol=4)


def test_scaled_input() -> None:
    config = load_config("lite")
    scaled = scale_input(config, 1.5)
    assert (scaled.input.min_dim, scaled.input.max_dim) == (816, 1872)
    assert config.input.min_dim == 544


def test_a_written_clip_is_one_of_the_driving_pack(tmp_path: Path) -> None:
    folder = tmp_path / "clips" / "0100"
    folder.mkdir(parents=True)
    items = list(label_frames([view("a", *[[CAR]] * 3)], 1))
    images = [np.zeros((HEIGHT, WIDTH, 3), np.uint8)] * 3
    assert write_clip(folder, images, items) == WrittenClip(3, 3, 0)
    [sequence] = load_driving(tmp_path, "train")
    assert (sequence.source, len(sequence)) == ("clips", 3)
    assert np.array_equal(sequence.labels.read(2), items[2].labels)
    with pytest.raises(MediaError, match="cannot write"):
        write_clip(tmp_path / "missing", images, items)


def test_numbers_are_those_of_the_pack_whatever_the_order_of_the_classes() -> None:
    """A model whose first class is the pedestrian."""
    views = [view("a", *[[CAR]] * 3)]
    results = [
        replace(r, instances=tuple(replace(i, class_name="pedestrian") for i in r.instances))
        for r in views[0].results
    ]
    assert row([View("a", results)], 1)[0] == [2001, 0, 0, 0]


def test_recordings_that_cannot_be_labelled() -> None:
    with pytest.raises(MediaError, match="2 frame"):
        list(label_frames([view("a", [CAR], [CAR])], 1))
    changed = view("a", *[[CAR]] * 3)
    results = [*changed.results[:2], replace(changed.results[2], height=50, instances=())]
    with pytest.raises(MediaError, match=r"several sizes \(40x20, 40x50\)"):
        list(label_frames([View("a", results)], 1))
