"""Times are divided by the frames they brought, and warm-up frames are left out."""

from __future__ import annotations

from itertools import islice
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from stemseg_ros.cli.bench import END_TO_END, Measurement, StageTime, bench, measure, moving_scene
from stemseg_ros.config import Config
from stemseg_ros.records import Frame, FrameResult


class SteadyStream:
    """Two frames a window; 100 ms for the first window, then 6 ms; windows may come out
    late."""

    def __init__(self, windows_a_result: int = 1) -> None:
        self.config = Config(name="steady")
        self.engine = SimpleNamespace(description="a fake engine", precision="float32")
        self.timings: dict[str, float] = {}
        self.windows_a_result = windows_a_result
        self.pushed = 0
        self.pending = 0

    def push(self, frame: Frame) -> list[FrameResult]:
        assert frame.image.shape == (48, 64, 3)
        assert frame.stamp_ns == self.pushed * 40_000_000
        self.pushed += 1
        self.pending += 1
        self.timings = {}
        if self.pushed % 2:
            return []
        self.timings = {"decode": 100.0 if self.pushed == 2 else 6.0}
        if self.pushed // 2 % self.windows_a_result:
            return []
        instances = (SimpleNamespace(),) * 3
        results = [FrameResult(i, 0, 48, 64, 0, instances) for i in range(self.pending)]  # type: ignore[arg-type]
        self.pending = 0
        return results


def test_report_leaves_the_warm_up_out_and_divides_by_frames() -> None:
    done: list[int] = []
    report = bench(
        SteadyStream(),
        (64, 48),
        frames=5,
        warmup=2,
        checkpoint="random",  # type: ignore[arg-type]
        device=torch.device("cpu"),
        progress=done.append,
    )
    assert report.stages["decode"] == StageTime(3.0, 3.0)
    assert (report.warmup, report.frames, report.instances_per_frame) == (2, 6, 3.0)
    assert list(report.stages) == ["decode", END_TO_END]
    assert report.fps > 0 and report.peak_process_mb > 10 and report.peak_cuda_mb is None
    assert done == [2, 4, 6, 8]


def test_windows_whose_frames_come_out_later_are_counted() -> None:
    measured = measure(
        SteadyStream(windows_a_result=2),
        moving_scene((64, 48)),
        8,  # type: ignore[arg-type]
        lambda done: None,
    )
    assert measured.frames == 8
    assert measured.stages["decode"] == [106 / 4, 12 / 4]


def test_measurement_adds_up() -> None:
    measured = Measurement()
    result = FrameResult(0, 0, 4, 4, 0, ())
    measured.add([result] * 4, 0.1, {"decode": 20.0})
    measured.add([result] * 2, 0.1, {"decode": 20.0})
    assert measured.frames == 6 and measured.seconds == pytest.approx(0.2)
    assert measured.stages["decode"] == [5.0, 10.0]
    assert measured.stages[END_TO_END] == pytest.approx([25.0, 50.0])


def test_stage_time() -> None:
    assert StageTime.of([1.0, 2.0, 3.0, 4.0, 100.0]) == StageTime(3.0, 61.6)


def test_scene_moves_and_repeats_itself_by_seed() -> None:
    first, second = (list(islice(moving_scene((64, 48)), 3)) for _ in range(2))
    assert [stamp for stamp, _ in first] == [0, 40_000_000, 80_000_000]
    assert all(np.array_equal(a, b) for (_, a), (_, b) in zip(first, second, strict=True))
    assert (first[0][1] != first[2][1]).any() and first[0][1].shape == (48, 64, 3)
