"""``tracking: own_tracks`` with real networks, with random and bundled weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from toy_trackers import SCORE

from stemseg_ros.bridging.settings import FollowerConfig
from stemseg_ros.bridging.tracker import BridgedTracker
from stemseg_ros.config import Config, load_config, update_config
from stemseg_ros.errors import PromptError
from stemseg_ros.execution.lockstep import run_steps
from stemseg_ros.masks import Bools, decode
from stemseg_ros.models.registry import model_package
from stemseg_ros.records import Frame, FrameResult, Image, Instance, Prompt
from stemseg_ros.stream import Model, open_model
from stemseg_ros.tracker import Latency, Step

HEIGHT, WIDTH = 128, 192
SMALL = {"input.min_dim": HEIGHT, "input.max_dim": WIDTH, "runtime.precision": "float32"}
FIND_ALL = """
base: lite
input: {min_dim: 128, max_dim: 192}
runtime: {engine: torch, precision: float32, threads: 1}
clustering:
  {min_heat: 0.0, foreground_probability: 0.0, leftover_probability: 0.001, max_instances: 3}
output: {min_area: 0, min_score: 0.0}
"""
"""Detector that reports objects even with random weights."""


def open_bridged(folder: Path, checkpoint: str) -> Model:
    file = folder / "detector.yaml"
    file.write_text(FIND_ALL)
    detector = {"bridging.detector": str(file), "bridging.checkpoint": "random"}
    config = load_config("hodor_lite", {"tracking": "own_tracks", **SMALL, **detector})
    return open_model(update_config(config, {"bridging.min_track_frames": 1}), checkpoint, "cpu")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return open_bridged(tmp_path_factory.mktemp("own"), "random")


def noise(index: int) -> Image:
    return np.random.default_rng(index).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def test_both_networks_work_on_one_stream(model: Model) -> None:
    stream, results, stages = model.stream(), list[FrameResult](), set[str]()
    for t in range(8):
        results += stream.push(Frame(noise(t), 1 + t, source=t))
        stages |= set(stream.timings)
    results += stream.flush()
    assert [(r.index, r.stamp_ns, r.source) for r in results] == [(t, 1 + t, t) for t in range(8)]
    assert {"detector.encode", "detector.decode", "encode", "describe", "decode"} <= stages
    assert {i.class_name for r in results for i in r.instances} <= {"car", "pedestrian"}
    for result in results:
        taken = sum((decode(i.rle).astype(int) for i in result.instances), np.zeros((1, 1)))
        assert np.max(taken) <= 1


def test_warm_up_reaches_both_networks(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    called: set[str] = set()
    run = model.engine.run

    def recorded(function: str, batch: list[tuple[object, ...]]) -> object:
        called.add(function)
        return run(function, batch)

    monkeypatch.setattr(model.engine, "run", recorded)
    assert model.warm_up((HEIGHT, WIDTH)) > 0
    assert called == {"detector.encode", "detector.decode", "encode", "describe", "decode"}


def test_prompts_are_refused_with_the_remedy(model: Model) -> None:
    stream = model.stream()
    prompt = Prompt(1, 1, Instance.from_mask(square(0), 1, 1, "object").rle)
    with pytest.raises(PromptError, match=r"follows no prompts; start it with tracking: prompts"):
        stream.push(Frame(noise(0), 1, (prompt,)))


@pytest.mark.parametrize(
    "change",
    [{"tracking": "prompts"}, {"bridging.detector": "lite"}, {"bridging.checkpoint": ""}],
)
def test_detector_is_fixed(model: Model, change: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"'detector.*' settings cannot change"):
        model.stream().update(update_config(model.config, change))


class BlinkingDetector:
    """Detector that reports the square except in some frames, and under a new id afterwards."""

    latency = Latency(0, 1, 1, 1)

    def __init__(self, blind: range) -> None:
        self._blind = blind
        self._index = -1

    def step(self, frame: Frame) -> Step:
        yield from ()
        self._index += 1
        track_id = 2 if self._index >= self._blind.stop else 1
        instance = Instance.from_mask(square(self._index), track_id, 1, "car", SCORE)
        instances = () if self._index in self._blind else (instance,)
        return [FrameResult(self._index, frame.stamp_ns, HEIGHT, WIDTH, 0, instances)]

    def finish(self) -> Step:
        yield from ()
        return []

    def update(self, config: Config) -> None:
        raise NotImplementedError  # no settings change in these tests


def square(index: int) -> Bools:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[40:88, 40 + 4 * index : 88 + 4 * index] = True
    return mask


def test_bundled_weights_bridge_a_moving_square() -> None:
    larger = {"input.min_dim": 5 * HEIGHT // 4, "input.max_dim": 5 * WIDTH // 4}
    config = load_config("hodor_lite", {"tracking": "own_tracks", **SMALL, **larger})
    assert isinstance(config, FollowerConfig)
    follower = open_model(config.alone, device="cpu")
    inner = model_package("hodor").Tracker(config, follower.engine.device)
    gap = range(5, 9)
    tracker = BridgedTracker(BlinkingDetector(gap), inner, config)
    street = np.random.default_rng(0).integers(90, 110, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    for t in range(11):
        image = street.copy()
        image[square(t)] = (30, 30, 220)
        (ran,) = run_steps(follower.engine, [tracker.step(Frame(image, t))])
        assert isinstance(ran.outcome, list), ran.outcome
        (instance,) = ran.outcome[0].instances
        mask = decode(instance.rle)
        iou = (mask & square(t)).sum() / (mask | square(t)).sum()
        assert instance.track_id == 1
        assert iou > (0.6 if t in gap else 0.99)
