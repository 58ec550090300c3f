"""A contact sheet of the clips that training will see, with masks and labels drawn."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path

import cv2
import numpy as np

from stemseg_ros.config import Config
from stemseg_ros.datasets.sequence import CLASS_STEP, IGNORE_LABEL, LabelArray, Sources
from stemseg_ros.errors import MediaError
from stemseg_ros.media.overlay import contact_sheet, draw_instances
from stemseg_ros.records import FrameResult, Image, Instance
from stemseg_ros.training.batches import load_sources, step_clips
from stemseg_ros.training.clips import Clip
from stemseg_ros.training.distributed import World

STRIPE = 8
"""Pixels from one stripe of an ignored region to the next."""
TILE_WIDTH = 400


def show_clips(config: Config, data: Path, out: Path, clips: int) -> int:
    """Write the first clips of training as a PNG, one row each; ignored pixels are striped.

    Returns the number of frames of a clip.

    Raises ConfigError, DataError, MediaError.
    """
    if out.suffix.lower() != ".png":
        raise MediaError(f"{out}: the contact sheet is a PNG; name it so")
    images, captions = [], []
    for clip in islice(_training_clips(load_sources(config, data), config), clips):
        images += draw_labels(clip, config.classes)
        captions += [f"{clip.name} {frame}" for frame in range(len(clip.frames))]
    length = config.clip.length
    sheet = contact_sheet(images, columns=length, captions=captions, width=length * TILE_WIDTH)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_bytes(cv2.imencode(".png", sheet)[1].tobytes())
    except OSError as error:
        raise MediaError(f"cannot write {out}: {error.strerror}") from error
    return length


def _training_clips(sources: Sources, config: Config) -> Iterator[Clip]:
    """The clips that training on one process sees, in order."""
    for step in count():
        yield from step_clips(sources, config, step, World())


def draw_labels(clip: Clip, classes: tuple[str, ...]) -> list[Image]:
    """Each frame with its objects, named by label and class, and stripes where it is ignored."""
    drawn = []
    for index, (image, labels) in enumerate(zip(clip.frames, clip.labels, strict=True)):
        canvas = draw_instances(image, _result(index, labels, classes))
        rows, columns = np.indices(labels.shape)
        canvas[(labels == IGNORE_LABEL) & ((rows + columns) % STRIPE < 2)] = 255
        drawn.append(canvas)
    return drawn


def _result(index: int, labels: LabelArray, classes: tuple[str, ...]) -> FrameResult:
    found = (label for label in np.unique(labels).tolist() if label not in (0, IGNORE_LABEL))
    instances = tuple(
        Instance.from_mask(
            labels == label, label, label // CLASS_STEP, classes[label // CLASS_STEP - 1]
        )
        for label in found
    )
    return FrameResult(index, 0, labels.shape[0], labels.shape[1], 0, instances)
