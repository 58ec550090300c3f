"""The tracker in streams: scripted detections with known results, and a random network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from stemseg_ros.config import load_config, update_config
from stemseg_ros.execution.engine import open_engine
from stemseg_ros.masks import decode
from stemseg_ros.models.stc.heads import location_grid
from stemseg_ros.models.stc.load import load_network
from stemseg_ros.models.stc.mask_head import PARAMETERS
from stemseg_ros.models.stc.settings import Settings
from stemseg_ros.records import Frame, FrameResult
from stemseg_ros.stream import Model, Stream

HEIGHT, WIDTH, STRIDE = 96, 160, 8
GREY = np.full((HEIGHT, WIDTH, 3), 128, np.uint8)
MIN_IOU = 0.65
"""IoU with the ground truth: CondInst's upsampling shifts masks by 2 pixels, which trained weights
compensate."""
APPEARANCE = 6.0
"""Norm of an embedding: dot products are 36 for the same object and 0 for others."""


@dataclass(frozen=True)
class Scripted:
    """A scripted detection whose mask fills its box; sides are multiples of 8 pixels."""

    identity: int
    """Axis of its embedding; if negative, the opposite direction."""
    left: int
    top: int = 16
    width: int = 32
    height: int = 32
    label: int = 0
    score: float = 0.9
    cell: tuple[int, int] = (0, 0)
    """Location, in cells from the centre of the box."""


class ScriptedEngine:
    """Engine that returns scripted detections, frame by frame."""

    device = torch.device("cpu")

    def __init__(self, config: Settings, script: Sequence[Sequence[Scripted]]) -> None:
        self._config, self._script = config, iter(script)
        self._grid = location_grid((HEIGHT, WIDTH))

    def run(self, function: str, batch: Sequence[tuple[Tensor, ...]]) -> list[tuple[Tensor, ...]]:
        assert function == "detect" and batch[0][0].shape == (3, HEIGHT, WIDTH)
        return [self._output(next(self._script)) for _ in batch]

    def _output(self, frame: Sequence[Scripted]) -> tuple[Tensor, ...]:
        grid, width = self._grid, WIDTH // STRIDE
        length, classes = len(grid.points), len(self._config.classes)
        dimensions = self._config.tracking.channels * self._config.tracking.enabled
        logits = torch.full((length, classes), -20.0)
        distances, centerness = torch.zeros(length, 4), torch.full((length,), 20.0)
        parameters = torch.zeros(length, PARAMETERS)
        embeddings = torch.zeros(length, dimensions)
        features = torch.zeros(8, HEIGHT // STRIDE, width)
        for channel, seen in enumerate(frame):
            column = (seen.left + seen.width // 2) // STRIDE + seen.cell[0]
            row = (seen.top + seen.height // 2) // STRIDE + seen.cell[1]
            where = row * width + column
            x, y = grid.points[where].tolist()
            right, bottom = seen.left + seen.width, seen.top + seen.height
            logits[where, seen.label] = math.log(seen.score / (1 - seen.score))
            sides = torch.tensor([x - seen.left, y - seen.top, right - x, bottom - y])
            distances[where] = sides / STRIDE
            features[channel, seen.top // 8 : bottom // 8, seen.left // 8 : right // 8] = 1
            # Unit 0 of both hidden layers passes the feature on; the logit is 20 times it minus
            # 10.
            parameters[where, 2 + channel] = parameters[where, 80] = 1.0
            parameters[where, 144], parameters[where, -1] = 20.0, -10.0
            if dimensions:
                sign = 1 if seen.identity > 0 else -1
                embeddings[where, abs(seen.identity)] = sign * APPEARANCE
        return logits, distances, centerness, parameters, embeddings, features


def make_stream(script: Sequence[Sequence[Scripted]], **overrides: Any) -> Stream:
    settings = {"input.min_dim": HEIGHT, "input.max_dim": WIDTH, "output.min_area": 1}
    settings |= {"output.min_score": 0.0, "tracking.channels": 16}
    settings |= {key.replace("__", "."): value for key, value in overrides.items()}
    config = load_config("stc_lite", settings)
    assert isinstance(config, Settings)
    return Model(config, ScriptedEngine(config, script)).stream()


def run(stream: Stream, frames: int, start: int = 0) -> list[FrameResult]:
    results = []
    for index in range(start, start + frames):
        (result,) = stream.push(Frame(GREY, 1000 * index))
        assert (result.index, result.stamp_ns, result.epoch) == (index, 1000 * index, 0)
        results.append(result)
    return results


def ids_of(results: Sequence[FrameResult]) -> list[list[int]]:
    return [[instance.track_id for instance in result.instances] for result in results]


def draw_mask(seen: Scripted) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[seen.top : seen.top + seen.height, seen.left : seen.left + seen.width] = True
    return mask


def iou(first: np.ndarray, second: np.ndarray) -> float:
    return float((first & second).sum() / (first | second).sum())


def test_every_frame_has_its_result_at_once_with_the_masks_classes_and_ids_of_the_scene() -> None:
    script = [
        [Scripted(1, 8 * t, label=0), Scripted(2, 120 - 8 * t, top=56, label=1, score=0.8)]
        for t in range(12)
    ]
    results = run(make_stream(script), 12)
    assert ids_of(results) == [[1, 2]] * 12
    for result, frame in zip(results, script, strict=True):
        for instance, seen in zip(result.instances, frame, strict=True):
            assert iou(decode(instance.rle), draw_mask(seen)) > MIN_IOU
            assert (instance.class_id, instance.score) == (
                seen.label + 1,
                pytest.approx(seen.score),
            )
    assert [i.class_name for i in results[0].instances] == ["car", "pedestrian"]


def test_masks_are_disjoint_and_the_better_score_takes_its_pixels_first() -> None:
    back, front = (
        Scripted(1, 16, width=64, score=0.6),
        Scripted(2, 56, top=24, width=64, score=0.9),
    )
    (result,) = run(make_stream([[back, front]]), 1)
    masks = {i.score: decode(i.rle) for i in result.instances}
    assert np.sum(list(masks.values()), axis=0).max() == 1
    whole, rest = (masks[score] for score in sorted(masks, reverse=True))
    assert iou(whole, draw_mask(front)) > MIN_IOU
    assert iou(rest, draw_mask(back) & ~draw_mask(front)) > MIN_IOU


@pytest.mark.parametrize(("gap", "again"), [(1, 1), (10, 1), (11, 2), (12, 2)])
def test_a_lost_object_is_found_again_by_its_appearance_in_another_position(
    gap: int, again: int
) -> None:
    """Up to max_age frames after it was last seen."""
    script = [[Scripted(1, 0)], *[[]] * (gap - 1), [Scripted(1, 120, top=56)]]
    results = run(make_stream(script, association__max_age=10), gap + 1)
    assert ids_of(results) == [[1], *[[]] * (gap - 1), [again]]


@pytest.mark.parametrize(("identity", "expected"), [(2, [1, 2]), (-1, [2, 3])])
def test_a_different_object_in_the_position_of_a_lost_one_has_a_new_id(
    identity: int, expected: list[int]
) -> None:
    """An orthogonal embedding is no evidence either way: the box decides."""
    script = [
        [Scripted(1, 0), Scripted(3, 80)],
        [Scripted(3, 80)],
        [Scripted(identity, 8), Scripted(3, 80)],
    ]
    assert ids_of(run(make_stream(script), 3)) == [[1, 2], [2], expected]


@pytest.mark.parametrize(("tracking", "expected"), [(True, [1, 2]), (False, [2, 1])])
def test_crossing_objects_keep_their_ids_by_appearance_not_by_boxes(
    tracking: bool, expected: list[int]
) -> None:
    """By boxes alone, each continues the track whose last box is nearer."""
    script = [[Scripted(1, 32), Scripted(2, 48)], [Scripted(1, 48), Scripted(2, 32)]]
    results = run(make_stream(script, tracking__enabled=tracking), 2)
    id_by_left = {instance.box[0]: instance.track_id for instance in results[1].instances}
    assert [id_by_left[left] for left in sorted(id_by_left, reverse=True)] == expected


@pytest.mark.parametrize(("label", "shift", "instances"), [(0, 16, 2), (1, 0, 1), (1, 8, 1)])
def test_duplicates_of_any_class_are_one_object(label: int, shift: int, instances: int) -> None:
    """Boxes of width 64 have an IoU of 0.6 when 16 apart and of 0.78 when 8 apart; duplicate_iou
    is 0.7."""
    script = [
        [
            Scripted(1, 16, width=64),
            Scripted(1, 16 + shift, width=64, label=label, score=0.7, cell=(1, 1)),
        ]
    ] * 3
    results = run(make_stream(script, condinst__suppression_iou=1.0), 3)
    assert ids_of(results) == [list(range(1, instances + 1))] * 3
    assert results[-1].instances[0].class_id == 1


def test_a_weak_detection_continues_a_track_but_starts_none() -> None:
    script = [
        [Scripted(1, 0), Scripted(2, 80, score=0.3)],
        [Scripted(1, 0, score=0.3), Scripted(2, 80, score=0.5)],
        [Scripted(1, 0, score=0.1), Scripted(2, 80, score=0.3)],
    ]
    assert ids_of(run(make_stream(script), 3)) == [[1], [1, 2], [2]]


def test_ids_are_numbered_as_they_are_reported() -> None:
    """The first track is too small to be reported before it has grown."""
    script = [
        [Scripted(1, 0, width=8, height=8), Scripted(2, 80)],
        [Scripted(1, 0), Scripted(2, 80)],
    ]
    results = run(make_stream(script, output__min_area=400), 2)
    assert ids_of(results) == [[1], [1, 2]]
    assert results[1].instances[1].box[0] < 16, "the first track was reported second"


def test_the_class_of_a_track_is_its_most_frequent_one() -> None:
    script = [[Scripted(1, 0, label=label)] for label in (1, 0, 0)]
    results = run(make_stream(script, association__class_gate=False), 3)
    assert ids_of(results) == [[1]] * 3
    assert [r.instances[0].class_name for r in results] == ["pedestrian", "pedestrian", "car"]


def test_reset_starts_an_epoch_and_settings_change_live() -> None:
    script = [[Scripted(1, 0, score=0.6)]] * 3
    stream = make_stream(script)
    assert ids_of(run(stream, 1)) == [[1]]
    stream.update(update_config(stream.config, {"association.min_score": 0.7}))
    assert ids_of(run(stream, 1, start=1)) == [[]]
    with pytest.raises(ValueError, match="tracking"):
        stream.update(update_config(stream.config, {"tracking.channels": 8}))
    stream.reset()
    (result,) = stream.push(Frame(GREY, 5000))
    assert (result.index, result.epoch) == (0, 1)


@pytest.fixture(scope="module")
def random_model() -> Model:
    """Random weights with many meaningless detections, each a diamond around its location."""
    settings = {
        "input.min_dim": 128,
        "input.max_dim": 192,
        "output.min_score": 0.0,
        "output.min_area": 1,
        "condinst.candidate_score": 0.0,
        "condinst.max_detections": 30,
        "association.min_score": 0.0,
        "association.new_score": 0.0,
        "runtime.precision": "float32",
    }
    config = load_config("stc_lite", settings)
    network = load_network(config, "random")
    network.bbox_head.conv_reg.weight.mul_(10)
    # Logits close to 4 - 16 (|x| + |y|): a diamond around the location.
    network.bbox_head.controller.weight.mul_(0.1)
    for index, value in {0: 1, 10: -1, 21: 1, 31: -1, 144: -16, 168: 4}.items():
        network.bbox_head.controller.bias[index] = value
    network.bbox_head.controller.bias[80:84] = 1
    network.tracking_head.output.weight.mul_(30)
    return Model(config, open_engine(network, config.runtime, torch.device("cpu")))


def noise(index: int, size: tuple[int, int] = (120, 190)) -> Frame:
    random = np.random.default_rng(3)
    return Frame(np.roll(random.integers(0, 256, (*size, 3), np.uint8), index, 1), 1000 * index)


def test_a_random_network_gives_disjoint_masks_and_reproducible_results(
    random_model: Model,
) -> None:
    first, again = random_model.stream(), random_model.stream()
    results = [first.push(noise(index))[0] for index in range(4)]
    assert [again.push(noise(index))[0] for index in range(4)] == results
    assert sum(len(result.instances) for result in results) > 8
    seen: set[int] = set()
    for result in results:
        ids = [instance.track_id for instance in result.instances]
        assert ids == sorted(set(ids))
        seen |= set(ids)
        if result.instances:
            masks = [decode(instance.rle) for instance in result.instances]
            assert masks[0].shape == (120, 190)
            assert np.sum(masks, axis=0).max() == 1
    assert seen == set(range(1, len(seen) + 1)), "without gaps"


def test_streams_side_by_side_have_the_results_of_each_alone(
    random_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One by one, because batched rounding moves scores of a random network across thresholds.
    run = random_model.engine.run

    def one_by_one(function: str, batch: Sequence[Any]) -> list[Any]:
        return [run(function, [item])[0] for item in batch]

    monkeypatch.setattr(random_model.engine, "run", one_by_one)
    alone = [random_model.stream() for _ in range(2)]
    together = [random_model.stream() for _ in range(2)]
    for index in range(3):
        frames = [noise(index), noise(7 * index + 2)]
        expected = [s.push(f)[0] for s, f in zip(alone, frames, strict=True)]
        outcomes = random_model.push_all(list(zip(together, frames, strict=True)))
        for outcome, result in zip(outcomes, expected, strict=True):
            assert isinstance(outcome, list)
            (found,) = outcome
            assert [i.track_id for i in found.instances] == [i.track_id for i in result.instances]


def test_a_new_image_size_starts_an_epoch(random_model: Model) -> None:
    stream = random_model.stream()
    stream.push(noise(0))
    (result,) = stream.push(replace(noise(1, (100, 150)), stamp_ns=2000))
    assert (result.epoch, result.height, result.width) == (1, 100, 150)
