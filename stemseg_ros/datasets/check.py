"""Reads, counts and checks every file of a training mix."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from stemseg_ros.config import Config
from stemseg_ros.datasets.mix import entries, load_entry
from stemseg_ros.datasets.sequence import (
    CLASS_STEP,
    IGNORE_LABEL,
    DataError,
    LabelledFrame,
    LabelledSequence,
    is_object,
)

OpenProgress = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
"""(name, frames) -> context with a function that takes the number of frames done."""


@dataclass(slots=True)
class EntryReport:
    """Content of one entry of the mix."""

    name: str
    format: str
    share: float
    """Weight, divided by that of the whole mix."""
    sequences: int = 0
    frames: int = 0
    """Frames that could be read."""
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    """Frames by (width, height)."""
    tracks: Counter[str] = field(default_factory=Counter)
    """Objects by class; an object of a video counts once."""
    masks: Counter[str] = field(default_factory=Counter)
    """Masks by class."""
    pixels: int = 0
    ignored_pixels: int = 0
    bad: list[str] = field(default_factory=list)
    """Error of each bad file."""

    @property
    def ignored(self) -> float:
        """Share of the pixels that are ignored."""
        return self.ignored_pixels / max(self.pixels, 1)


def check_mix(config: Config, data: Path, progress: OpenProgress) -> list[EntryReport]:
    """Read every frame of the mix, one at a time; errors are collected, and the rest is read.

    An entry whose files do not fit together (one is missing, annotations are broken) is bad as
    a whole.
    Raises ConfigError, DataError for a mix without entries.
    """
    mix = entries(config)
    total = sum(entry.weight for entry in mix.values())
    reports = []
    for name, entry in mix.items():
        report = EntryReport(name, entry.format, entry.weight / total)
        reports.append(report)
        try:
            sequences = load_entry(config, data, name)
        except DataError as error:
            report.bad.append(str(error))
            continue
        with progress(name, sum(map(len, sequences))) as done:
            _check(sequences, config.classes, report, done)
    return reports


def _check(
    sequences: list[LabelledSequence],
    classes: tuple[str, ...],
    report: EntryReport,
    done: Callable[[int], None],
) -> None:
    report.sequences = len(sequences)
    seen = 0
    for sequence in sequences:
        tracks: set[int] = set()
        for index in range(len(sequence)):
            try:
                frame = sequence.read(index)
            except DataError as error:
                report.bad.append(str(error))
            else:
                tracks |= _count(frame, classes, report)
            seen += 1
            done(seen)
        report.tracks.update(_name(label, classes) for label in tracks)


def _count(frame: LabelledFrame, classes: tuple[str, ...], report: EntryReport) -> set[int]:
    """Adds a frame to the report; returns the labels of its objects."""
    found = np.unique(frame.labels)
    present = set(found[is_object(found)].tolist())
    height, width = frame.labels.shape
    report.frames += 1
    report.sizes[width, height] += 1
    report.masks.update(_name(label, classes) for label in present)
    report.pixels += frame.labels.size
    report.ignored_pixels += int((frame.labels == IGNORE_LABEL).sum())
    return present


def _name(label: int, classes: tuple[str, ...]) -> str:
    return classes[label // CLASS_STEP - 1]
