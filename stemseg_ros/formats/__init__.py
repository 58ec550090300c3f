"""The files of the benchmarks: one module per format, all with the same three functions.

    read_truth(path)               -> {sequence name: SequenceMasks}
    read_results(path, truths)     -> {sequence name: SequenceMasks} for those of ``truths``
    write(path, sequences, truth)  writes the files of a benchmark, results or ground truth

All refuse what they cannot read with an EvaluationError that names file and line, or file and
place.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Protocol

from stemseg_ros.formats import (
    bdd100k_bitmasks,
    davis_pngs,
    kitti_mots_text,
    mots_challenge_text,
    youtube_vis_json,
    youtube_vos_pngs,
)
from stemseg_ros.formats.sequence_masks import EvaluationError, SequenceMasks


class Format(Protocol):
    """What every module of this package provides."""

    def read_truth(self, path: Path) -> dict[str, SequenceMasks]:
        """Ground truth of every sequence below the path."""

    def read_results(
        self, path: Path, truths: Mapping[str, SequenceMasks]
    ) -> dict[str, SequenceMasks]:
        """Results for every sequence of the ground truth."""

    def write(self, path: Path, sequences: Iterable[SequenceMasks], truth: bool = False) -> None:
        """Write a benchmark's files."""


FORMATS: dict[str, Format] = {
    "kitti_mots": kitti_mots_text,
    "mots_challenge": mots_challenge_text,
    "davis": davis_pngs.INSTANCES,
    "davis2016": davis_pngs.BINARY,
    "davis2016_semi": davis_pngs.BINARY,
    "davis2017_semi": davis_pngs.FOLLOWED,
    "youtube_vis": youtube_vis_json,
    "youtube_vos": youtube_vos_pngs,
    "bdd100k": bdd100k_bitmasks,
}


def format_named(name: str) -> Format:
    """Raises EvaluationError that lists the formats."""
    if name not in FORMATS:
        raise EvaluationError(f"unknown format '{name}'; formats: {', '.join(FORMATS)}")
    return FORMATS[name]
