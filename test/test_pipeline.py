"""The streaming pipeline on scenes whose truth is known, with a stand-in for the network."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from colour_network import SECOND_COLOUR, ColourNetwork, scene

from stemseg_ros.config import Config, load_config, update_config
from stemseg_ros.masks import decode
from stemseg_ros.pipeline import STAGES, Pipeline
from stemseg_ros.records import FrameResult

SIZE = (96, 128)


def make(**overrides: Any) -> tuple[Pipeline, ColourNetwork]:
    config = load_config(
        "lite",
        {
            "input.min_dim": 96,
            "input.max_dim": 128,
            "window.length": 4,
            "window.overlap": 2,
            **{key.replace("__", "."): value for key, value in overrides.items()},
        },
    )
    network = ColourNetwork(config)
    return Pipeline(config, network=network), network  # type: ignore[arg-type]


def run(pipeline: Pipeline, images: list[Any], flush: bool = True) -> list[FrameResult]:
    results = [
        result for i, image in enumerate(images) for result in pipeline.push(image, 1000 * i)
    ]
    return results + (pipeline.flush() if flush else [])


def two_movers(frames: int) -> list[Any]:
    return [scene(SIZE, (1, 1, 8, 4 * t, 24), (2, 2, 60, 100 - 4 * t, 20)) for t in range(frames)]


@pytest.mark.parametrize("mode", ["near_online", "online", "offline"])
@pytest.mark.parametrize("frames", [1, 3, 4, 5, 12])
def test_every_frame_comes_out_once_in_order_with_its_stamp(mode: str, frames: int) -> None:
    results = run(make(window__mode=mode)[0], two_movers(frames))
    assert [(r.index, r.stamp_ns) for r in results] == [(i, 1000 * i) for i in range(frames)]
    assert all((r.height, r.width, r.epoch) == (*SIZE, 0) for r in results)


@pytest.mark.parametrize("mode", ["near_online", "online", "offline"])
def test_masks_classes_and_ids_are_those_of_the_scene(mode: str) -> None:
    images = two_movers(12)
    results = run(make(window__mode=mode)[0], images)
    for result, image in zip(results, images, strict=True):
        kinds = {i.track_id: (i.class_id, i.class_name) for i in result.instances}
        assert kinds == {1: (1, "car"), 2: (2, "pedestrian")}
        for instance in result.instances:
            truth, mask = image[..., 0] == instance.track_id, decode(instance.rle)
            assert (truth & mask).sum() / (truth | mask).sum() > 0.9
            x, y, width, height = instance.box
            assert mask[y : y + height, x : x + width].sum() == mask.sum()
            assert 0.9 < instance.score <= 1


@pytest.mark.parametrize(
    ("mode", "counts"),
    [
        ("near_online", [0, 0, 0, 4, 0, 2, 0, 2]),
        ("online", [1] * 8),
        ("offline", [0, 0, 0, 0, 0, 0, 0, 1]),
    ],
)
def test_when_frames_come_out(mode: str, counts: list[int]) -> None:
    pipeline, _ = make(window__mode=mode)
    assert [len(pipeline.push(image, i)) for i, image in enumerate(two_movers(8))] == counts


@pytest.mark.parametrize(("mode", "windows"), [("near_online", 9), ("offline", 9), ("online", 20)])
def test_backbone_runs_once_per_frame(mode: str, windows: int) -> None:
    pipeline, network = make(window__mode=mode)
    run(pipeline, two_movers(20))
    assert (network.encoded, network.windows) == (20, windows)


def test_empty_scene_gives_empty_results() -> None:
    results = run(make()[0], [np.zeros((*SIZE, 3), np.uint8)] * 6)
    assert len(results) == 6 and not any(r.instances for r in results)


def test_object_in_the_second_half_only() -> None:
    black = np.zeros((*SIZE, 3), np.uint8)
    results = run(make()[0], [black] * 6 + two_movers(6))
    assert [len(r.instances) for r in results] == [0] * 6 + [2] * 6


def test_three_hundred_instances() -> None:
    image = np.zeros((240, 320, 3), np.uint8)
    for number in range(300):
        y, x = divmod(number, 20)
        group = SECOND_COLOUR * (number // 150)
        image[16 * y : 16 * y + 12, 16 * x : 16 * x + 12] = (number % 150 + 1, 1 + group, 255)
    results = run(
        make(input__min_dim=240, input__max_dim=320, output__min_area=100)[0], [image] * 4
    )
    assert all(len({i.track_id for i in r.instances}) == 300 for r in results)
    assert all(i.class_name == "car" for r in results for i in r.instances)


@pytest.mark.parametrize("change", ["stamp", "size"])
def test_backward_stamp_or_new_size_starts_a_new_epoch_and_loses_nothing(change: str) -> None:
    pipeline, _ = make()
    results = run(pipeline, two_movers(5), flush=False)
    image = (
        scene((96, 112), (7, 1, 8, 8, 24)) if change == "size" else scene(SIZE, (7, 1, 8, 8, 24))
    )
    stamp = 10**9 if change == "size" else 0
    results += pipeline.push(image, stamp)
    assert [(r.index, r.epoch) for r in results] == [(i, 0) for i in range(5)]
    last = pipeline.flush()
    assert [(r.index, r.epoch, r.stamp_ns, r.width) for r in last] == [
        (0, 1, stamp, image.shape[1])
    ]
    assert [i.track_id for i in last[0].instances] == [1]


def test_equal_stamps_do_not_start_a_new_epoch() -> None:
    pipeline, _ = make()
    for image in two_movers(4):
        pipeline.push(image, 5)
    assert pipeline.epoch == 0


def test_reset_drops_what_is_pending_and_starts_a_new_epoch() -> None:
    pipeline, _ = make()
    run(pipeline, two_movers(3), flush=False)
    pipeline.reset()
    assert pipeline.flush() == [] and pipeline.epoch == 1


def test_tracking_goes_on_after_a_flush() -> None:
    pipeline, _ = make()
    images = two_movers(12)
    results = [
        r
        for i, image in enumerate(images)
        for r in pipeline.push(image, i) + (pipeline.flush() if i in (0, 4, 8) else [])
    ] + pipeline.flush()
    assert [r.index for r in results] == list(range(12))
    assert all([i.track_id for i in r.instances] == [1, 2] for r in results)


def test_hidden_object_keeps_its_id() -> None:
    images = [scene(SIZE, (1, 1, 8, 40, 24)) if not 4 <= t < 9 else scene(SIZE) for t in range(14)]
    results = run(make()[0], images)
    assert {i.track_id for r in results for i in r.instances} == {1}
    lost = run(make(stitching__max_gap=3)[0], images)
    assert {i.track_id for r in lost for i in r.instances} == {1, 2}


@pytest.mark.parametrize(
    ("setting", "value", "counts"),
    [
        ("output.min_track_frames", 3, [0, 0, 2, 2, 2, 2]),
        ("output.min_area", 500, [1] * 6),
        ("output.min_score", 0.999, [0] * 6),
    ],
)
def test_output_settings(setting: str, value: float, counts: list[int]) -> None:
    assert [len(r.instances) for r in run(make(**{setting: value})[0], two_movers(6))] == counts


@pytest.mark.parametrize(("keep_score", "known"), [(0.5, 2), (0.999, 0), (1.0, 0)])
def test_tracks_that_came_out_are_kept_down_to_a_lower_score(
    keep_score: float, known: int
) -> None:
    """Scores are about 0.95 here, so a higher threshold leaves out whatever is new."""
    pipeline, _ = make(output__min_score=0.5, output__keep_score=keep_score)
    images = two_movers(12)
    third = [
        scene(
            SIZE,
            (1, 1, 8, 4 * t, 24),
            (2, 2, 60, 100 - 4 * t, 20),
            (1 + SECOND_COLOUR, 3, 8, 100, 20),
        )
        for t in range(12)
    ]
    assert {len(r.instances) for r in run(pipeline, images[:8])} == {2}
    pipeline.update(update_config(pipeline.config, {"output.min_score": 0.999}))
    later = [r for t in range(8, 12) for r in pipeline.push(third[t], 1000 * t)] + pipeline.flush()
    assert [len(r.instances) for r in later] == [known] * 4


def test_thresholds_change_in_a_running_pipeline_and_nothing_else_does() -> None:
    pipeline, _ = make()
    run(pipeline, two_movers(4), flush=False)
    pipeline.update(update_config(pipeline.config, {"output.min_area": 10**6}))
    assert [len(r.instances) for r in run(pipeline, two_movers(4))[-2:]] == [0, 0]
    with pytest.raises(ValueError, match="'window' settings cannot change"):
        pipeline.update(update_config(pipeline.config, {"window.length": 8}))


def test_stage_times_are_measured() -> None:
    pipeline, _ = make()
    run(pipeline, two_movers(6))
    assert set(pipeline.stage_ms) == set(STAGES) and all(
        ms > 0 for ms in pipeline.stage_ms.values()
    )


@pytest.mark.parametrize("mode", ["near_online", "online", "offline"])
def test_memory_does_not_grow_over_two_thousand_frames(mode: str) -> None:
    pipeline, _ = make(window__mode=mode)
    images = two_movers(20) + [np.zeros((*SIZE, 3), np.uint8)] * 30  # new tracks every 50 frames
    sizes = []
    for i in range(2000):
        pipeline.push(images[i % len(images)], i)
        if i % 400 == 399:  # everything a stream remembers: tensors, arrays, tracks
            sizes.append(len(pickle.dumps(pipeline._stream)))
    assert max(sizes) < sizes[0] + 1000, sizes  # one (h, w) grid alone is 3 kB


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((0, 128, 3), np.uint8),
        np.zeros((96, 128), np.uint8),
        np.zeros((96, 128, 4), np.uint8),
        np.zeros((96, 128, 3), np.float32),
        "not an image",
    ],
    ids=["empty", "grey", "alpha", "float", "string"],
)
def test_wrong_images_are_refused_and_the_stream_goes_on(image: Any) -> None:
    pipeline, _ = make()
    results = pipeline.push(two_movers(1)[0], 0)
    with pytest.raises(ValueError, match=r"expected a uint8 image \(H, W, 3\), BGR, got"):
        pipeline.push(image, 1)
    results += pipeline.push(two_movers(1)[0], 2) + pipeline.flush()
    assert [r.stamp_ns for r in results] == [0, 2]


def test_the_real_network_streams_what_it_predicts_at_once() -> None:
    config: Config = load_config(
        "lite", {"input.min_dim": 96, "input.max_dim": 128, "clustering.min_heat": 0.3}
    )
    pipeline = Pipeline(config, "random")
    frames = np.random.default_rng(0).integers(0, 255, (4, *SIZE, 3), np.uint8)
    streamed = pipeline.network.window_output(
        tuple(pipeline.network.frame_features(f) for f in frames)
    )
    np.testing.assert_array_equal(streamed.embeddings, pipeline.network.predict(frames).embeddings)
    assert len(run(pipeline, list(frames))) == 4
