"""Training clips from labelled videos and stills (Sec. 4.1, supplement II).

Every random choice comes from the generator that is passed in, so that a clip is a pure function
of data, settings and seed. Scale, crop, flip and motion of a frame are one affine map: pixels are
resampled once, labels by nearest neighbour with the very same map.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from stemseg_ros.config import Config
from stemseg_ros.datasets.classes import target_of
from stemseg_ros.datasets.sequence import LabelledFrame, Sources
from stemseg_ros.settings import ClipShape
from stemseg_ros.training.clip_colours import blur, change_light, shift_colours
from stemseg_ros.training.clip_motion import Affine, Area, draw_crop, still_motion_maps
from stemseg_ros.training.pasting import NO_PEOPLE, People, paste_objects


@dataclass(frozen=True, slots=True, eq=False)
class Clip:
    """T frames and their labels, ready to be normalised."""

    frames: npt.NDArray[np.uint8]
    """uint8 (T, H, W, 3), BGR."""
    labels: npt.NDArray[np.int32]
    """int32 (T, H, W): 0 background, class * 1000 + track id, IGNORE_LABEL."""
    name: str = ""
    """Sequence it was drawn from, for messages."""
    step: int = 0
    """Step of training that it was drawn for."""


def draw_size(sources: Sources, config: Config, rng: np.random.Generator) -> tuple[int, int]:
    """Height and width of the clips of a batch: those of an entry drawn by its weight."""
    sizes = [_area(name, config).crop for name in sources]
    if len(set(sizes)) == 1:
        return sizes[0]
    return sizes[rng.choice(len(sizes), p=mix_shares(list(sources), config))]


def draw_clip(
    sources: Sources,
    config: Config,
    rng: np.random.Generator,
    size: tuple[int, int] | None = None,
) -> Clip:
    """A clip in the shape of ``config.clip``; ``training.mix`` has the weights.

    size: (height, width), only entries with crops of this size are drawn from.
    """
    training, shape = config.training, config.clip
    names = [name for name in sources if size in (None, _area(name, config).crop)]
    name = names[rng.choice(len(names), p=mix_shares(names, config))]
    area = _area(name, config)
    number = int(rng.integers(len(sources[name])))
    sequence = sources[name][number]
    clip = (
        _video_clip(sequence, area, shape, rng)
        if len(sequence) >= shape.length
        else _still_clip(sequence[int(rng.integers(len(sequence)))], area, shape.length, rng)
    )
    if rng.random() < training.copy_paste:
        paste_objects(clip.frames, clip.labels, sources, rng, _people(config))
    return Clip(change_light(clip.frames, rng), clip.labels, f"{name}[{number}]")


def _people(config: Config) -> People:
    if not config.training.paste_people:
        return NO_PEOPLE
    return People(target_of("pedestrian", config.classes), config.training.paste_people)


def _area(name: str, config: Config) -> Area:
    entry, training = config.training.mix[name], config.training
    focus = target_of(entry.focus, config.classes) if entry.focus else 0
    return Area(entry.crop or training.crop, entry.scale or training.scale, focus)


def mix_shares(names: list[str], config: Config) -> npt.NDArray[np.float64]:
    """Normalise the weights of entries of the mix."""
    weights = np.array([config.training.mix[name].weight for name in names], np.float64)
    shares: npt.NDArray[np.float64] = weights / weights.sum()
    return shares


def _video_clip(
    sequence: Sequence[LabelledFrame], area: Area, shape: ClipShape, rng: np.random.Generator
) -> Clip:
    frames = [sequence[index] for index in draw_window(len(sequence), shape, rng)]
    crop = draw_crop(frames[shape.length // 2].labels, area, rng)
    return warp(frames, [crop] * shape.length, area.crop)


def draw_window(frames: int, shape: ClipShape, rng: np.random.Generator) -> range:
    """Draw the indices of the frames of a clip from a video of at least ``shape.length``
    frames: evenly spaced, forwards or backwards."""
    length = shape.length
    longest = max(1, min(shape.max_stride, (frames - 1) // max(length - 1, 1)))
    stride = int(rng.integers(1, longest + 1))
    first = int(rng.integers(frames - (length - 1) * stride))
    window = range(first, first + (length - 1) * stride + 1, stride)
    return window[::-1] if rng.random() < 0.5 else window


def _still_clip(frame: LabelledFrame, area: Area, length: int, rng: np.random.Generator) -> Clip:
    size = area.crop
    crop = draw_crop(frame.labels, area, rng)
    motions = still_motion_maps(size, length, rng)
    clip = warp([frame] * length, [motion @ crop for motion in motions], size)
    return Clip(
        np.stack([shift_colours(blur(image, rng), rng) for image in clip.frames]), clip.labels
    )


def warp(frames: Sequence[LabelledFrame], maps: list[Affine], size: tuple[int, int]) -> Clip:
    """Map each frame by its affine map to (height, width); outside the source, grey and
    background."""
    height, width = size
    grey = (103, 116, 123)  # near the mean that preprocessing subtracts, so it looks like padding
    images = [
        cv2.warpAffine(
            frame.image, m[:2], (width, height), flags=cv2.INTER_LINEAR, borderValue=grey
        )
        for frame, m in zip(frames, maps, strict=True)
    ]
    # float32 holds labels exactly up to 2^24; 16 bits would end at 65 classes.
    labels = [
        cv2.warpAffine(
            frame.labels.astype(np.float32), m[:2], (width, height), flags=cv2.INTER_NEAREST
        )
        for frame, m in zip(frames, maps, strict=True)
    ]
    return Clip(np.stack(images).astype(np.uint8), np.stack(labels).astype(np.int32))
