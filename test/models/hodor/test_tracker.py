"""Prompts in a stream: ids, refused prompts, prompts for earlier frames."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from stemseg_ros.config import load_config
from stemseg_ros.errors import PromptError
from stemseg_ros.masks import decode, encode
from stemseg_ros.records import Frame, FrameResult, Prompt
from stemseg_ros.stream import Model, Stream, open_model

HEIGHT, WIDTH = 64, 96


@pytest.fixture(scope="module")
def model() -> Model:
    small = {"input.min_dim": HEIGHT, "input.max_dim": WIDTH, "runtime.precision": "float32"}
    small |= {"propagation.presence": 0.0}  # to random weights nothing looks like what was given
    return open_model(load_config("hodor_lite", small), "random", "cpu")


@pytest.fixture
def stream(model: Model) -> Stream:
    return model.stream()


def make_frame(index: int, *prompts: Prompt, size: tuple[int, int] = (HEIGHT, WIDTH)) -> Frame:
    random = np.random.default_rng(7)
    background = random.integers(0, 256, (*size, 3), dtype=np.uint8)
    return Frame(np.roll(background, index, 1), (index + 1) * 100, prompts)


def make_prompt(
    track_id: int,
    left: int = 8,
    size: tuple[int, int] = (HEIGHT, WIDTH),
    width: int = 24,
    class_id: int = 1,
) -> Prompt:
    mask = np.zeros(size, bool)
    mask[16:48, left : left + width] = True
    return Prompt(track_id, class_id, encode(mask))


def test_results_have_the_ids_of_the_prompts(stream: Stream) -> None:
    (empty,) = stream.push(make_frame(0))
    assert empty.instances == ()
    (first,) = stream.push(make_frame(1, make_prompt(7), make_prompt(3, left=48)))
    assert [i.track_id for i in first.instances] == [3, 7]
    assert first.instances[1].rle == make_prompt(7).rle  # first_frame is corrected
    later = [stream.push(make_frame(t))[0] for t in range(2, 6)]
    for result in later:
        assert {i.track_id for i in result.instances} <= {3, 7}
        taken = sum(decode(i.rle).astype(int) for i in result.instances)
        assert np.max(taken) <= 1
    assert [r.index for r in later] == [2, 3, 4, 5]


@pytest.mark.parametrize(
    ("prompts", "reason"),
    [
        ([make_prompt(2, size=(32, 96))], "its mask is 96x32 pixels, the image is 96x64"),
        ([make_prompt(2), make_prompt(3, left=30)], "object 3: its mask overlaps .* 2"),
        ([make_prompt(2, width=0)], "object 2: its mask is empty"),
        ([make_prompt(0)], "ids must be at least 1"),
        ([make_prompt(1, left=48)], "object 1: the id is in use"),
        ([make_prompt(2), make_prompt(2, left=48)], "object 2: the id is in use"),
        ([make_prompt(2, class_id=2)], "class 2 does not exist"),
        ([make_prompt(n) for n in range(2, 302)], "300 new objects and 1 .* limit of 255"),
        (
            [replace(make_prompt(2), rle={"size": [HEIGHT, WIDTH], "counts": b"11"})],
            "object 2: its mask is damaged",
        ),
    ],
)
def test_refused_prompts_change_nothing(model: Model, prompts: list[Prompt], reason: str) -> None:
    given, undisturbed = model.stream(), model.stream()
    for stream in (given, undisturbed):
        stream.push(make_frame(0, make_prompt(1)))
    with pytest.raises(PromptError, match=reason):
        given.push(make_frame(1, *prompts))
    with pytest.raises(PromptError, match=reason):
        given.track(100, tuple(prompts))
    for t in (1, 2):
        assert given.push(make_frame(t)) == undisturbed.push(make_frame(t))


def test_models_without_prompts_refuse_them() -> None:
    small = {"input.min_dim": HEIGHT, "input.max_dim": WIDTH}
    stream = open_model(load_config("lite", small), "random", "cpu").stream()
    with pytest.raises(PromptError, match="'lite' follows no prompts"):
        stream.push(make_frame(0, make_prompt(1)))
    stream.push(make_frame(0))


def test_prompt_for_an_earlier_frame_equals_one_in_time(model: Model) -> None:
    in_time, late = model.stream(), model.stream()
    for t in range(5):
        prompts = (make_prompt(1),) if t == 0 else ()
        late.push(make_frame(t, *prompts))
        in_time.push(make_frame(t, *prompts, *((make_prompt(2, left=48),) if t == 2 else ())))
    late.track(300, (make_prompt(2, left=48),))
    for t in range(5, 8):
        assert late.push(make_frame(t)) == in_time.push(make_frame(t))


def test_first_object_may_be_given_late(model: Model) -> None:
    late = model.stream()
    for t in range(3):
        late.push(make_frame(t))
    late.track(200, (make_prompt(4),))
    in_time = model.stream()
    for t in range(3):
        in_time.push(make_frame(t, *((make_prompt(4),) if t == 1 else ())))
    assert late.push(make_frame(3)) == in_time.push(make_frame(3))


@pytest.mark.parametrize("stamp_ns", [100, 350, 99_999])
def test_unknown_frames_are_refused(stream: Stream, stamp_ns: int) -> None:
    for t in range(9):  # the window is 7: the frames of 300 ns to 900 ns are kept
        stream.push(make_frame(t))
    with pytest.raises(PromptError, match=f"stamp {stamp_ns} ns .* last 7 .* .300 to 900 ns"):
        stream.track(stamp_ns, (make_prompt(1),))
    stream.track(300, (make_prompt(1),))


def test_untracked_objects_are_gone_for_good(model: Model) -> None:
    both, alone = model.stream(), model.stream()
    both.push(make_frame(0, make_prompt(1), make_prompt(2, left=48)))
    both.push(make_frame(1))
    both.prompt_tracker.untrack([1])
    (result,) = both.push(make_frame(2))
    assert 1 not in {i.track_id for i in result.instances}
    both.track(200, (make_prompt(5, left=2, width=5),))  # replays frames in which 1 was followed
    (result,) = both.push(make_frame(3))
    assert 1 not in {i.track_id for i in result.instances}
    with pytest.raises(PromptError, match="object 1: the id is in use"):
        both.push(make_frame(4, make_prompt(1)))
    with pytest.raises(PromptError, match="object 9 is not followed"):
        both.prompt_tracker.untrack([2, 9])
    assert both.prompt_tracker.free_ids(3) == (3, 4, 6)
    both.prompt_tracker.untrack([2, 5])
    (empty,) = both.push(make_frame(4))
    assert empty.instances == ()
    assert alone.push(make_frame(0))[0].instances == ()


def test_another_image_size_starts_an_epoch_with_new_ids(stream: Stream) -> None:
    stream.push(make_frame(0, make_prompt(1)))
    size = (96, 64)
    mask = np.zeros(size, bool)
    mask[8:40, 8:40] = True
    (result,) = stream.push(make_frame(1, Prompt(1, 1, encode(mask)), size=size))
    assert (result.epoch, [i.track_id for i in result.instances]) == (1, [1])


def test_streams_side_by_side_equal_streams_alone(model: Model) -> None:
    together = [model.stream(), model.stream()]
    alone = model.stream()
    for t in range(3):
        prompts = (make_prompt(1),) if t == 0 else ()
        outcomes = model.push_all([(stream, make_frame(t, *prompts)) for stream in together])
        (expected,) = alone.push(make_frame(t, *prompts))
        for outcome in outcomes:
            assert isinstance(outcome, list)
            assert near(outcome[0], expected)


def near(one: FrameResult, other: FrameResult) -> bool:
    """Compare results up to the rounding of batched convolutions."""
    unequal = [
        decode(a.rle) != decode(b.rle) for a, b in zip(one.instances, other.instances, strict=True)
    ]
    return all(np.count_nonzero(pixels) <= 5 for pixels in unequal)
