"""Propagates given masks through a recording (``stemseg propagate``); writes label images, overlay
and summary."""

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
    """Summary of a followed object."""

    id: int
    given: int
    """Number of the first frame in which it is followed."""
    frames: int = 0
    """Number of frames in which it was found."""
    last: int = 0
    """Number of the last frame in which it was found."""
    score: float = 0.0
    """Mean over these frames of the mean probability in its mask."""


@dataclass(frozen=True, slots=True)
class PropagationSummary:
    """Summary of a propagation; ``summary.json`` holds exactly these fields."""

    source: str
    masks: str
    config: str
    checkpoint: str
    device: str
    frames: int
    skipped: list[SkippedFrame]
    """Frames without a label image: unreadable, or of another size."""
    losses: list[str]
    """Other losses of the recording."""
    notes: list[str]
    """Masks that were ignored or used for another frame."""
    objects: list[ObjectSummary]
    fps: float
    """Frames per second of wall time, including reading, drawing and writing."""
    latency_ms: dict[str, float]
    """Median and p99 from pushing a frame to receiving its result."""
    stage_ms: dict[str, float]
    """Median milliseconds by stage."""
    versions: dict[str, str]


@dataclass(slots=True)
class _PendingPrompts:
    """Given masks whose frames are yet to come."""

    masks: PromptMasks
    ids: dict[int, tuple[int, ...]]
    """Ids of new objects by frame number."""
    notes: list[str] = field(default_factory=list)

    def pop(self, number: int) -> tuple[Prompt, ...]:
        """Take the prompts of a frame."""
        ids = self.ids.pop(number, ())
        return tuple(Prompt(n, 1, encode(self.masks.labels[number] == n)) for n in ids)

    def pop_late(self, number: int, name: str) -> list[Prompt]:
        """Take the prompts of the unreadable frames before a frame."""
        prompts = list[Prompt]()
        for frame in sorted(frame for frame in self.ids if frame < number):
            prompts += self.pop(frame)
            self.notes.append(
                f"{self.masks.files[frame]}: its frame is unreadable; used for frame {name}"
            )
        return prompts


def frame_names(source: FrameSource) -> list[str] | None:
    """Return the names of the frames of an image folder; None if frames only have numbers."""
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

    progress: called with the number of frames done; checkpoint, device: names for the summary.
    Raises PromptError, MediaError.
    """
    names = frame_names(source)
    given = read_prompt_masks(masks, names)
    pending = _PendingPrompts(given, given.starts())
    first_frames = {n: frame for frame, ids in pending.ids.items() for n in ids}
    objects = {n: ObjectSummary(n, frame) for n, frame in sorted(first_frames.items())}
    timings, skipped = Timings(), list[SkippedFrame]()
    (out / MASKS).mkdir()
    frames, begin = 0, time.perf_counter()
    with VideoWriter(out / OVERLAY, source.fps or DEFAULT_FPS) as video:
        for number, image in _same_size(source, skipped):
            name = names[number] if names else f"{number:05d}"
            result = _push(stream, number, image, pending, name, timings)
            save_labels(out / MASKS / f"{name}.png", label_image(result).astype(np.uint8))
            video.write(draw_instances(image, result))
            _update_summaries(objects, number, result)
            frames += 1
            progress(frames)
    if not frames:
        raise MediaError(f"{source.name}: no frames")
    if pending.ids:
        file = given.files[min(pending.ids)]
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
        notes=[*_note_unused(given), *pending.notes],
        objects=list(objects.values()),
        fps=round(frames / (time.perf_counter() - begin), 3),
        latency_ms=percentiles([1000 * seconds for seconds in timings.latency]),
        stage_ms={stage: round(median(ms), 3) for stage, ms in timings.stages_ms.items()},
        versions=versions(),
    )
    write_json(out / SUMMARY, asdict(summary))
    return summary


def _same_size(source: FrameSource, skipped: list[SkippedFrame]) -> Iterator[tuple[int, Image]]:
    """Yield frames with their numbers; appends those of another size than the first to
    ``skipped``."""
    first = None
    for number, _, image in numbered_frames(source):
        size = image.shape[1], image.shape[0]
        first = first or size
        if size == first:
            yield number, image
        else:
            reason = f"it is {size[0]}x{size[1]} pixels, the first is {first[0]}x{first[1]}"
            skipped.append(SkippedFrame(number, reason))


def _push(
    stream: Stream,
    number: int,
    image: Image,
    pending: _PendingPrompts,
    name: str,
    timings: Timings,
) -> FrameResult:
    # Recorded stamps may repeat or go back; frame numbers ensure a result for every frame.
    stamp_ns = 1 + number
    pushed = Pushed(number, None, time.perf_counter())
    frame = Frame(image, stamp_ns, pending.pop(number), pushed)
    try:
        if late := pending.pop_late(number, name):
            frame, refused = stream.with_late(frame, late)
            pending.notes += [f"frame {name}: {event.text}" for event in refused]
        (result,) = timings.measure(partial(stream.push, frame), stream)
    except PromptError as error:
        raise PromptError(f"masks of frame {name}: {error}") from error
    return result


def _update_summaries(objects: dict[int, ObjectSummary], number: int, result: FrameResult) -> None:
    for instance in result.instances:
        found = objects[instance.track_id]
        found.score += (instance.score - found.score) / (found.frames + 1)
        found.frames, found.last = found.frames + 1, number


def _note_unused(given: PromptMasks) -> list[str]:
    starts = given.starts()
    later = sum(frame not in starts for frame in given.labels)
    if not later:
        return []
    return [f"{later} of {len(given.labels)} masks show no new object and are not used"]
