"""Streams that share a network give what they give alone, and fail alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from colour_network import ColourNetwork, scene
from stemseg_ros.models.stemseg.pipeline import Pipeline

from stemseg_ros.config import load_config, update_config
from stemseg_ros.execution.lockstep import push_together
from stemseg_ros.masks import decode
from stemseg_ros.models.stemseg import load_network
from stemseg_ros.records import FrameResult

WINDOW = {"window.length": 4, "window.overlap": 2}
SIZE = (96, 128)
Images = list[np.ndarray]


def colour_pipelines(number: int, mode: str = "near_online") -> list[Pipeline]:
    settings = {"input.min_dim": 96, "input.max_dim": 128, "window.mode": mode, **WINDOW}
    config = load_config("lite", settings)
    first = Pipeline(config, network=ColourNetwork(config))  # type: ignore[arg-type]
    return [first, *(first.sibling() for _ in range(number - 1))]


def movers(camera: int, frames: int, size: tuple[int, int] = SIZE) -> Images:
    """Frames of a camera: as many objects as its number, from 1, each with a speed of its own."""
    return [
        scene(
            size,
            *((n + 1, 1, 30 * n, (camera + 3 + n) * t % 100, 24) for n in range(camera)),
        )
        for t in range(frames)
    ]


def alone(pipeline: Pipeline, images: Images) -> list[FrameResult]:
    results = [r for i, image in enumerate(images) for r in pipeline.push(image, 1000 * i)]
    return results + pipeline.flush()


def together(pipelines: list[Pipeline], streams: list[Images]) -> list[list[FrameResult]]:
    """Streams of unequal length side by side, as long as each lasts."""
    results: list[list[FrameResult]] = [[] for _ in pipelines]
    for i in range(max(map(len, streams))):
        going = [n for n, images in enumerate(streams) if i < len(images)]
        frames = [(streams[n][i], 1000 * i) for n in going]
        outcomes = push_together([pipelines[n] for n in going], frames)
        for n, outcome in zip(going, outcomes, strict=True):
            assert isinstance(outcome, list), outcome
            results[n] += outcome
    return [got + p.flush() for got, p in zip(results, pipelines, strict=True)]


@pytest.mark.parametrize("mode", ["near_online", "online", "offline"])
def test_each_stream_gives_what_it_gives_alone(mode: str) -> None:
    streams = [movers(1, 9), movers(2, 12), movers(3, 7)]
    got = together(colour_pipelines(3, mode), streams)
    for results, images in zip(got, streams, strict=True):
        assert results == alone(colour_pipelines(1, mode)[0], images)


def test_frames_and_windows_that_are_ready_together_are_one_batch() -> None:
    pipelines = colour_pipelines(2)
    together(pipelines, [movers(1, 5), movers(2, 4)])
    # Backbone of four frames, both windows at the fourth, then the longer stream alone.
    assert pipelines[0].network.batches == [2, 2, 2, 2, 2]  # type: ignore[attr-defined]


def test_sizes_do_not_mix() -> None:
    pipelines = colour_pipelines(3)
    streams = [movers(1, 6), movers(1, 6, (96, 96)), movers(2, 6)]
    got = together(pipelines, streams)
    assert [len(results) for results in got] == [6, 6, 6]
    assert set(pipelines[0].network.batches) == {1, 2}  # type: ignore[attr-defined]


def test_epochs_are_apart() -> None:
    pipelines = colour_pipelines(2)
    images = movers(1, 3)
    for stamps in [(10, 10), (20, 5), (30, 15)]:
        push_together(pipelines, [(images[0], stamp) for stamp in stamps])
    assert [pipeline.epoch for pipeline in pipelines] == [0, 1]


@pytest.mark.parametrize("bad", [np.zeros((96, 128), np.uint8), np.zeros((96, 128, 3), np.int32)])
def test_a_bad_image_is_the_outcome_of_its_stream_alone(bad: Any) -> None:
    pipelines = colour_pipelines(2)
    good = movers(1, 6)
    results = []
    for i, image in enumerate(good):
        outcome, other = push_together(pipelines, [(image, 1000 * i), (bad, 1000 * i)])
        assert isinstance(other, ValueError)
        assert isinstance(outcome, list)
        results += outcome
    assert results + pipelines[0].flush() == alone(colour_pipelines(1)[0], good)


class Picky(ColourNetwork):
    """Refuses batches, and frames with a red corner."""

    def features_of(self, images: Any) -> Any:
        if len(images) > 1:
            raise torch.OutOfMemoryError("too many")
        if images[0][0, 0, 2] == 200:
            raise RuntimeError("red")
        return super().features_of(images)


def test_a_batch_that_fails_is_computed_one_by_one() -> None:
    pipelines = colour_pipelines(2)
    for pipeline in pipelines:
        pipeline.network = picky = Picky(pipeline.config)  # type: ignore[assignment]
    pipelines[1].network = picky  # type: ignore[assignment]
    pipelines[0].network = picky  # type: ignore[assignment]
    red = scene(SIZE)
    red[0, 0, 2] = 200
    good, bad = push_together(pipelines, [(movers(1, 1)[0], 0), (red, 0)])
    assert good == []
    assert isinstance(bad, RuntimeError)
    assert str(bad) == "red"


@pytest.fixture(scope="module")
def network() -> Any:
    settings = {"input.min_dim": 96, "window.length": 2, "window.overlap": 1}
    return load_network(
        load_config("lite", {**settings, "runtime.precision": "float32"}), "random"
    )


def test_the_network_gives_the_same_in_batches(network: Any) -> None:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (96, 160, 3), dtype=np.uint8) for _ in range(6)]
    single = [network.frame_features(image) for image in images]
    batched = network.features_of(images)
    for one, other in zip(single, batched, strict=True):
        for a, b in zip(one.maps, other.maps, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    windows = [tuple(single[i : i + 2]) for i in (0, 2, 4)]
    for window, output in zip(windows, network.outputs_of(windows), strict=True):
        expected = network.window_output(window)
        for name in ("embeddings", "bandwidths", "heatmap", "semantic_logits"):
            torch.testing.assert_close(
                getattr(output, name), getattr(expected, name), rtol=1e-4, atol=1e-4
            )


@pytest.mark.gpu
def test_a_gpu_gives_the_same_in_batches() -> None:
    settings = {"input.min_dim": 96, **WINDOW, "runtime.precision": "float32"}
    network = load_network(load_config("lite", settings), "random", "cuda")
    rng = np.random.default_rng(0)
    images = list(rng.integers(0, 256, (3, 96, 160, 3), dtype=np.uint8))
    for image, batched in zip(images, network.features_of(images), strict=True):
        for a, b in zip(network.frame_features(image).maps, batched.maps, strict=True):
            torch.testing.assert_close(a, b, rtol=2e-3, atol=2e-3)


def test_pipelines_on_the_network_agree_with_separate_runs(network: Any) -> None:
    # Untrained, it finds many an object where thresholds ask for next to nothing.
    low = {
        "clustering.min_heat": 0.0,
        "clustering.foreground_probability": 0.0,
        "clustering.leftover_probability": 0.001,
        "output.min_area": 0,
        "output.min_score": 0.0,
    }
    config = update_config(network.config, {**low, "clustering.max_instances": 3})
    rng = np.random.default_rng(1)
    streams = [list(rng.integers(0, 256, (5, 96, 160, 3), dtype=np.uint8)) for _ in range(2)]
    first = Pipeline(config, network=network)
    got = together([first, first.sibling()], streams)
    for results, images in zip(got, streams, strict=True):
        expected = alone(Pipeline(config, network=network), images)
        assert sum(len(result.instances) for result in results) > len(results)
        assert [r.stamp_ns for r in results] == [r.stamp_ns for r in expected]
        assert mean_iou(results, expected) > 0.99


def mean_iou(results: list[FrameResult], expected: list[FrameResult]) -> float:
    """Of the masks with the same track id."""
    ious = []
    for one, other in zip(results, expected, strict=True):
        assert {i.track_id for i in one.instances} == {i.track_id for i in other.instances}
        masks = {i.track_id: decode(i.rle) for i in other.instances}
        for instance in one.instances:
            a, b = decode(instance.rle), masks[instance.track_id]
            ious.append((a & b).sum() / (a | b).sum())
    return float(np.mean(ious))
