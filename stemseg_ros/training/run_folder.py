"""Facts of a run, written before its first step: settings, code version, data."""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from stemseg_ros.config import Config, dump_config
from stemseg_ros.datasets.sequence import (
    CLASS_STEP,
    LabelArray,
    LabelledFrame,
    LabelledSequence,
    Sources,
    is_object,
)
from stemseg_ros.errors import MediaError
from stemseg_ros.labelling.job import versions, write_json

COUNTED_FRAMES = 1000
"""Frames of a dataset, evenly spaced, whose labels are read for the statistics; ``stemseg data
check`` reads all."""


@dataclass(slots=True)
class DataStatistics:
    """Content of one entry of the training mix."""

    format: str
    weight: float
    clips: int
    """Videos, and stills as videos of one frame."""
    frames: int
    counted_frames: int
    """Frames in which objects were counted."""
    instances: dict[str, int] = field(default_factory=dict)
    """Objects by class in the counted frames; an object of a video counts once."""
    masks: dict[str, int] = field(default_factory=dict)
    """Masks by class in the counted frames."""


def write_facts(out: Path, config: Config, data: Path, sources: Sources) -> None:
    """Write config.yaml, version.json and data.json. Raises MediaError, DataError."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / "config.yaml").write_text(dump_config(config), encoding="utf-8")
    except OSError as error:
        raise MediaError(f"{out}: cannot write the run folder: {error.strerror}") from error
    write_json(out / "version.json", versions() | {"commit": code_version()})
    entries = {name: asdict(statistics(name, sources[name], config)) for name in sources}
    write_json(out / "data.json", {"folder": str(data), "mix": entries})


def code_version() -> str:
    """Read the commit of the checkout of this module, "-dirty" with local changes; empty outside
    of one."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return ""
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        done = subprocess.run(
            [*command, "--exclude=*"], capture_output=True, text=True, timeout=30, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def statistics(
    name: str, sequences: Sequence[Sequence[LabelledFrame]], config: Config
) -> DataStatistics:
    """Count the objects of one entry of the mix. Raises DataError for unreadable labels."""
    places = [(s, f) for s, sequence in enumerate(sequences) for f in range(len(sequence))]
    spread = np.linspace(0, len(places) - 1, min(len(places), COUNTED_FRAMES)).round().astype(int)
    masks: Counter[int] = Counter()
    objects: set[tuple[int, int]] = set()
    for s, f in (places[place] for place in spread):
        found = np.unique(_labels(sequences[s], f))
        present = set(found[is_object(found)].tolist())
        masks.update(label // CLASS_STEP for label in present)
        objects |= {(s, label) for label in present}
    tracks = Counter(label // CLASS_STEP for _, label in objects)
    entry, classes = config.training.mix[name], config.classes
    return DataStatistics(
        entry.format,
        entry.weight,
        len(sequences),
        len(places),
        len(spread),
        {classes[c - 1]: count for c, count in sorted(tracks.items())},
        {classes[c - 1]: count for c, count in sorted(masks.items())},
    )


def _labels(sequence: Sequence[LabelledFrame], index: int) -> LabelArray:
    """Read the labels alone, without decoding the image."""
    if isinstance(sequence, LabelledSequence):
        return sequence.labels.read(index)
    return sequence[index].labels
