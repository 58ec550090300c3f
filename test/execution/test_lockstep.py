"""Streams side by side have the results of each alone, and errors stay in their stream."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from colour_engine import ColourEngine, scene

from stemseg_ros.config import update_config
from stemseg_ros.execution.torch_engine import TorchEngine
from stemseg_ros.masks import decode
from stemseg_ros.models.stemseg import load_network
from stemseg_ros.models.stemseg.settings import Settings, load_settings
from stemseg_ros.records import Frame, FrameResult
from stemseg_ros.stream import Model, Stream

WINDOW = {"window.length": 4, "window.overlap": 2}
SIZE = (96, 128)
Images = list[np.ndarray]


def colour_model(mode: str = "near_online", engine: type[ColourEngine] = ColourEngine) -> Model:
    settings = {"input.min_dim": 96, "input.max_dim": 128, "window.mode": mode, **WINDOW}
    config = load_settings("lite", settings)
    return Model(config, engine(config))


def moving_objects(camera: int, frames: int, size: tuple[int, int] = SIZE) -> Images:
    """Draw the frames of a camera with ``camera`` objects, each with its own speed."""
    return [
        scene(
            size,
            *((n + 1, 1, 30 * n, (camera + 3 + n) * t % 100, 24) for n in range(camera)),
        )
        for t in range(frames)
    ]


def run_alone(stream: Stream, images: Images) -> list[FrameResult]:
    results = [r for i, image in enumerate(images) for r in stream.push(Frame(image, 1000 * i))]
    return results + stream.flush()


def run_together(model: Model, recordings: list[Images]) -> list[list[FrameResult]]:
    """Run recordings of different lengths side by side."""
    streams = [model.stream() for _ in recordings]
    results: list[list[FrameResult]] = [[] for _ in streams]
    for i in range(max(map(len, recordings))):
        active = [n for n, images in enumerate(recordings) if i < len(images)]
        turns = [(streams[n], Frame(recordings[n][i], 1000 * i)) for n in active]
        for n, outcome in zip(active, model.push_all(turns), strict=True):
            assert isinstance(outcome, list), outcome
            results[n] += outcome
    return [r + stream.flush() for r, stream in zip(results, streams, strict=True)]


@pytest.mark.parametrize("mode", ["near_online", "online", "offline"])
def test_each_stream_has_the_results_of_running_alone(mode: str) -> None:
    recordings = [moving_objects(1, 9), moving_objects(2, 12), moving_objects(3, 7)]
    got = run_together(colour_model(mode), recordings)
    for results, images in zip(got, recordings, strict=True):
        assert results == run_alone(colour_model(mode).stream(), images)


def test_frames_and_windows_that_are_ready_together_form_one_batch() -> None:
    model = colour_model()
    run_together(model, [moving_objects(1, 5), moving_objects(2, 4)])
    # Four frames of both streams, both windows at the fourth, then of the longer stream its fifth
    # frame and the window of the flush.
    assert model.engine.batches == [2, 2, 2, 2, 2, 1, 1]  # type: ignore[attr-defined]


def test_sizes_are_not_mixed_in_a_batch() -> None:
    model = colour_model()
    got = run_together(
        model, [moving_objects(1, 6), moving_objects(1, 6, (96, 96)), moving_objects(2, 6)]
    )
    assert [len(results) for results in got] == [6, 6, 6]
    assert set(model.engine.batches) == {1, 2}  # type: ignore[attr-defined]


def test_epochs_are_independent() -> None:
    model = colour_model()
    streams = [model.stream(), model.stream()]
    image, hour = moving_objects(1, 1)[0], 3600 * 10**9
    for stamps in [(hour, hour), (hour + 1, 5), (hour + 2, 15)]:
        turns = [(s, Frame(image, stamp)) for s, stamp in zip(streams, stamps, strict=True)]
        model.push_all(turns)
    assert [stream.epoch for stream in streams] == [0, 1]


@pytest.mark.parametrize("bad", [np.zeros((96, 128), np.uint8), np.zeros((96, 128, 3), np.int32)])
def test_a_bad_image_is_the_outcome_of_its_stream_alone(bad: Any) -> None:
    model = colour_model()
    stream, other_stream = model.stream(), model.stream()
    good = moving_objects(1, 6)
    results = []
    for i, image in enumerate(good):
        turns = [(stream, Frame(image, 1000 * i)), (other_stream, Frame(bad, 1000 * i))]
        outcome, other = model.push_all(turns)
        assert isinstance(other, ValueError)
        assert isinstance(outcome, list)
        results += outcome
    assert results + stream.flush() == run_alone(colour_model().stream(), good)


class PickyEngine(ColourEngine):
    """Engine that fails for batches, and for frames with a red corner."""

    def run(self, function: str, batch: Any) -> Any:
        if len(batch) > 1:
            raise torch.OutOfMemoryError("too many")
        mean, std = self.config.input.mean_bgr[2], self.config.input.std_bgr[2]
        if round(float(batch[0][0][2, 0, 0]) * std + mean) == 200:
            raise RuntimeError("red")
        return super().run(function, batch)


def test_a_batch_that_fails_is_computed_one_by_one() -> None:
    model = colour_model(engine=PickyEngine)
    red = scene(SIZE)
    red[0, 0, 2] = 200
    turns = [(model.stream(), Frame(moving_objects(1, 1)[0], 0)), (model.stream(), Frame(red, 0))]
    good, bad = model.push_all(turns)
    assert good == []
    assert isinstance(bad, RuntimeError)
    assert str(bad) == "red"


SMALL = {
    "input.min_dim": 96,
    "window.length": 2,
    "window.overlap": 1,
    "runtime.precision": "float32",
}


def engine(config: Settings, device: str = "cpu") -> TorchEngine:
    return TorchEngine(load_network(config, "random"), config.runtime, device)


@pytest.mark.parametrize(
    ("device", "tolerance"), [("cpu", 1e-4), pytest.param("cuda", 2e-3, marks=pytest.mark.gpu)]
)
def test_the_network_computes_the_same_in_batches(device: str, tolerance: float) -> None:
    torch_engine = engine(load_settings("lite", SMALL), device)
    generator = torch.Generator().manual_seed(0)
    images = [(torch.randn(3, 96, 160, generator=generator).to(device),) for _ in range(4)]
    single = [torch_engine.run("encode", [image])[0] for image in images]
    for one, other in zip(single, torch_engine.run("encode", images), strict=True):
        for a, b in zip(one, other, strict=True):
            torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)
    windows = [(*single[i], *single[i + 1]) for i in (0, 2)]
    for window, output in zip(windows, torch_engine.run("decode", windows), strict=True):
        for a, b in zip(torch_engine.run("decode", [window])[0], output, strict=True):
            torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def test_streams_through_the_network_agree_with_separate_runs() -> None:
    # With random weights, low thresholds are needed to find objects.
    low = {
        "clustering.min_heat": 0.0,
        "clustering.foreground_probability": 0.0,
        "clustering.leftover_probability": 0.001,
        "output.min_area": 0,
        "output.min_score": 0.0,
        "clustering.max_instances": 3,
    }
    config = update_config(load_settings("lite", SMALL), low)
    model = Model(config, engine(config))
    rng = np.random.default_rng(1)
    streams = [list(rng.integers(0, 256, (5, 96, 160, 3), dtype=np.uint8)) for _ in range(2)]
    for results, images in zip(run_together(model, streams), streams, strict=True):
        expected = run_alone(model.stream(), images)
        assert sum(len(result.instances) for result in results) > len(results)
        assert [r.stamp_ns for r in results] == [r.stamp_ns for r in expected]
        assert mean_iou(results, expected) > 0.99


def mean_iou(results: list[FrameResult], expected: list[FrameResult]) -> float:
    """Compute the mean IoU of masks with the same track id."""
    ious = []
    for one, other in zip(results, expected, strict=True):
        assert {i.track_id for i in one.instances} == {i.track_id for i in other.instances}
        masks = {i.track_id: decode(i.rle) for i in other.instances}
        for instance in one.instances:
            a, b = decode(instance.rle), masks[instance.track_id]
            ious.append((a & b).sum() / (a | b).sum())
    return float(np.mean(ious))
