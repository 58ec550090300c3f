"""Linking of windows alone, on real tracks: how well do window-local clusters become tracks?

The clusters of every window come from KITTI-MOTS ground truth, disturbed by seeded noise; nothing
but linking is measured. Masks are the ground truth at quarter resolution, cut into windows whose
labels are numbered anew at random. Three kinds of problem:

clean      every instance is one cluster
noisy      per window, an instance is absent (10 %), or fused with the nearest of its class that
           comes within 10 cells in some frame (5 %); a drifting ellipse is a false cluster (5 %)
occluded   noisy, and 30 % of the tracks that live long enough are hidden for 6 to 12 frames of
           their life, in the ground truth that is scored against, too

Foreground of a frame is what any of its windows clusters; what one window leaves out is its
outlier.

    python benchmarks/linking.py GROUND_TRUTH_DIR --sequences 2,6,7 --seeds 0,1,2 --json
    linking.json
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table
from scipy.ndimage import distance_transform_edt, find_objects

from stemseg_ros.cli.options import JsonOption
from stemseg_ros.evaluation.measures import (
    ALL_CLASSES,
    MOTS,
    SequenceScores,
    combine,
    score_sequence,
)
from stemseg_ros.formats.kitti_lines import ResultRow, read_results
from stemseg_ros.formats.sequence_masks import SequenceMasks
from stemseg_ros.masks import decode, encode_box
from stemseg_ros.models.stemseg.settings import Settings, load_settings
from stemseg_ros.models.stemseg.stitching import Stitcher, link_windows, unscored

SCALE = 4
"""Pixels of the image per cell."""
IGNORE_CLASS = 10
CLASSES = (1, 2)
VALIDATION = (2, 6, 7, 8, 10, 13, 14, 16, 18)
"""KITTI-MOTS sequences on which results are reported; settings are tuned on the others."""
P_ABSENT, P_FUSED, P_FALSE, P_HIDDEN = 0.10, 0.05, 0.05, 0.30
FUSE_WITHIN = 10.0
"""Cells between two instances that may be fused."""
HIDDEN_FRAMES = (6, 12)
FALSE_IDENTITY = 1_000_000
"""Identities of false clusters: class * FALSE_IDENTITY + window."""
IDS_PER_CLASS = 1000

MEASURES = ("sMOTSA", "HOTA", "AssA", "IDF1", "IDS")
Row = tuple[str, str, str, dict[str, float]]
"""Setting, kind, linker, measures."""
Volume = npt.NDArray[np.int32]
"""Identities or labels, (frames, h, w)."""


@dataclass(frozen=True)
class Problem:
    """One sequence, cut into windows and disturbed."""

    windows: list[tuple[npt.NDArray[np.intp], Volume]]
    """(frame indices, window-local labels)."""
    identities: list[npt.NDArray[np.int32]]
    """For each window, the true identity of every local label; 0 for the background."""
    classes: npt.NDArray[np.uint8]
    """(frames, h, w) class of every clustered cell."""
    truth: list[ResultRow]
    """What is scored against, at full resolution."""
    size: tuple[int, int]
    """(H, W) in pixels."""


def make_problem(
    rows: list[ResultRow], length: int, overlap: int, kind: str, seed: Sequence[int]
) -> Problem:
    """Cut one sequence's ground truth into windows of clusters."""
    size = (rows[0].rle["size"][0], rows[0].rle["size"][1])
    volume = _quarter(rows, size)
    hidden = _hide(volume, np.random.default_rng([*seed, 0])) if kind == "occluded" else {}
    for identity, unseen in hidden.items():
        part = volume[unseen.start : unseen.stop]
        part[part == identity] = 0
    windows, identities = [], []
    classes = np.zeros(volume.shape, np.uint8)
    foreground = np.zeros(volume.shape, bool)
    for number, frames in enumerate(_window_frames(len(volume), length, overlap)):
        rng = np.random.default_rng([*seed, 1, number])
        seen = volume[frames] if kind == "clean" else _disturb(volume[frames], rng, number)
        labels, names = _renumber(seen, rng)
        kinds = np.where(names >= FALSE_IDENTITY, names // FALSE_IDENTITY, names // IDS_PER_CLASS)
        classes[frames] = np.where(classes[frames] == 0, kinds[labels], classes[frames])
        foreground[frames] |= seen > 0
        windows.append((frames, labels))
        identities.append(names)
    for frames, labels in windows:
        labels[foreground[frames] & (labels == 0)] = -1
    truth = [row for row in rows if row.frame not in hidden.get(row.id, ())]
    return Problem(windows, identities, classes, truth, size)


def _quarter(rows: list[ResultRow], size: tuple[int, int]) -> Volume:
    """Ground truth sampled at the centre of each block of SCALE x SCALE pixels; ignored regions
    left out."""
    y, x = (np.minimum(np.arange(0, side, SCALE) + SCALE // 2, side - 1) for side in size)
    volume = np.zeros((1 + max(row.frame for row in rows), len(y), len(x)), np.int32)
    for row in rows:
        if row.class_id != IGNORE_CLASS:
            volume[row.frame][decode(row.rle)[np.ix_(y, x)]] = row.id
    return volume


def _hide(volume: Volume, rng: np.random.Generator) -> dict[int, range]:
    """Frames, strictly inside its life, in which a track is out of sight."""
    hidden = {}
    for identity in np.unique(volume[volume > 0]).tolist():
        alive = np.flatnonzero((volume == identity).any(axis=(1, 2)))
        frames = int(rng.integers(HIDDEN_FRAMES[0], HIDDEN_FRAMES[1] + 1))
        earliest, latest = int(alive[0]) + 1, int(alive[-1]) - frames
        if rng.random() < P_HIDDEN and latest >= earliest:
            start = int(rng.integers(earliest, latest + 1))
            hidden[identity] = range(start, start + frames)
    return hidden


def _window_frames(frames: int, length: int, overlap: int) -> list[npt.NDArray[np.intp]]:
    starts = list(range(0, max(frames - length, 0) + 1, length - overlap))
    if starts[-1] + length < frames:
        starts.append(frames - length)
    return [np.arange(start, min(start + length, frames)) for start in starts]


def _disturb(volume: Volume, rng: np.random.Generator, window: int) -> Volume:
    present = [i for i in np.unique(volume[volume > 0]).tolist() if rng.random() >= P_ABSENT]
    seen = np.where(np.isin(volume, present), volume, 0)
    for one in list(present):
        if one in present and rng.random() < P_FUSED:
            other = _nearest(
                volume, one, [o for o in present if o // IDS_PER_CLASS == one // IDS_PER_CLASS]
            )
            if other is not None:
                larger, smaller = sorted(
                    (one, other), key=lambda i: -np.count_nonzero(volume == i)
                )
                seen[seen == smaller] = larger
                present = [i for i in present if i not in (one, other)]  # nothing is fused twice
    if rng.random() < P_FALSE:
        seen[_ellipse(volume.shape, rng) & (volume == 0)] = (
            FALSE_IDENTITY * int(rng.choice(CLASSES)) + window
        )
    return seen


def _nearest(volume: Volume, one: int, others: list[int]) -> int | None:
    """The other instance that comes closest in any frame, if that is within FUSE_WITHIN."""
    gaps: dict[int, float] = {}
    for frame in volume:
        if (frame == one).any():
            distance = distance_transform_edt(frame != one)
            for other in others:
                gap = float(distance[frame == other].min(initial=np.inf))
                gaps[other] = min(gap, gaps.get(other, np.inf))
    gaps.pop(one, None)
    best = min(gaps, key=lambda o: gaps[o], default=None)
    return best if best is not None and gaps[best] <= FUSE_WITHIN else None


def _ellipse(shape: tuple[int, ...], rng: np.random.Generator) -> npt.NDArray[np.bool_]:
    length, height, width = shape
    center, radius = rng.uniform((0, 0), (height, width)), rng.uniform(3, 12, 2)
    speed = rng.uniform((-1, -3), (1, 3))
    t, y, x = np.ogrid[:length, :height, :width]
    dy, dx = y - center[0] - speed[0] * t, x - center[1] - speed[1] * t
    inside: npt.NDArray[np.bool_] = (dy / radius[0]) ** 2 + (dx / radius[1]) ** 2 <= 1
    return inside


def _renumber(seen: Volume, rng: np.random.Generator) -> tuple[Volume, npt.NDArray[np.int32]]:
    """Labels 1 .. K in an order that means nothing, and the identity of each label."""
    names = np.unique(seen[seen > 0])
    labels = np.concatenate(([0], 1 + rng.permutation(len(names)))).astype(np.int32)
    identities = np.zeros(len(names) + 1, np.int32)
    identities[labels[1:]] = names
    position = np.searchsorted(names, seen) + 1
    return labels[np.where(seen > 0, position, 0)], identities


# Linkers: a problem to one label map per frame


def true_identities(problem: Problem) -> Volume:
    """The most a linker can do: true identities, holes filled from later windows."""
    labels = np.zeros(problem.classes.shape, np.int32)
    for (frames, window), names in zip(problem.windows, problem.identities, strict=True):
        labels[frames] = np.where(labels[frames] > 0, labels[frames], names[np.maximum(window, 0)])
    return labels


def linker(**settings: str | float) -> Callable[[Problem], Volume]:
    """The project's linking with some settings of ``stitching``; a frame is read after its last
    window."""
    return lambda problem: link_windows(problem.windows, stitching(**settings))


def near_online(problem: Problem) -> Volume:
    """``corrected`` as the near-online pipeline emits it: a frame is read after its first window,
    before later ones fill its holes."""
    stitcher = Stitcher(stitching(variant="corrected").stitching)
    labels = np.full(problem.classes.shape, -1, np.int32)
    emitted = 0
    for frames, window in problem.windows:
        stitcher.link(frames, unscored(window))
        for index in range(emitted, int(frames[-1]) + 1):
            labels[index] = stitcher.grid(index)
        emitted = int(frames[-1]) + 1
        stitcher.forget(int(frames[0]))
    return labels


def stitching(**settings: str | float) -> Settings:
    """A config with some settings of ``stitching``."""
    return load_settings("kitti_mots", {f"stitching.{key}": v for key, v in settings.items()})


LINKERS: dict[str, Callable[[Problem], Volume]] = {
    "reference": linker(variant="reference"),
    "minimum IoU alone": linker(variant="reference", matching="corrected", min_iou=0.1),
    "corrected": linker(variant="corrected"),
    "corrected, emitted near-online": near_online,
    "true identities": true_identities,
}


def rows_of(labels: Volume, problem: Problem) -> list[ResultRow]:
    """Label maps as rows at full resolution; the class of a track is that of most of its cells."""
    labels = np.maximum(labels, 0)
    tracks, dense = np.unique(labels, return_inverse=True)
    votes = np.stack(
        [np.bincount(dense.ravel(), problem.classes.ravel() == kind) for kind in CLASSES]
    )
    kinds = np.array(CLASSES)[votes.argmax(axis=0)]
    height, width = problem.size
    rows = []
    for frame, grid in enumerate(dense.reshape(labels.shape)):
        for number, box in enumerate(find_objects(grid)):
            if box is not None and tracks[number + 1] > 0:
                crop = (grid[box] == number + 1).repeat(SCALE, 0).repeat(SCALE, 1)
                top, left = box[0].start * SCALE, box[1].start * SCALE
                rle = encode_box(crop[: height - top, : width - left], top, left, problem.size)
                kind = int(kinds[number + 1])
                rows.append(ResultRow(frame, kind * FALSE_IDENTITY + number + 1, kind, rle))
    return rows


def score(labels: Volume, problem: Problem, name: str) -> SequenceScores:
    """TrackEval's raw scores of one labelled sequence."""
    names = {1: "car", 2: "pedestrian"}
    truth = [row for row in problem.truth if row.class_id != IGNORE_CLASS]
    ignored = {row.frame: row.rle for row in problem.truth if row.class_id == IGNORE_CLASS}
    shape = (name, problem.size, len(labels), names)
    return score_sequence(
        MOTS,
        SequenceMasks(*shape, tuple(truth), ignored),
        SequenceMasks(*shape, tuple(rows_of(labels, problem))),
    )


def main(
    ground_truth: Annotated[
        Path, typer.Argument(help="Folder of KITTI-MOTS ground truth, 0002.txt, ...")
    ],
    sequences: Annotated[str, typer.Option(help="Numbers of sequences.")] = ",".join(
        map(str, VALIDATION)
    ),
    settings: Annotated[str, typer.Option(help="LENGTH:OVERLAP of the windows.")] = "8:4,8:2,16:6",
    kinds: Annotated[str, typer.Option(help="clean, noisy, occluded.")] = "clean,noisy,occluded",
    seeds: Annotated[
        str, typer.Option(help="Seeds of the noise; results are averaged.")
    ] = "0,1,2",
    json_file: JsonOption = None,
) -> None:
    """Score linking on every problem."""
    numbers = [int(part) for part in sequences.split(",")]
    jobs = [
        (setting, kind, int(seed))
        for setting in settings.split(",")
        for kind in kinds.split(",")
        for seed in (seeds.split(",") if kind != "clean" else "0")
    ]  # clean problems have no noise
    rows = []
    for job in track(jobs, description="linking", console=Console(stderr=True)):
        rows += run(ground_truth, numbers, *job)
    table = average(rows)
    show(table)
    if json_file is not None:
        json_file.write_text(json.dumps(table, indent=1) + "\n")


def run(
    ground_truth: Path, sequences: Sequence[int], setting: str, kind: str, seed: int
) -> list[Row]:
    """One problem over all sequences with every linker: a row of measures each."""
    length, overlap = (int(part) for part in setting.split(":"))
    scores: dict[str, dict[str, SequenceScores]] = {name: {} for name in LINKERS}
    spent, windows = dict.fromkeys(LINKERS, 0.0), 0
    for sequence in sequences:
        truth = read_results(ground_truth / f"{sequence:04d}.txt", truth=True)
        problem = make_problem(truth, length, overlap, kind, (seed, sequence, length, overlap))
        windows += len(problem.windows)
        for name, link in LINKERS.items():
            begin = time.perf_counter()
            labels = link(problem)
            spent[name] += time.perf_counter() - begin
            scores[name][str(sequence)] = score(labels, problem, f"{sequence:04d}")
    pooled = {name: combine(MOTS, scores[name])[ALL_CLASSES] for name in LINKERS}
    return [
        (
            setting,
            kind,
            name,
            {
                **{measure: pooled[name][measure] for measure in MEASURES},
                "ms/window": 1e3 * spent[name] / windows,
            },
        )
        for name in LINKERS
    ]


def average(rows: list[Row]) -> list[dict[str, str | float]]:
    """Means over the seeds, one entry for each setting, kind and linker."""
    groups: dict[tuple[str, str, str], list[dict[str, float]]] = {}
    for *key, measures in rows:
        groups.setdefault((key[0], key[1], key[2]), []).append(measures)
    return [
        {
            "setting": setting,
            "kind": kind,
            "linker": name,
            **{measure: float(np.mean([one[measure] for one in group])) for measure in group[0]},
        }
        for (setting, kind, name), group in groups.items()
    ]


def show(table: list[dict[str, str | float]]) -> None:
    """Print the averages."""
    view = Table(*table[0], title="linking alone, car and pedestrian pooled")
    for row in table:
        view.add_row(
            *(value if isinstance(value, str) else f"{value:.1f}" for value in row.values())
        )
    Console(width=140).print(view)


if __name__ == "__main__":
    typer.run(main)
