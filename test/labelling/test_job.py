"""Labelling of a recording, with a stream whose results are known."""

from __future__ import annotations

import json
import weakref
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from colour_engine import colour_model

from stemseg_ros.config import load_config
from stemseg_ros.errors import MediaError, PromptError
from stemseg_ros.formats.kitti_lines import read_results
from stemseg_ros.labelling.job import Timings, percentiles, push_all, run_source, write_json
from stemseg_ros.masks import encode
from stemseg_ros.media.damage import Damage
from stemseg_ros.media.overlay import track_color
from stemseg_ros.media.sources import Video
from stemseg_ros.models.stemseg.settings import load_settings
from stemseg_ros.records import Frame, FrameResult, Instance, Prompt
from stemseg_ros.stream import Event, open_model

HEIGHT, WIDTH = 32, 64
Image = npt.NDArray[np.uint8]


def moving_car(index: int) -> Instance:
    """Build a mask of 10 x 10 pixels that moves one pixel to the right in each frame."""
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[20:30, index : index + 10] = True
    return Instance(3, 1, "car", 0.9, encode(mask), (index, 20, 10, 10))


class DelayedStream:
    """Stream that finds the moving car in every frame; results are returned four at a time, and a
    new epoch starts at frame 6."""

    config = SimpleNamespace(name="delayed")

    def __init__(self) -> None:
        self.pending: list[tuple[int, Frame]] = []
        self.count = 0
        self.bursts = 0
        self.timings: dict[str, float] = {}
        self.events: list[Event] = []

    def push(self, frame: Frame) -> list[FrameResult]:
        self.pending.append((self.count, frame))
        self.count += 1
        self.timings = {}
        return self.flush() if len(self.pending) == 4 else []

    def flush(self) -> list[FrameResult]:
        self.timings = {}
        if self.pending:
            self.bursts += 1
            self.timings = {"decode": float(10 * self.bursts)}
        results = [
            FrameResult(
                index,
                frame.stamp_ns,
                HEIGHT,
                WIDTH,
                int(index >= 6),
                (moving_car(index),),
                frame.source,
            )
            for index, frame in self.pending
        ]
        self.pending.clear()
        return results

    def reset(self) -> int:
        return 0


class Frames:
    """Black frames; records the largest number that are alive at once."""

    name, fps, size = "frames", 10.0, (HEIGHT, WIDTH)

    def __init__(self, count: int) -> None:
        self.frames = count
        self.damage = Damage()
        self.alive = weakref.WeakSet[Any]()
        self.most_alive = 0

    def __iter__(self) -> Iterator[tuple[int, Image]]:
        for index in range(self.frames):
            image = np.zeros((HEIGHT, WIDTH, 3), np.uint8).view(Hashable)
            self.alive.add(image)
            self.most_alive = max(self.most_alive, len(self.alive))
            yield index * 100_000_000, image
            del image


class Hashable(np.ndarray):
    """An array that can be an element of a set."""

    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other


def run(count: int, out: Path) -> tuple[Any, Frames]:
    frames = Frames(count)
    out.mkdir(parents=True, exist_ok=True)
    done: list[int] = []
    summary = run_source(
        frames,
        DelayedStream(),
        out,
        checkpoint="none",
        device="cpu",  # type: ignore[arg-type]
        progress=done.append,
    )
    assert done[-1] == count and done == sorted(done)
    return summary, frames


def test_text_contains_every_mask_and_separates_epochs(tmp_path: Path) -> None:
    run(10, tmp_path / "new" / "folder")
    rows = read_results(tmp_path / "new" / "folder" / "instances.txt")
    assert [(row.frame, row.id) for row in rows] == [(i, 1001) for i in range(6, 10)] + [
        (i, 1002) for i in range(6)
    ]
    assert all(row.rle == moving_car(row.frame).rle for row in rows)


def test_overlay_shows_each_mask_on_its_own_frame(tmp_path: Path) -> None:
    run(6, tmp_path)
    images = [image for _, image in Video(tmp_path / "overlay.mp4")]
    assert len(images) == 6
    tinted = 0.45 * np.array(track_color(3))
    for index, image in enumerate(images):
        inside = image[23:27, index + 3 : index + 7].reshape(-1, 3).mean(axis=0)
        assert np.abs(inside - tinted).max() < 25
        assert image[23:27, index + 16 :].max() < 25


def test_summary(tmp_path: Path) -> None:
    summary, _ = run(10, tmp_path)
    content = json.loads((tmp_path / "summary.json").read_text())
    assert content["frames"] == 10 and content["tracks"] == 2 and content["epochs"] == 2
    assert (
        content["config"] == "delayed"
        and content["checkpoint"] == "none"
        and content["device"] == "cpu"
    )
    assert content["stage_ms"] == {"decode": 20.0}, (
        "median of 10, 20 and 30: one value for each call"
    )
    assert content["dropped"] == {}
    assert content["fps"] == summary.fps > 0 and content["pipeline_fps"] >= content["fps"]
    assert content["latency_ms"]["p99"] >= content["latency_ms"]["median"] > 0
    assert set(content["versions"]) == {"stemseg", "torch", "numpy", "python"}
    assert content["track_list"][0] == {
        "id": 1001,
        "track_id": 3,
        "epoch": 1,
        "class_id": 1,
        "frames": 4,
        "first": 6,
        "last": 9,
    }


def test_images_are_kept_only_until_their_result(tmp_path: Path) -> None:
    _, frames = run(40, tmp_path)
    assert frames.most_alive <= 6, "four pending, one drawn, one new"


def test_a_source_without_frames_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="frames: no frames"):
        run(0, tmp_path)


@pytest.mark.parametrize(
    "values, expected",
    [
        ([5.0], {"median": 5.0, "p99": 5.0}),
        ([1.0, 2.0, 30.0], {"median": 2.0, "p99": 29.44}),
    ],
)
def test_percentiles(values: list[float], expected: dict[str, float]) -> None:
    assert percentiles(values) == expected


class Stamped:
    """Grey frames with given stamps in seconds."""

    name, fps, size = "stamped", 1.0, (HEIGHT, WIDTH)

    def __init__(self, stamps: list[float]) -> None:
        self.frames, self.damage, self._stamps = len(stamps), Damage(), stamps

    def __enter__(self) -> Stamped:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __iter__(self) -> Iterator[tuple[int, Image]]:
        for stamp in self._stamps:
            yield round(stamp * 1e9), np.full((HEIGHT, WIDTH, 3), 128, np.uint8)


def test_frames_dropped_because_of_their_stamps_are_counted(tmp_path: Path) -> None:
    config = load_settings("lite", {"input.min_dim": 32, "input.max_dim": 64})
    source = Stamped([50, 51, 51, 0, 52, 53, 54, 52.5])
    stream = colour_model(config).stream()
    summary = run_source(source, stream, tmp_path, checkpoint="none", device="cpu")
    assert (summary.frames, summary.epochs) == (5, 1)
    assert summary.dropped == {"duplicate": 1, "out_of_order": 2}


SMALL_HODOR = {"input.min_dim": 32, "input.max_dim": 64}


def given(track_id: int, index: int = 0) -> tuple[Prompt, ...]:
    return (Prompt(track_id, 1, moving_car(index).rle),)


@pytest.mark.parametrize("stamps", [[50, 50, 51, 52], [50, 9, 51, 52], [50, 9, 90, 51]])
def test_prompts_of_a_dropped_frame_are_given_in_the_next(stamps: list[float]) -> None:
    stream = open_model(load_config("hodor_lite", SMALL_HODOR), "random", "cpu").stream()
    events: list[Event] = []
    prompts = {1: given(7)}
    source = Stamped(stamps)
    list(push_all(source, stream, Timings(), prompts=prompts, on_event=events.append))
    assert [event.prompts for event in events if event.prompts] == [prompts[1]]
    assert stream.prompt_tracker.followed == (7,)


@pytest.mark.parametrize("end", ["the stamps jump", "restart"])
def test_held_frames_that_give_one_id_twice_are_processed_and_the_second_is_reported(
    end: str,
) -> None:
    stream = open_model(load_config("hodor_lite", SMALL_HODOR), "random", "cpu").stream()
    image = np.full((HEIGHT, WIDTH, 3), 128, np.uint8)
    stamps = [50.0, 49.5, 49.6]  # two late ones are held, a third shows a jump
    results = []
    for n, stamp in enumerate(stamps):
        prompts = given(7, index=30 * (n - 1)) if n else ()
        results += stream.push(Frame(image, round(stamp * 1e9), prompts))
    if end == "restart":
        results += stream.restart("the clock jumped")
    else:
        results += stream.push(Frame(image, round(49.7 * 1e9), given(8, index=40)))
    assert len(results) == len(stamps) + (end != "restart") and not stream.pending
    epoch, refused = stream.events
    assert (epoch.kind, refused.kind, refused.prompts) == ("epoch", "prompts", ())
    assert "object 7: the id is in use" in refused.text
    assert stream.prompt_tracker.followed == ((7,) if end == "restart" else (7, 8))
    assert stream.push(Frame(image, round(49.8 * 1e9)))


@pytest.mark.parametrize("own", [given(7, 20), given(8)], ids=["one id", "overlapping masks"])
def test_late_prompts_yield_to_those_of_the_frame(own: tuple[Prompt, ...]) -> None:
    stream = open_model(load_config("hodor_lite", SMALL_HODOR), "random", "cpu").stream()
    events: list[Event] = []
    prompts = {1: given(7), 2: own}
    source = Stamped([50, 50, 51, 52])
    list(push_all(source, stream, Timings(), prompts=prompts, on_event=events.append))
    assert [event.kind for event in events] == ["duplicate", "prompts"]
    assert events[1].text.startswith("a prompt came too late and is not followed: object 7: ")
    assert stream.prompt_tracker.followed == (own[0].track_id,)


@pytest.mark.parametrize(
    "stamps",
    [[50, 51, 51], [50, 51, 9], [50, 51]],
    ids=["of a repeated frame", "of a held frame", "of an unreadable frame"],
)
def test_prompts_at_the_end_that_no_frame_is_left_for_are_reported(stamps: list[float]) -> None:
    stream = open_model(load_config("hodor_lite", SMALL_HODOR), "random", "cpu").stream()
    events: list[Event] = []
    prompts = {0: given(7), 2: given(8, 20)}
    list(push_all(Stamped(stamps), stream, Timings(), prompts=prompts, on_event=events.append))
    assert events[-1] == Event("prompts", "no frame is left for the prompts of objects 8")
    assert [event.kind for event in events].count("prompts") == 1


def test_a_wrong_prompt_of_a_frame_itself_is_an_error() -> None:
    stream = open_model(load_config("hodor_lite", SMALL_HODOR), "random", "cpu").stream()
    prompts = {0: given(7), 1: given(7, 20)}
    with pytest.raises(PromptError, match="object 7: the id is in use"):
        list(push_all(Stamped([50, 51]), stream, Timings(), prompts=prompts))


def test_nan_and_infinities_become_null(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"a": [1.5, float("nan"), (float("inf"), 2)], "b": "nan"})
    text = (tmp_path / "x.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail) == {
        "a": [1.5, None, [None, 2]],
        "b": "nan",
    }
