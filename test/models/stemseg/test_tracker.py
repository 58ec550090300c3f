"""The tracker in a stream of scenes whose truth is known, with a fake engine."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from colour_engine import SECOND_COLOUR, ColourEngine, scene

from stemseg_ros.config import update_config
from stemseg_ros.masks import decode
from stemseg_ros.models.layers.preprocess import image_tensor
from stemseg_ros.models.stemseg import load_network
from stemseg_ros.models.stemseg.settings import load_settings
from stemseg_ros.models.stemseg.tensors import Features, Window
from stemseg_ros.records import Frame, FrameResult
from stemseg_ros.stream import Model, Stream, open_model

SIZE = (96, 128)


def make(**overrides: Any) -> tuple[Stream, ColourEngine]:
    config = load_settings(
        "lite",
        {
            "input.min_dim": 96,
            "input.max_dim": 128,
            "window.length": 4,
            "window.overlap": 2,
            "output.class_factors": {"pedestrian": 1.0},
            **{key.replace("__", "."): value for key, value in overrides.items()},
        },
    )
    engine = ColourEngine(config)
    return Model(config, engine).stream(), engine


def run(stream: Stream, images: list[Any], flush: bool = True) -> list[FrameResult]:
    results = [
        result for i, image in enumerate(images) for result in stream.push(Frame(image, 1000 * i))
    ]
    return results + (stream.flush() if flush else [])


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
    stream, _ = make(window__mode=mode)
    assert [len(stream.push(Frame(image, i))) for i, image in enumerate(two_movers(8))] == counts


@pytest.mark.parametrize(("mode", "windows"), [("near_online", 9), ("offline", 9), ("online", 20)])
def test_each_frame_is_encoded_once(mode: str, windows: int) -> None:
    stream, engine = make(window__mode=mode)
    run(stream, two_movers(20))
    assert (engine.encoded, engine.windows) == (20, windows)


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
def test_a_jump_back_or_a_new_size_starts_a_new_epoch_and_loses_nothing(change: str) -> None:
    stream, _ = make()
    later = 10**12
    results = [
        r for i, image in enumerate(two_movers(5)) for r in stream.push(Frame(image, later + i))
    ]
    size = (96, 112) if change == "size" else SIZE
    first = later + 5 if change == "size" else 1
    for stamp in (first, first + 1):
        results += stream.push(Frame(scene(size, (7, 1, 8, 8, 24)), stamp))
    assert [(r.index, r.epoch) for r in results] == [(i, 0) for i in range(5)]
    last = stream.flush()
    assert [(r.index, r.epoch, r.stamp_ns, r.width) for r in last] == [
        (i, 1, first + i, size[1]) for i in range(2)
    ]
    assert [i.track_id for i in last[0].instances] == [1]


def test_reset_drops_what_is_pending_and_starts_a_new_epoch() -> None:
    stream, _ = make()
    run(stream, two_movers(3), flush=False)
    stream.reset()
    assert stream.flush() == [] and stream.epoch == 1


def test_tracking_goes_on_after_a_flush() -> None:
    stream, _ = make()
    images = two_movers(12)
    results = [
        r
        for i, image in enumerate(images)
        for r in stream.push(Frame(image, i)) + (stream.flush() if i in (0, 4, 8) else [])
    ] + stream.flush()
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


@pytest.mark.parametrize(
    ("factors", "count"),
    [
        ({}, 2),
        ({"pedestrian": 1.2}, 1),
        ({"car": 1.2, "pedestrian": 1.2}, 0),
        ({"car": 0.9, "tram": 2.0}, 2),
    ],
)
def test_thresholds_of_classes(factors: dict[str, float], count: int) -> None:
    """Two objects, one of each class, with scores of about 0.95."""
    stream, _ = make(output__min_score=0.85, output__class_factors=factors)
    assert {len(result.instances) for result in run(stream, two_movers(6))} == {count}


@pytest.mark.parametrize(("keep_score", "known"), [(0.5, 2), (0.999, 0), (1.0, 0)])
def test_tracks_that_came_out_are_kept_down_to_a_lower_score(
    keep_score: float, known: int
) -> None:
    """Scores are about 0.95 here, so a higher threshold leaves out whatever is new."""
    stream, _ = make(output__min_score=0.5, output__keep_score=keep_score)
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
    assert {len(r.instances) for r in run(stream, images[:8])} == {2}
    stream.update(update_config(stream.config, {"output.min_score": 0.999}))
    later = [r for t in range(8, 12) for r in stream.push(Frame(third[t], 1000 * t))]
    assert [len(r.instances) for r in later + stream.flush()] == [known] * 4


def test_thresholds_change_in_a_running_stream_and_nothing_else_does() -> None:
    stream, _ = make()
    run(stream, two_movers(4), flush=False)
    stream.update(update_config(stream.config, {"output.min_area": 10**6}))
    images = two_movers(8)[4:]
    later = [r for t in range(4) for r in stream.push(Frame(images[t], 1000 * (4 + t)))]
    assert [len(r.instances) for r in (later + stream.flush())[-2:]] == [0, 0]
    with pytest.raises(ValueError, match="'window' settings cannot change"):
        stream.update(update_config(stream.config, {"window.length": 8}))


def test_times_of_calls_are_measured() -> None:
    stream, _ = make()
    run(stream, two_movers(4), flush=False)
    assert set(stream.timings) == {"encode", "decode", "track"}
    assert all(ms > 0 for ms in stream.timings.values())


@pytest.mark.parametrize("mode", ["near_online", "online", "offline"])
def test_memory_does_not_grow_over_two_thousand_frames(mode: str) -> None:
    stream, _ = make(window__mode=mode)
    images = two_movers(20) + [np.zeros((*SIZE, 3), np.uint8)] * 30  # new tracks every 50 frames
    sizes = []
    for i in range(2000):
        stream.push(Frame(images[i % len(images)], i))
        if i % 400 == 399:  # everything a stream remembers: tensors, arrays, tracks
            sizes.append(len(pickle.dumps(stream._tracker)))
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
    stream, _ = make()
    results = stream.push(Frame(two_movers(1)[0], 0))
    with pytest.raises(ValueError, match=r"expected a uint8 image \(H, W, 3\), BGR, got"):
        stream.push(Frame(image, 1))
    results += stream.push(Frame(two_movers(1)[0], 2)) + stream.flush()
    assert [r.stamp_ns for r in results] == [0, 2]


def test_the_real_network_streams_what_it_predicts_at_once() -> None:
    config = load_settings(
        "lite",
        {
            "input.min_dim": 96,
            "input.max_dim": 128,
            "clustering.min_heat": 0.3,
            "runtime.engine": "torch",
            "runtime.precision": "float32",
            "runtime.fuse": False,
        },
    )
    frames = np.random.default_rng(0).integers(0, 255, (4, *SIZE, 3), np.uint8)
    predicted = load_network(config, "random").predict(frames)
    model = open_model(config, "random", "cpu")
    inputs = [image_tensor(frame, config.input, model.engine.device) for frame in frames]
    features = tuple(Features(model.engine.run("encode", [(x,)])[0]) for x in inputs)
    window = Window(tuple(range(4)), features)
    (output,) = model.engine.run("decode", [window.maps()])
    np.testing.assert_allclose(output[0], predicted.embeddings, rtol=1e-4, atol=1e-4)
    assert len(run(model.stream(), list(frames))) == 4


def test_ids_are_numbered_in_the_order_of_publication() -> None:
    first = [scene(SIZE, (1, 1, 8, 8, 8)) for _ in range(4)]  # too small to be reported
    then = [scene(SIZE, (1, 1, 8, 8, 8), (2, 1, 50, 50, 30)) for _ in range(4)]
    results = run(make(output__min_area=300)[0], first + then)
    assert {i.track_id for r in results for i in r.instances} == {1}
