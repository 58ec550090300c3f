"""What ``stemseg run`` does: a video, folder or bag through the pipeline; text, overlay and
summary out."""

from __future__ import annotations

import json
import platform
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from itertools import count
from pathlib import Path
from statistics import median
from tempfile import TemporaryFile

import numpy as np
import numpy.typing as npt
import torch

import stemseg_ros
from stemseg_ros.errors import MediaError
from stemseg_ros.formats.kitti_lines import IDS_PER_CLASS, TrackCollector, write_results
from stemseg_ros.media.damage import SkippedFrame
from stemseg_ros.media.overlay import VideoWriter, draw_instances
from stemseg_ros.media.sources import DEFAULT_FPS, FrameSource
from stemseg_ros.models.stemseg.pipeline import Pipeline
from stemseg_ros.records import FrameResult

Image = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class TrackSummary:
    """One track: its id in the text, and the one drawn in the overlay."""

    id: int
    track_id: int
    epoch: int
    class_id: int
    frames: int
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class RunSummary:
    """What happened; ``summary.json`` holds exactly these fields."""

    source: str
    config: str
    checkpoint: str
    device: str
    frames: int
    skipped: list[SkippedFrame]
    """Frames that cannot be read; the others keep their numbers in the text."""
    losses: list[str]
    """What else of the recording is lost."""
    tracks: int
    epochs: int
    fps: float
    """Frames per second of wall time, with reading, drawing and writing."""
    pipeline_fps: float
    """The same, counting only the time inside the pipeline."""
    latency_ms: dict[str, float]
    """median and p99 from handing a frame in to having its result; frames come as fast as they are
    taken."""
    stage_ms: dict[str, float]
    """Median milliseconds per window, by stage."""
    versions: dict[str, str]
    track_list: list[TrackSummary]


@dataclass(slots=True)
class Timings:
    """Clock readings of a run, in seconds unless named otherwise."""

    window: dict[str, float]
    """stage_ms of the pipeline after its last window; it makes a new one for each."""
    pushed: deque[float] = field(default_factory=deque)
    latency: list[float] = field(default_factory=list)
    inside: float = 0.0
    stages_ms: dict[str, list[float]] = field(default_factory=dict)
    """One value a window."""

    def results(
        self, call: Callable[[], list[FrameResult]], pipeline: Pipeline
    ) -> list[FrameResult]:
        """Call push or flush and take the time."""
        start = time.perf_counter()
        results = call()
        end = time.perf_counter()
        self.inside += end - start
        self.latency += [end - self.pushed.popleft() for _ in results]
        if pipeline.stage_ms is not self.window:
            self.window = pipeline.stage_ms
            for stage, milliseconds in self.window.items():
                self.stages_ms.setdefault(stage, []).append(milliseconds)
        return results


def prepare_output(out: Path) -> None:
    """Create the folder and make sure that files can be written there. Raises MediaError."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise MediaError(f"cannot write to the folder {out}: {error.strerror}") from error


def run_source(
    source: FrameSource,
    pipeline: Pipeline,
    out: Path,
    *,
    checkpoint: str,
    device: str,
    progress: Callable[[int], None] = lambda frames: None,
) -> RunSummary:
    """Push all frames through the pipeline; write instances.txt, overlay.mp4 and summary.json into
    ``out``.

    Images are kept only until their result is there. ``progress`` is called with the number of
    frames done. checkpoint and device: as they shall stand in the summary. Raises MediaError.
    """
    collector, timings = TrackCollector(), Timings(pipeline.stage_ms)
    pending: deque[tuple[int, Image]] = deque()
    pushed = count()
    start = time.perf_counter()
    epochs: set[int] = set()
    with VideoWriter(out / "overlay.mp4", source.fps or DEFAULT_FPS) as video:
        for results in push_all(
            source,
            pipeline,
            timings,
            lambda image: pending.append((next(pushed) + len(source.damage.skipped), image)),
        ):
            for result in results:
                number, image = pending.popleft()
                collector.add(result, number)
                epochs.add(result.epoch)
                video.write(draw_instances(image, result))
            progress(collector.frames)
    if not collector.frames:
        raise MediaError(f"{source.name}: no frames")
    rows = collector.rows()
    write_results(out / "instances.txt", rows)
    elapsed = time.perf_counter() - start
    summary = RunSummary(
        source=source.name,
        config=pipeline.config.name,
        checkpoint=checkpoint,
        device=device,
        frames=collector.frames,
        skipped=source.damage.skipped,
        losses=source.damage.losses,
        tracks=len(collector.tracks),
        epochs=len(epochs),
        fps=round(collector.frames / elapsed, 3),
        pipeline_fps=round(collector.frames / timings.inside, 3),
        latency_ms=percentiles([1000 * seconds for seconds in timings.latency]),
        stage_ms={stage: round(median(values), 3) for stage, values in timings.stages_ms.items()},
        versions=versions(),
        track_list=_track_list(collector),
    )
    write_json(out / "summary.json", asdict(summary))
    return summary


def push_all(
    source: FrameSource,
    pipeline: Pipeline,
    timings: Timings,
    seen: Callable[[Image], object] = lambda image: None,
) -> Iterator[list[FrameResult]]:
    """Results of each push and of the flush at the end, timed; ``seen`` is called with each image
    before."""
    for stamp_ns, image in source:
        seen(image)
        timings.pushed.append(time.perf_counter())
        yield timings.results(lambda: pipeline.push(image, stamp_ns), pipeline)  # noqa: B023, called at once
    yield timings.results(pipeline.flush, pipeline)


def _track_list(collector: TrackCollector) -> list[TrackSummary]:
    return [
        TrackSummary(
            id=track.class_id * IDS_PER_CLASS + n,
            track_id=track_id,
            epoch=epoch,
            class_id=track.class_id,
            frames=len(track.masks),
            first=track.first,
            last=track.last,
        )
        for n, ((epoch, track_id), track) in enumerate(collector.numbered(), start=1)
    ]


def percentiles(milliseconds: list[float]) -> dict[str, float]:
    """median and p99, rounded to microseconds."""
    return {
        "median": round(float(np.median(milliseconds)), 3),
        "p99": round(float(np.percentile(milliseconds, 99)), 3),
    }


def versions() -> dict[str, str]:
    """What computed the numbers."""
    return {
        "stemseg": stemseg_ros.__version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def write_json(path: Path, content: object) -> None:
    """Readable JSON, newline at the end. Raises MediaError."""
    try:
        path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise MediaError(f"cannot write {path}: {error.strerror}") from error
