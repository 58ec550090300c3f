"""Labels one recording (video, folder or bag); writes text, overlay and summary."""

from __future__ import annotations

import json
import math
import platform
import time
from collections.abc import Callable, Iterator, Mapping
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
from stemseg_ros.stamps import Event, count_dropped
from stemseg_ros.stream import Stream


@dataclass(frozen=True, slots=True)
class TrackSummary:
    """Summary of a track; ``id`` is used in the text, ``track_id`` in the overlay."""

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
    """Number of frames dropped because of their stamps, by reason (docs/recordings.md)."""
    skipped: list[SkippedFrame]
    """Unreadable frames; they are counted in the frame numbers of the text."""
    losses: list[str]
    """Other losses of the recording."""
    tracks: int
    epochs: int
    fps: float
    """Frames per second of wall time, including reading, drawing and writing."""
    pipeline_fps: float
    """Frames per second of the time spent in the pipeline."""
    latency_ms: dict[str, float]
    """Median and p99 from pushing a frame to receiving its result; frames are pushed as fast as
    they are processed."""
    stage_ms: dict[str, float]
    """Median milliseconds by stage: each function of the network, and "track" for the rest."""
    versions: dict[str, str]
    track_list: list[TrackSummary]


@dataclass(slots=True)
class Timings:
    """Times of a run, in seconds unless named otherwise."""

    latency: list[float] = field(default_factory=list)
    """One value for each result, since the push of its frame."""
    inside: float = 0.0
    """Time spent in push and flush."""
    stages_ms: dict[str, list[float]] = field(default_factory=dict)
    """One value for each push in which the stage ran."""

    def measure(self, call: Callable[[], list[FrameResult]], stream: Stream) -> list[FrameResult]:
        """Call push or flush and measure it; returns its results."""
        start = time.perf_counter()
        results = call()
        end = time.perf_counter()
        self.inside += end - start
        self.latency += [end - pushed_frame(result).seconds for result in results]
        for stage, milliseconds in stream.timings.items():
            self.stages_ms.setdefault(stage, []).append(milliseconds)
        return results


class Pushed(NamedTuple):
    """Data about a frame that is returned with its result."""

    number: int
    """Position in the recording, counting unreadable frames."""
    image: Image | None
    """The image, if the caller of ``push_all`` keeps images."""
    seconds: float
    """time.perf_counter at the push."""


def pushed_frame(result: FrameResult) -> Pushed:
    """Return the data that ``push_all`` attached to the frame of a result."""
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

    Images are kept only until their result is returned. progress: called with the number of
    frames done; checkpoint, device: names for the summary. Raises MediaError.
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
        track_list=_summarise_tracks(collector),
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

    prompts: by frame number; those of an unreadable frame, or of one that is dropped because of
    its stamp, are given in the next one, as far as they can be followed beside its own; an event
    names those that no frame is left for. Raises PromptError for a frame's own. keep_images:
    whether results carry their images (``pushed_frame``). on_event: called with the events of the
    stream, such as dropped frames and prompts that came too late.
    """
    waiting, late = 0, list[Prompt]()
    for number, stamp_ns, image in numbered_frames(source):
        late += [p for n in range(waiting, number) for p in prompts.get(n, ())]
        waiting = number + 1
        pushed = Pushed(number, image if keep_images else None, time.perf_counter())
        frame, refused = Frame(image, stamp_ns, prompts.get(number, ()), pushed), list[Event]()
        if late:
            frame, refused = stream.with_late(frame, late)
        yield timings.measure(partial(stream.push, frame), stream)
        late = [prompt for event in stream.events for prompt in event.prompts]
        for event in (*refused, *stream.events):
            on_event(event)
    yield timings.measure(stream.flush, stream)
    for event in stream.events:
        on_event(event)
    if prompts:
        late += stream.held_prompts
        late += [p for n, given in prompts.items() if n >= waiting for p in given]
    if late:
        ids = ", ".join(str(prompt.track_id) for prompt in late)
        on_event(Event("prompts", f"no frame is left for the prompts of objects {ids}"))


def _summarise_tracks(collector: TrackCollector) -> list[TrackSummary]:
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
    """Return the versions of the software that computed the results."""
    return {
        "stemseg": stemseg_ros.__version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def write_json(path: Path, content: object) -> None:
    """Write indented JSON with a final newline; NaN and infinities become null. Raises
    MediaError."""
    text = json.dumps(_replace_non_finite(content), indent=2, allow_nan=False)
    try:
        path.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise MediaError(f"cannot write {path}: {error.strerror}") from error


def _replace_non_finite(content: object) -> object:
    """Replace NaN and infinities by None, at any depth."""
    if isinstance(content, float):
        return content if math.isfinite(content) else None
    if isinstance(content, dict):
        return {key: _replace_non_finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_replace_non_finite(value) for value in content]
    return content
