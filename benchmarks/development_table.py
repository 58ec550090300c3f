"""The development measures of one or several models, side by side, as model cards show them.

    python -m benchmarks.development_table DATA lite
    python -m benchmarks.development_table DATA lite lite:out/mine/weights.safetensors

Each model is a preset or YAML file and, after a colon, its weights (else the bundled ones).

Measured on data that training never sees: the available KITTI-MOTS validation frames (clip and
stills), every fifth KITTI and Penn-Fudan still, and the held-out clip of the driving pack with
repaired labels. The clip is small, so each of its numbers comes with its range over small
disturbances of the images.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import numpy.typing as npt
import typer
from rich.console import Console
from rich.markup import escape

from benchmarks.development import (
    SequenceResult,
    mask_quality,
    measures,
    run_sequence,
    tracking,
)
from stemseg_ros.config import Config
from stemseg_ros.datasets.classes import class_targets
from stemseg_ros.datasets.driving import CLASSES, load_driving, load_stills
from stemseg_ros.datasets.folders import images_in
from stemseg_ros.datasets.kitti_mots import mask_labels
from stemseg_ros.datasets.pseudo_label_repair import repair
from stemseg_ros.datasets.sequence import LabelledFrame, LabelledSequence
from stemseg_ros.errors import StemsegError
from stemseg_ros.formats.kitti_mots_text import CLASSES as KITTI_CLASSES
from stemseg_ros.formats.kitti_mots_text import read_file
from stemseg_ros.stream import Stream, open_model

Image = npt.NDArray[np.uint8]
Rows = dict[str, str]
"""Cells of one model by the name of the measure."""
CLIP = "0010"
"""The KITTI-MOTS validation sequence that is at hand."""
AREAS = {1: (300, 10_000), 2: (300,)}
"""Smallest masks that are counted, by class."""


@dataclass(frozen=True, slots=True)
class DevelopmentData:
    """What is measured on, decoded when it is read."""

    kitti_clip: LabelledSequence
    stills: Mapping[str, Sequence[LabelledSequence]]
    """By name; every still is shown alone."""
    driving_clip: LabelledSequence | None


def main(
    data: Annotated[
        Path, typer.Argument(help="Folder of driving, driving_more and kitti_mots_dev.")
    ],
    models: Annotated[list[str], typer.Argument(help="CONFIG or CONFIG:WEIGHTS.")],
) -> None:
    """Print the development measures of models as a Markdown table."""
    columns: dict[str, Rows] = {}
    try:
        for model in models:
            name, _, weights = model.partition(":")
            stream = open_model(name, weights or None, "cpu").stream()
            columns[model] = development_rows(stream, load_development(data, stream.config))
    except StemsegError as error:
        Console(stderr=True).print(f"[red]error[/red] {escape(str(error))}")
        raise typer.Exit(2) from error
    typer.echo(table(columns))


def load_development(data: Path, config: Config) -> DevelopmentData:
    """data: the folder of ``driving``, ``driving_more`` and ``kitti_mots_dev``. Raises
    DataError."""
    targets = class_targets(CLASSES, config.classes, str(data))
    root, more = data / "kitti_mots_dev", data / "driving_more"
    kitti = [
        still
        for folder in ("stills_kitti_full", "stills_kitti_more")
        for still in load_stills(more / folder, targets, "development")
    ]
    people = load_stills(more / "stills_penn_fudan", targets, "development")
    clips = [s for s in load_driving(data / "driving", "development", targets) if len(s) > 1]
    return DevelopmentData(
        _kitti_clip(root, config),
        {
            "kitti_mots_dev/stills": load_stills(root / "stills", targets),
            "KITTI stills": kitti,
            "Penn-Fudan": people,
        },
        clips[0] if clips else None,
    )


def development_rows(stream: Stream, data: DevelopmentData) -> Rows:
    """All measures of one model, in per cent. Raises DataError, MissingExtraError."""
    rows = clip_rows(stream, data.kitti_clip)
    for name, stills in data.stills.items():
        results = [run_sequence(stream, still) for still in stills]
        rows |= still_rows(name, results, stream.config)
    if data.driving_clip is not None:
        clip = data.driving_clip
        found = measures([_with_repaired_truth(clip, run_sequence(stream, clip))])
        rows[f"{clip.name}, repaired: car sMOTSA / IDS"] = (
            f"{found['sMOTSA']:.1f} / {found['IDS']:.0f}"
        )
        rows[f"{clip.name}, repaired: car sMOTSA ≥ 1,000 px"] = f"{found['sMOTSA_large']:.1f}"
    return rows


def clip_rows(stream: Stream, clip: LabelledSequence) -> Rows:
    """Tracking of cars as the clip is, with the range over the disturbances in brackets; people
    likewise."""
    runs = [run_sequence(stream, clip, change=change) for change in DISTURBANCES.values()]
    rows: Rows = {}
    for number, name in enumerate(stream.config.classes[:2], start=1):
        scores = [tracking(run, number) for run in runs]
        for key, factor in (("sMOTSA", 100), ("HOTA", 100), ("DetA", 100), ("IDS", 1)):
            values = [factor * score[key] for score in scores]
            rows[f"kitti_mots_dev: {name} {key}"] = (
                f"{values[0]:.1f} ({np.mean(values):.1f}; {min(values):.1f} to {max(values):.1f})"
            )
    return rows


def still_rows(name: str, results: Sequence[SequenceResult], config: Config) -> Rows:
    """Found and right masks by class, from some sizes on."""
    rows: Rows = {}
    for number, class_name in enumerate(config.classes[:2], start=1):
        for area in AREAS[number]:
            q = mask_quality(results, number, area)
            if q.truths:
                rows[f"{name}: {class_name} ≥ {area:,} px, {q.truths} true, found / right"] = (
                    f"{100 * q.recall:.1f} / {100 * q.precision:.1f}"
                )
    return rows


def table(columns: Mapping[str, Rows]) -> str:
    """A Markdown table with one column for each model."""
    names = list(dict.fromkeys(name for rows in columns.values() for name in rows))
    lines = [f"| measure | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    lines += [
        f"| {name} | {' | '.join(rows.get(name, '-') for rows in columns.values())} |"
        for name in names
    ]
    return "\n".join(lines) + "\n"


def _kitti_clip(root: Path, config: Config) -> LabelledSequence:
    targets = class_targets(KITTI_CLASSES, config.classes, str(root))
    images = tuple(images_in(root / "training" / "image_02" / CLIP))
    file = root / "instances_txt" / f"{CLIP}.txt"
    masks = read_file(file, CLIP, KITTI_CLASSES, truth=True)
    return LabelledSequence(CLIP, "kitti_mots", images, mask_labels(file, masks, images, targets))


def _with_repaired_truth(sequence: LabelledSequence, result: SequenceResult) -> SequenceResult:
    repaired, _ = repair([sequence.read(index) for index in range(len(sequence))])
    return replace(result, truth=[frame.labels for frame in repaired])


def _coded(frame: LabelledFrame) -> LabelledFrame:
    _, data = cv2.imencode(".jpg", frame.image, [cv2.IMWRITE_JPEG_QUALITY, 96])
    return replace(frame, image=np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8))


def _brighter(factor: float) -> Callable[[LabelledFrame], LabelledFrame]:
    return lambda frame: replace(
        frame, image=cv2.convertScaleAbs(frame.image, alpha=factor).astype(np.uint8)
    )


def _shifted(frame: LabelledFrame) -> LabelledFrame:
    """One pixel to the right and down, labels too."""
    image = np.pad(frame.image[:-1, :-1], [(1, 0), (1, 0), (0, 0)], mode="edge")
    labels = np.pad(frame.labels[:-1, :-1], [(1, 0), (1, 0)], mode="edge")
    return LabelledFrame(image, labels)


DISTURBANCES: dict[str, Callable[[LabelledFrame], LabelledFrame]] = {
    "as it is": lambda frame: frame,
    "JPEG, quality 96": _coded,
    "5 % darker": _brighter(0.95),
    "5 % brighter": _brighter(1.05),
    "shifted by a pixel": _shifted,
}
"""What the clip is changed by."""


if __name__ == "__main__":
    typer.run(main)
