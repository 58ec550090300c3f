"""What ``stemseg bench`` does: time each stage and the whole pipeline on one kind of frame."""

from __future__ import annotations

import resource
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count

import cv2
import numpy as np
import torch

from stemseg_ros.execution.device import describe_device
from stemseg_ros.labelling.job import versions
from stemseg_ros.records import Frame, FrameResult, Image
from stemseg_ros.stream import Stream

END_TO_END = "end_to_end"
"""Wall time of push itself, all stages and what lies between them."""


@dataclass(frozen=True, slots=True)
class StageTime:
    """Milliseconds per frame over the measured windows."""

    median_ms: float
    p90_ms: float

    @staticmethod
    def of(milliseconds: list[float]) -> StageTime:
        """Both numbers, rounded to microseconds."""
        median, p90 = np.percentile(milliseconds, (50, 90))
        return StageTime(round(float(median), 3), round(float(p90), 3))


@dataclass(frozen=True, slots=True)
class BenchReport:
    """Settings and results of one measurement; the JSON file holds exactly these fields."""

    config: str
    checkpoint: str
    device: str
    threads: int
    """CPU threads of torch."""
    size: tuple[int, int]
    """(width, height) of the frames."""
    traits: dict[str, str]
    """What the settings say of the model."""
    engine: str
    """The runtime that computed, and where."""
    precision: str
    warmup: int
    """Frames that came out before the measurement, at least."""
    frames: int
    """Frames that came out during the measurement."""
    stages: dict[str, StageTime]
    """Per frame, by stage, in the order of the data path; end_to_end last."""
    fps: float
    """Measured frames per second of time inside the pipeline."""
    instances_per_frame: float
    """How much there was to cluster and encode."""
    peak_process_mb: float
    """Largest resident memory of the process so far, 10^6 bytes."""
    peak_cuda_mb: float | None
    """Most memory of tensors on the device during the measurement; None on the CPU."""
    versions: dict[str, str]


@dataclass(slots=True)
class Measurement:
    """Sums and samples over the windows that came out."""

    frames: int = 0
    seconds: float = 0.0
    instances: int = 0
    stages: dict[str, list[float]] = field(default_factory=dict)
    """Milliseconds per frame, one value a window."""

    def add(
        self, results: list[FrameResult], seconds: float, stage_ms: Mapping[str, float]
    ) -> None:
        """Append a window whose results took ``seconds`` inside the pipeline."""
        self.frames += len(results)
        self.seconds += seconds
        self.instances += sum(len(result.instances) for result in results)
        for stage, milliseconds in {**stage_ms, END_TO_END: 1000 * seconds}.items():
            self.stages.setdefault(stage, []).append(milliseconds / len(results))


def bench(
    stream: Stream,
    size: tuple[int, int],
    *,
    frames: int,
    warmup: int,
    checkpoint: str,
    device: torch.device,
    progress: Callable[[int], None] = lambda frames: None,
) -> BenchReport:
    """Push frames of (width, height) until ``warmup`` and then ``frames`` of them have come out.

    ``progress`` is called with the number of frames that came out so far.
    """
    scene = moving_scene(size)
    warm = measure(stream, scene, warmup, progress).frames if warmup else 0
    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats(device)
    measured = measure(stream, scene, frames, lambda done: progress(warm + done))
    config = stream.config
    return BenchReport(
        config=config.name,
        checkpoint=checkpoint,
        device=describe_device(device),
        threads=torch.get_num_threads(),
        size=size,
        traits=config.traits,
        engine=stream.engine.description,
        precision=stream.engine.precision,
        warmup=warm,
        frames=measured.frames,
        stages={stage: StageTime.of(values) for stage, values in measured.stages.items()},
        fps=round(measured.frames / measured.seconds, 3),
        instances_per_frame=round(measured.instances / measured.frames, 2),
        peak_process_mb=round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6, 1),
        peak_cuda_mb=round(torch.cuda.max_memory_allocated(device) / 1e6, 1) if cuda else None,
        versions=versions(),
    )


def measure(
    stream: Stream,
    scene: Iterator[tuple[int, Image]],
    frames: int,
    progress: Callable[[int], None],
) -> Measurement:
    """Push until at least ``frames`` frames have come out.

    A pass may bring several frames at once, so its time is that of all pushes since the results
    before. Results lie on the host, so no further synchronisation with the device is due.
    """
    measured, seconds, stage_ms = Measurement(), 0.0, Counter[str]()
    for stamp_ns, image in scene:
        start = time.perf_counter()
        results = stream.push(Frame(image, stamp_ns))
        seconds += time.perf_counter() - start
        stage_ms.update(stream.timings)
        if results:
            measured.add(results, seconds, stage_ms)
            progress(measured.frames)
            seconds, stage_ms = 0.0, Counter()
        if measured.frames >= frames:
            break
    return measured


def moving_scene(
    size: tuple[int, int], objects: int = 8, seed: int = 0
) -> Iterator[tuple[int, Image]]:
    """An endless stream of (stamp in ns, image) at 25 Hz: bright ellipses drift over a noisy
    background."""
    width, height = size
    generator = np.random.default_rng(seed)
    background = generator.integers(0, 128, (height, width, 3), dtype=np.uint8)
    start = generator.uniform(0, 1, (objects, 2)) * size
    speed = generator.uniform(-0.01, 0.01, (objects, 2)) * size
    axes = generator.uniform(0.03, 0.15, (objects, 2)) * size
    for index in count():
        image = background.copy()
        for i, center in enumerate((start + index * speed) % size):
            box = (center.tolist(), (2 * axes[i]).tolist(), 0.0)
            cv2.ellipse(image, box, (255 - 25 * i, 130, 130 + 15 * i), cv2.FILLED)
        yield index * 40_000_000, image
