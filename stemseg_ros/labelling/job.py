"""Labels one recording (video, folder or bag): text, overlay and summary out."""

from __future__ import annotations

import json
import math
import platform
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import torch

import stemseg_ros
from stemseg_ros.errors import MediaError
from stemseg_ros.formats.kitti_lines import IDS_PER_CLASS, TrackCollector, write_results
from stemseg_ros.media.damage import SkippedFrame
from stemseg_ros.media.overlay import VideoWriter, draw_instances
from stemseg_ros.media.sources import DEFAULT_FPS, FrameSource, numbered_frames
from stemseg_ros.records import Frame, FrameResult, Image, Prompt
from stemseg_ros.stream import Event, Stream


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
    """Summary of a run; ``summary.json`` holds exactly these fields."""

    source: str
    config: str
    checkpoint: str
    device: str
    frames: int
    dropped: dict[str, int]
    """Frames without a result because of their stamps, by reason (docs/recordings.md)."""
    skipped: list[SkippedFrame]
    """Unreadable frames; the others keep their numbers in the text."""
    losses: list[str]
    """Other losses of the recording."""
    tracks: int
    epochs: int
    fps: float
    """Frames per second of wall time, with reading, drawing and writing."""
    pipeline_fps: float
    """The same, counting only the time inside the pipeline."""
    latency_ms: dict[str, float]
    """Median and p99 from pushing a frame to receiving its result; frames are pushed as fast as
    they are processed."""
    stage_ms: dict[str, float]
    """Median milliseconds by stage: calls of each function of the network, and "track" for the
    rest."""
    versions: dict[str, str]
    track_list: list[TrackSummary]


@dataclass(slots=True)
class Timings:
    """Times of a run, in seconds unless named otherwise."""

    latency: list[float] = field(default_factory=list)
    """One value per result, from the push of its frame."""
    inside: float = 0.0
    stages_ms: dict[str, list[float]] = field(default_factory=dict)
    """One value for each push that the stage was part of."""

    def results(self, call: Callable[[], list[FrameResult]], stream: Stream) -> list[FrameResult]:
        """Call push or flush and time it."""
        start = time.perf_counter()
        results = call()
        end = time.perf_counter()
        self.inside += end - start
        self.latency += [end - pushed_frame(result).seconds for result in results]
        for stage, milliseconds in stream.timings.items():
            self.stages_ms.setdefault(stage, []).append(milliseconds)
        return results


class Pushed(NamedTuple):
    """Data that returns with the result of a frame."""

    number: int
    """Position in the recording, unreadable frames included."""
    image: Image | None
    """The image, if the caller of ``push_all`` keeps images."""
    seconds: float
    """time.perf_counter when it was pushed."""


def pushed_frame(result: FrameResult) -> Pushed:
    """The frame that ``push_all`` pushed for a result."""
    assert isinstance(result.source, Pushed)
    return result.source


def run_source(
    source: FrameSource,
    stream: Stream,
    out: Path,
    *,
    checkpoint: str,
    device: str,
    progress: Callable[[int], None] = lambda frames: None,
) -> RunSummary:
    """Push all frames through the stream; write instances.txt, overlay.mp4 and summary.json into
    ``out``.

    Images are kept only until their result is returned. ``progress`` is called with the number of
    frames done. checkpoint and device: as named in the summary. Raises MediaError.
    """
    collector, timings, events = TrackCollector(), Timings(), list[Event]()
    start = time.perf_counter()
    epochs: set[int] = set()
    with VideoWriter(out / "overlay.mp4", source.fps or DEFAULT_FPS) as video:
        for results in push_all(source, stream, timings, keep_images=True, on_event=events.append):
            for result in results:
                pushed = pushed_frame(result)
                collector.add(result, pushed.number)
                epochs.add(result.epoch)
                assert pushed.image is not None
                video.write(draw_instances(pushed.image, result))
            progress(collector.frames)
    if not collector.frames:
        raise MediaError(f"{source.name}: no frames")
    rows = collector.rows()
    write_results(out / "instances.txt", rows)
    elapsed = time.perf_counter() - start
    summary = RunSummary(
        source=source.name,
        config=stream.config.name,
        checkpoint=checkpoint,
        device=device,
        frames=collector.frames,
        dropped=count_dropped(events, held=stream.reset()),
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
    stream: Stream,
    timings: Timings,
    *,
    prompts: Mapping[int, tuple[Prompt, ...]] = MappingProxyType({}),
    keep_images: bool = False,
    on_event: Callable[[Event], object] = lambda event: None,
) -> Iterator[list[FrameResult]]:
    """Yield the results of each push and of the flush at the end, timed.

    prompts: what is pointed at, by number of the frame; that of a frame that cannot be read is
    pointed at in the next one.
    keep_images: results carry their images (``pushed_frame``). on_event: called with the events of
    the stream, such as frames dropped because of their stamps.
    """
    waiting = 0
    for number, stamp_ns, image in numbered_frames(source):
        due = tuple(p for n in range(waiting, number + 1) for p in prompts.get(n, ()))
        waiting = number + 1
        pushed = Pushed(number, image if keep_images else None, time.perf_counter())
        frame = Frame(image, stamp_ns, due, pushed)
        yield timings.results(partial(stream.push, frame), stream)
        for event in stream.events:
            on_event(event)
    yield timings.results(stream.flush, stream)
    for event in stream.events:
        on_event(event)


def count_dropped(events: Iterable[Event], held: int) -> dict[str, int]:
    """Count frames without a result, by reason; held: those whose stamps were never confirmed."""
    dropped = Counter(event.kind for event in events if event.kind != "epoch")
    dropped["out_of_order"] += held
    return {kind: number for kind, number in dropped.items() if number}


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
    """Compute median and p99, rounded to microseconds."""
    return {
        "median": round(float(np.median(milliseconds)), 3),
        "p99": round(float(np.percentile(milliseconds, 99)), 3),
    }


def versions() -> dict[str, str]:
    """Versions of the software that computed the numbers."""
    return {
        "stemseg": stemseg_ros.__version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def write_json(path: Path, content: object) -> None:
    """Write indented JSON with a newline at the end; numbers that JSON lacks become null. Raises
    MediaError."""
    text = json.dumps(_finite(content), indent=2, allow_nan=False)
    try:
        path.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise MediaError(f"cannot write {path}: {error.strerror}") from error


def _finite(content: object) -> object:
    """With None for NaN and infinities, in any depth."""
    if isinstance(content, float):
        return content if math.isfinite(content) else None
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return content
