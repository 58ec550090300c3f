"""How well objects are followed: J and F of every object from the frame after its first mask on.

    python -m benchmarks.following DATA --json out/following.json

DATA is the folder of ``davis2016_dev``, ``kitti_mots_dev`` and ``driving``. Each object is given
once, by its true mask in the first frame that shows at least ``--min-area`` pixels of it, and all
objects of a video are followed at once. Frames count from the next one to the last that shows the
object, without those that do not; J and F are means over frames, then over objects. Labels of the
driving clip are repaired first (``stemseg_ros/datasets/pseudo_label_repair.py``).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.table import Table
from trackeval.metrics.j_and_f import JAndF

from benchmarks.development import FRAME_NS
from stemseg_ros.cli.options import JsonOption, SetOption, config_from
from stemseg_ros.datasets.davis import MODES
from stemseg_ros.datasets.driving import load_driving
from stemseg_ros.datasets.folders import images_in, paired_folders
from stemseg_ros.datasets.kitti_mots import mask_labels
from stemseg_ros.datasets.pseudo_label_repair import repair
from stemseg_ros.datasets.sequence import (
    CLASS_STEP,
    LabelArray,
    LabelFiles,
    LabelledFrame,
    LabelledSequence,
    is_object,
)
from stemseg_ros.errors import StemsegError
from stemseg_ros.evaluation.linkers import mask_iou
from stemseg_ros.formats.kitti_mots_text import CLASSES, read_file
from stemseg_ros.formats.label_pngs import read_png
from stemseg_ros.masks import Bools, Rle, decode, encode
from stemseg_ros.records import Frame, FrameResult, Prompt
from stemseg_ros.stream import Model, open_model

SIZES = (300, 1_000, 10_000)
"""Borders of the rows of the table: pixels of the first mask."""
BOUNDARY = 0.008
"""Tolerance of F, relative to the image diagonal, as in DAVIS."""
Video = Sequence[LabelledFrame]


@dataclass(frozen=True, slots=True)
class Followed:
    """Quality of one object."""

    video: str
    label: int
    area: int
    """Pixels of the mask that was given."""
    frames: int
    j: float
    f: float


def read_videos(data: Path) -> dict[str, Video]:
    """The development videos with their labels, decoded. Raises DataError."""
    videos: dict[str, Video] = {}
    for folder in sorted((data / "davis2016_dev/JPEGImages/480p").glob("*")):
        videos[folder.name] = _davis(folder)[:]
    for file in sorted((data / "kitti_mots_dev/instances_txt").glob("*.txt")):
        videos[f"KITTI-MOTS {file.stem}"] = _kitti(file)[:]
    for sequence in load_driving(data / "driving", "development"):
        if len(sequence) > 1:
            videos[sequence.name] = repair(sequence[:])[0]
    return videos


def _davis(folder: Path) -> LabelledSequence:
    labels = folder.parents[2] / "Annotations/480p" / folder.name
    frames, files = paired_folders(folder, labels)
    return LabelledSequence(folder.name, "davis", frames, LabelFiles(files, _foreground))


def _foreground(file: Path) -> LabelArray:
    return (read_png(file, MODES) > 0).astype(np.int32) * (CLASS_STEP + 1)


def _kitti(file: Path) -> LabelledSequence:
    images = images_in(file.parents[1] / "training/image_02" / file.stem)
    masks = read_file(file, file.stem, CLASSES, truth=True)
    labels = mask_labels(file, masks, images, {number: number for number in CLASSES})
    return LabelledSequence(file.stem, "kitti_mots", tuple(images), labels)


def first_masks(video: Video, min_area: int) -> dict[int, int]:
    """The frame in which each object is given, by its label."""
    first: dict[int, int] = {}
    for number, frame in enumerate(video):
        labels, counts = np.unique(frame.labels, return_counts=True)
        for label, count in zip(labels.tolist(), counts.tolist(), strict=True):
            if is_object(np.array(label)) and count >= min_area:
                first.setdefault(label, number)
    return first


def follow(model: Model, video: Video, first: Mapping[int, int]) -> Iterator[dict[int, Bools]]:
    """Give the objects and yield the masks found in each frame, by label. Raises PromptError."""
    stream = model.stream()
    ids = {label: number for number, label in enumerate(sorted(first), 1)}
    names = {number: label for label, number in ids.items()}
    for position, frame in enumerate(video):
        prompts = tuple(
            Prompt(ids[label], 1, encode(frame.labels == label))
            for label, start in first.items()
            if start == position
        )
        for outcome in stream.push(Frame(frame.image, (1 + position) * FRAME_NS, prompts)):
            assert isinstance(outcome, FrameResult), outcome
            yield {names[one.track_id]: decode(one.rle) for one in outcome.instances}


def score(name: str, video: Video, first: Mapping[int, int], model: Model) -> list[Followed]:
    """Follow the objects of a video and score each of them."""
    scores: dict[int, list[tuple[float, float]]] = {label: [] for label in first}
    for position, masks in enumerate(follow(model, video, first)):
        labels = video[position].labels
        for label, start in first.items():
            truth = labels == label
            if position > start and truth.any():
                found = masks.get(label, np.zeros_like(truth))
                scores[label].append((mask_iou(found, truth), boundary(found, truth)))
    followed = []
    for label, start in first.items():
        if scores[label]:
            j, f = (100 * float(value) for value in np.mean(scores[label], 0))
            area = int((video[start].labels == label).sum())
            followed.append(Followed(name, label, area, len(scores[label]), j, f))
    return followed


def boundary(found: Bools, truth: Bools) -> float:
    """F: agreement of the borders, by TrackEval."""
    pair: tuple[list[list[Rle]], list[list[Rle]]] = [[encode(truth)]], [[encode(found)]]
    return float(JAndF._compute_f(*pair, 0, 0, BOUNDARY)[0])


def summarise(followed: Sequence[Followed]) -> Table:
    """One row for each video and size of the first mask."""
    table = Table("video", "first mask", "objects", "J", "F", "J&F")
    for video in dict.fromkeys(one.video for one in followed):
        chosen = [one for one in followed if one.video == video]
        bounds = [0, *SIZES, sys.maxsize]
        groups = {
            f"{low:,} px and more" if high == sys.maxsize else f"{low:,} to {high:,} px": [
                one for one in chosen if low <= one.area < high
            ]
            for low, high in pairwise(bounds)
        }
        if sum(map(bool, groups.values())) > 1:
            groups["all"] = chosen
        for size, group in groups.items():
            if group:
                j, f = (float(np.mean([getattr(one, key) for one in group])) for key in "jf")
                table.add_row(
                    video, size, str(len(group)), f"{j:.1f}", f"{f:.1f}", f"{(j + f) / 2:.1f}"
                )
    return table


def main(
    data: Annotated[Path, typer.Argument(help="Folder of the development data.")],
    config: Annotated[str, typer.Option(help="Preset that takes prompts.")] = "hodor_lite",
    checkpoint: Annotated[str | None, typer.Option(help="Weights.")] = None,
    min_area: Annotated[int, typer.Option(min=1, help="Least pixels of a first mask.")] = 300,
    video: Annotated[list[str] | None, typer.Option(help="Only these videos.")] = None,
    settings: SetOption = None,
    json_file: JsonOption = None,
) -> None:
    """Measure how well objects are followed."""
    try:
        model = open_model(config_from(config, settings), checkpoint)
        followed = [
            one
            for name, frames in read_videos(data).items()
            if not video or name in video
            for one in score(name, frames, first_masks(frames, min_area), model)
        ]
    except StemsegError as error:
        typer.echo(f"following: {error}", err=True)
        sys.exit(1)
    Console(highlight=False).print(summarise(followed))
    if json_file:
        json_file.write_text(json.dumps([asdict(one) for one in followed], indent=2) + "\n")


if __name__ == "__main__":
    typer.run(main)
