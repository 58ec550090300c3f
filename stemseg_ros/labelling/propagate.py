"""What ``stemseg propagate`` does: given masks carried through a recording; label images,
overlay and summary out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np

from stemseg_ros.errors import MediaError, PromptError
from stemseg_ros.formats.prompt_pngs import PromptMasks, read_prompt_masks, save_labels
from stemseg_ros.labelling.job import Pushed, Timings, percentiles, versions, write_json
from stemseg_ros.masks import encode, label_image
from stemseg_ros.media.damage import SkippedFrame
from stemseg_ros.media.overlay import VideoWriter, draw_instances
from stemseg_ros.media.sources import DEFAULT_FPS, FrameSource, ImageFolder, numbered_frames
from stemseg_ros.records import Frame, FrameResult, Image, Prompt
from stemseg_ros.stream import Stream

MASKS, OVERLAY, SUMMARY = "masks", "overlay.mp4", "summary.json"


@dataclass(slots=True)
class ObjectSummary:
    """One object that was followed."""

    id: int
    given: int
    """Number of the frame from which on it is followed."""
    frames: int = 0
    """Frames in which it was found."""
    last: int = 0
    """The last of them."""
    score: float = 0.0
    """Mean over these frames of the mean probability in its mask."""


@dataclass(frozen=True, slots=True)
class PropagationSummary:
    """What happened; ``summary.json`` holds exactly these fields."""

    source: str
    masks: str
    config: str
    checkpoint: str
    device: str
    frames: int
    skipped: list[SkippedFrame]
    """Frames without a label image: they cannot be read, or have another size."""
    losses: list[str]
    """What else of the recording is lost."""
    notes: list[str]
    """Masks that were not used as their files say."""
    objects: list[ObjectSummary]
    fps: float
    """Frames per second of wall time, with reading, drawing and writing."""
    latency_ms: dict[str, float]
    """median and p99 from handing a frame in to having its result."""
    stage_ms: dict[str, float]
    """Median milliseconds by stage."""
    versions: dict[str, str]


@dataclass(slots=True)
class _Starts:
    """The masks that wait for their frames."""

    masks: PromptMasks
    waiting: dict[int, tuple[int, ...]]
    notes: list[str] = field(default_factory=list)

    def due(self, number: int, name: str) -> tuple[Prompt, ...]:
        """Prompts for a frame: its own, and those of frames before it that could not be read."""
        prompts = []
        for frame in sorted(frame for frame in self.waiting if frame <= number):
            ids = self.waiting.pop(frame)
            labels = self.masks.labels[frame]
            prompts += [Prompt(n, 1, encode(labels == n)) for n in ids]
            if frame < number:
                self.notes.append(
                    f"{self.masks.files[frame]}: its frame cannot be read; used for {name}"
                )
        return tuple(prompts)


def frame_names(source: FrameSource) -> list[str] | None:
    """Names of the frames of an image folder; None where frames have numbers alone."""
    return [path.stem for path in source.paths] if isinstance(source, ImageFolder) else None


def propagate_source(
    source: FrameSource,
    masks: Path,
    stream: Stream,
    out: Path,
    *,
    checkpoint: str,
    device: str,
    progress: Callable[[int], None] = lambda frames: None,
) -> PropagationSummary:
    """Follow the objects of ``masks`` (``read_prompt_masks``) through all frames; write
    masks/NAME.png, overlay.mp4 and summary.json into ``out``.

    progress: called with the number of frames done. checkpoint and device: as they shall stand in
    the summary. Raises PromptError, MediaError.
    """
    names = frame_names(source)
    given = read_prompt_masks(masks, names)
    starts = _Starts(given, given.starts())
    first_frames = {n: frame for frame, ids in starts.waiting.items() for n in ids}
    objects = {n: ObjectSummary(n, frame) for n, frame in sorted(first_frames.items())}
    timings, skipped = Timings(), list[SkippedFrame]()
    (out / MASKS).mkdir()
    frames, begin = 0, time.perf_counter()
    with VideoWriter(out / OVERLAY, source.fps or DEFAULT_FPS) as video:
        for number, image in _same_size(source, skipped):
            name = names[number] if names else f"{number:05d}"
            result = _push(stream, number, image, starts, name, timings)
            save_labels(out / MASKS / f"{name}.png", label_image(result).astype(np.uint8))
            video.write(draw_instances(image, result))
            _count(objects, number, result)
            frames += 1
            progress(frames)
    if not frames:
        raise MediaError(f"{source.name}: no frames")
    if starts.waiting:
        file = given.files[min(starts.waiting)]
        raise PromptError(f"{file}: the recording ends before this frame, at {frames - 1:05d}")
    summary = PropagationSummary(
        source=source.name,
        masks=str(masks),
        config=stream.config.name,
        checkpoint=checkpoint,
        device=device,
        frames=frames,
        skipped=sorted([*source.damage.skipped, *skipped], key=lambda item: item.frame),
        losses=source.damage.losses,
        notes=[*_unused(given), *starts.notes],
        objects=list(objects.values()),
        fps=round(frames / (time.perf_counter() - begin), 3),
        latency_ms=percentiles([1000 * seconds for seconds in timings.latency]),
        stage_ms={stage: round(median(ms), 3) for stage, ms in timings.stages_ms.items()},
        versions=versions(),
    )
    write_json(out / SUMMARY, asdict(summary))
    return summary


def _same_size(source: FrameSource, skipped: list[SkippedFrame]) -> Iterator[tuple[int, Image]]:
    """Frames with their numbers; those of another size than the first are ``skipped``."""
    first = None
    for number, _, image in numbered_frames(source):
        size = image.shape[1], image.shape[0]
        first = first or size
        if size == first:
            yield number, image
        else:
            reason = f"it is {size[0]}x{size[1]} pixels, the first {first[0]}x{first[1]}"
            skipped.append(SkippedFrame(number, reason))


def _push(
    stream: Stream, number: int, image: Image, starts: _Starts, name: str, timings: Timings
) -> FrameResult:
    prompts = starts.due(number, name)
    # Numbers for stamps: recorded ones may repeat or go back, but every frame has its result.
    stamp_ns = 1 + number
    frame = Frame(image, stamp_ns, prompts, Pushed(number, None, time.perf_counter()))
    try:
        (result,) = timings.results(partial(stream.push, frame), stream)
    except PromptError as error:
        raise PromptError(f"masks of frame {name}: {error}") from error
    return result


def _count(objects: dict[int, ObjectSummary], number: int, result: FrameResult) -> None:
    for instance in result.instances:
        found = objects[instance.track_id]
        found.score += (instance.score - found.score) / (found.frames + 1)
        found.frames, found.last = found.frames + 1, number


def _unused(given: PromptMasks) -> list[str]:
    starts = given.starts()
    later = sum(frame not in starts for frame in given.labels)
    if not later:
        return []
    return [f"{later} of {len(given.labels)} masks show no new object; they are not used"]
