"""Training samples of HODOR, drawn from the mix: copies of stills, and frames of videos.

Every random choice comes from the generator that is passed in.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from stemseg_ros.datasets.sequence import (
    IGNORE_LABEL,
    DataError,
    LabelArray,
    LabelledFrame,
    Sources,
)
from stemseg_ros.models.hodor.settings import Settings, StillsConfig
from stemseg_ros.training.clips import Clip, draw_window, mix_shares
from stemseg_ros.training.still_copies import (
    FIRST_LABEL,
    StillCopies,
    choose,
    draw_placement,
    fill_frame,
    find_objects,
    is_ignored,
    read_still,
)
from stemseg_ros.training.still_motion import (
    Array,
    Random,
    Size,
    Warp,
    blur,
    draw_tint,
    recolour,
)

MIN_VISIBLE = 60
"""Smallest mask of an object in the first frame of a sample, in pixels."""
TRIES = 20
"""Number of draws from the mix before an object may be hidden in the first frame."""


class Scene(Protocol):
    """Frames of a sample before colours change."""

    def draw(self, number: int) -> tuple[Array, LabelArray]:
        """Render the image (H, W, 3) and the labels (H, W) of a frame."""
        ...


class Footage:
    """Frames of a video seen by a fixed crop; the objects are some of its first frame, all others
    are background."""

    def __init__(
        self,
        frames: Sequence[LabelledFrame],
        objects: int,
        size: Size,
        config: StillsConfig,
        random: Random,
    ) -> None:
        self._frames, first = frames, frames[0].labels
        found = find_objects(first)
        areas = [int((first == label).sum()) for label in found]
        self._objects = [found[index] for index in choose(areas, objects, random)]
        base = draw_placement(first == self._objects[0], size, config, random)
        self._warp = Warp(fill_frame(base, first.shape, size), size)

    def draw(self, number: int) -> tuple[Array, LabelArray]:
        """See ``Scene``."""
        frame, warp = self._frames[number], self._warp
        labels = np.where(warp.mask(is_ignored(frame.labels)) > 0, IGNORE_LABEL, 0)
        for label, source in enumerate(self._objects, start=FIRST_LABEL):
            labels[warp.mask(frame.labels == source) > 0.5] = label
        return warp.image(frame.image), labels.astype(np.int32)


def draw_objects(sources: Sources, config: Settings, rng: Random) -> int:
    """Draw the number of objects of the samples of a step."""
    return int(rng.integers(1, config.stills.objects + 1))


def draw_sample(sources: Sources, config: Settings, rng: Random, objects: int) -> Clip:
    """Draw a sample whose first frame shows ``objects`` objects: they have the labels from
    FIRST_LABEL on.

    Videos of at least ``stills.frames`` frames give consecutive ones of theirs, other sequences
    copies of a frame. Raises DataError.
    """
    size, stills = config.training.crop, config.stills
    _, (first, *_) = draw_frames(sources, config, rng, 1)
    other = read_still(first)
    for _ in range(TRIES):
        name, frames = draw_frames(sources, config, rng, objects)
        for _ in range(2):
            scene: Scene = (
                StillCopies(read_still(frames[0]), other, objects, size, stills, rng)
                if len(frames) == 1
                else Footage(frames, objects, size, stills, rng)
            )
            sample = render(scene, stills.frames, name, rng)
            if min_visible(sample, objects) >= MIN_VISIBLE:
                return sample
    return sample


def draw_frames(
    sources: Sources, config: Settings, rng: Random, objects: int
) -> tuple[str, list[LabelledFrame]]:
    """Draw frames of a video, or a still, with at least ``objects`` objects in the first frame;
    returns the name of the sequence, too. Raises DataError if none is found."""
    names = list(sources)
    shares = mix_shares(names, config)
    for _ in range(TRIES * TRIES):
        name = names[int(rng.choice(len(names), p=shares))]
        number = int(rng.integers(len(sources[name])))
        sequence = sources[name][number]
        if len(sequence) >= config.clip.length:
            indices = draw_window(len(sequence), config.clip, rng)
        else:
            first = int(rng.integers(len(sequence)))
            indices = range(first, first + 1)
        frame = sequence[indices[0]]
        if len(find_objects(frame.labels)) >= objects:
            return f"{name}[{number}]", [frame, *(sequence[index] for index in indices[1:])]
    raise DataError(
        f"training.mix: found no image with {objects} object(s) that are labelled one by one and "
        "large enough; lower stills.objects or add other data"
    )


def render(scene: Scene, frames: int, name: str, rng: Random) -> Clip:
    """Render the frames of a scene in changing colours and sharpness, half of the samples
    mirrored."""
    tint = draw_tint(rng, 1.0)
    images, labels = [], []
    for number in range(frames):
        image, label = scene.draw(number)
        images.append(blur(recolour(image, tint, draw_tint(rng, 0.25)), rng))
        labels.append(label)
    columns = slice(None, None, -1 if rng.random() < 0.5 else 1)
    return Clip(np.stack(images)[:, :, columns], np.stack(labels)[:, :, columns], name)


def min_visible(sample: Clip, objects: int) -> int:
    """Count the pixels of the smallest object in the first frame."""
    first = sample.labels[0]
    return min(int(np.count_nonzero(first == FIRST_LABEL + n)) for n in range(objects))
