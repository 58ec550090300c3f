"""What a model card shows: quality by object size, curves of training, pictures of failures.

    python -m benchmarks.model_card DATA --config lite --out out/card --log RUN/log.csv ...

Writes card.md (tables), card.json (the same numbers), curves.jpg and failures.jpg. Everything is
measured on the part of the driving pack that training never sees.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import cv2
import matplotlib as mpl
import numpy as np
import torch
import typer
from matplotlib.figure import Figure
from rich.console import Console
from rich.markup import escape

from benchmarks.development import (
    MaskQuality,
    SequenceResult,
    failures,
    held_out,
    mask_quality,
    measures,
    run_sequence,
)
from stemseg_ros.datasets.pseudo_label_repair import repair
from stemseg_ros.datasets.sequence import IGNORE_LABEL, LabelledSequence
from stemseg_ros.errors import StemsegError
from stemseg_ros.media.overlay import track_color
from stemseg_ros.models.stemseg.settings import Settings, load_settings
from stemseg_ros.records import Image
from stemseg_ros.stream import open_model

SIZES = (100, 300, 1000, 3000, 10_000)
"""Bounds of the size bins, pixels of the source image."""
SMOOTHING = 15
"""Lines of the log that a point of a curve is the mean of."""
SHOWN = 6
"""Failures in the picture."""
MIN_FAILURE = 500
"""Smallest failure worth a picture, pixels."""
CROP = (240, 420)
"""Height and width of the picture of a failure."""


def main(
    data: Annotated[Path, typer.Argument(help="The driving pack.")],
    out: Annotated[Path, typer.Option(help="Folder for the results.")],
    config: Annotated[str, typer.Option(help="Preset or YAML file.")] = "lite",
    checkpoint: Annotated[str | None, typer.Option(help="Weights; default: bundled.")] = None,
    log: Annotated[
        list[Path] | None, typer.Option(exists=True, dir_okay=False, help="log.csv of each phase.")
    ] = None,
) -> None:
    """Measure a model on the held-out part of the driving pack."""
    try:
        card(data, out, load_settings(config), checkpoint, log)
    except StemsegError as error:
        Console().print(f"[red]error[/red] {escape(str(error))}")
        raise typer.Exit(2) from error
    Console().print(f"card.md, card.json and pictures are in {out}")


def card(
    data: Path, out: Path, settings: Settings, checkpoint: str | None, log: list[Path] | None
) -> None:
    """Write everything to ``out``. Raises CheckpointError, DataError."""
    out.mkdir(parents=True, exist_ok=True)
    stream = open_model(settings, checkpoint, "cpu").stream()
    clips, stills = held_out(data)
    groups = {
        "clips/0003": clips,
        "city and KITTI stills": [s for s in stills if s.source != "stills_coco"],
        "COCO stills": [s for s in stills if s.source == "stills_coco"],
    }
    results = {
        name: [run_sequence(stream, sequence) for sequence in sequences]
        for name, sequences in groups.items()
    }
    clip = results["clips/0003"][0]
    by_size = {group: _by_size(found, settings) for group, found in results.items()}
    report = {
        "torch": torch.__version__,
        "precision": settings.runtime.precision,
        "clips/0003": measures([clip]),
        "clips/0003 with repaired truth": measures([_with_repaired_truth(clips[0], clip)]),
        "by_size": {
            group: {name: [_counts(quality) for quality in bins] for name, bins in found.items()}
            for group, found in by_size.items()
        },
    }
    (out / "card.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    (out / "card.md").write_text(_tables(by_size), encoding="utf-8")
    _write_jpeg(out / "failures.jpg", _failure_sheet(clips[0], clip))
    if log:
        _curves(log, out / "curves.jpg")


def _with_repaired_truth(sequence: LabelledSequence, result: SequenceResult) -> SequenceResult:
    """The same prediction against repaired labels (datasets/pseudo_label_repair.py, which sees
    images and labels alone)."""
    repaired, report = repair([sequence.read(index) for index in range(len(sequence))])
    Console().print(f"{sequence.name}: {report}")
    return replace(result, truth=[frame.labels for frame in repaired])


def _bins() -> list[tuple[int, float]]:
    return list(zip((0, *SIZES), (*SIZES, float("inf")), strict=True))


def _by_size(results: Sequence[SequenceResult], config: Settings) -> dict[str, list[MaskQuality]]:
    """Per class: the quality in each size bin."""
    return {
        name: [mask_quality(results, number, *bounds) for bounds in _bins()]
        for number, name in enumerate(config.classes, start=1)
    }


def _counts(quality: MaskQuality) -> list[int]:
    """Smallest area, true masks, found, predicted, right."""
    q = quality
    return [q.min_area, q.truths, q.found, q.predictions, q.correct]


def _tables(by_size: dict[str, dict[str, list[MaskQuality]]]) -> str:
    lines = ["| held out | class | pixels | true masks | found | predicted | right |"]
    lines.append("|---|---|---|---|---|---|---|")
    lines += [
        _row(group, name, below, quality)
        for group, found in by_size.items()
        for name, bins in found.items()
        for (_, below), quality in zip(_bins(), bins, strict=True)
        if quality.truths or quality.predictions
    ]
    return "\n".join(lines) + "\n"


def _row(group: str, name: str, below: float, quality: MaskQuality) -> str:
    size = f"{quality.min_area:,}" + (" and more" if np.isinf(below) else f" to {below - 1:,.0f}")
    return (
        f"| {group} | {name} | {size} | {quality.truths} | {_share(quality.recall)} "
        f"| {quality.predictions} | {_share(quality.precision)} |"
    )


def _share(value: float) -> str:
    return "-" if np.isnan(value) else f"{100 * value:.0f} %"


def _failure_sheet(sequence: LabelledSequence, result: SequenceResult) -> Image:
    """The largest failures, one per frame: the frame beside truth and prediction."""
    rows: list[Image] = []
    frames: set[int] = set()
    for index, area, missed in failures(result, 1, MIN_FAILURE):
        if index in frames or len(rows) == SHOWN:
            continue
        frames.add(index)
        image = sequence.read(index, 2).image
        wrong = _place(result, index, area, missed)
        panels = [image, _tint(image, result.truth[index]), _tint(image, result.predicted[index])]
        kind = "missed" if missed else "wrong"
        titles = [f"frame {index}: {kind}, {area} px", "truth", "prediction"]
        rows.append(
            np.hstack([_titled(_cut(p, wrong), t) for p, t in zip(panels, titles, strict=True)])
        )
    return np.vstack(rows) if rows else np.zeros((*CROP, 3), np.uint8)


def _place(result: SequenceResult, index: int, area: int, missed: bool) -> tuple[int, int]:
    """Middle (y, x) of the mask of a failure, which its number of pixels identifies."""
    labels = (result.truth if missed else result.predicted)[index]
    counted = labels if missed else np.where(result.truth[index] == IGNORE_LABEL, 0, labels)
    ids, areas = np.unique(counted, return_counts=True)
    ys, xs = np.nonzero(counted == ids[np.abs(areas - area).argmin()])
    return int(ys.mean()), int(xs.mean())


def _cut(image: Image, middle: tuple[int, int]) -> Image:
    height, width = (min(c, s) for c, s in zip(CROP, image.shape[:2], strict=True))
    top = int(np.clip(middle[0] - height // 2, 0, image.shape[0] - height))
    left = int(np.clip(middle[1] - width // 2, 0, image.shape[1] - width))
    return image[top : top + height, left : left + width]


def _tint(image: Image, labels: np.ndarray) -> Image:
    drawn = image.copy()
    for label in np.unique(labels[labels > 0]):
        color = (128, 128, 128) if label == IGNORE_LABEL else track_color(int(label) % 1000)
        mask = labels == label
        drawn[mask] = (0.4 * drawn[mask] + 0.6 * np.array(color)).astype(np.uint8)
    return drawn


def _titled(image: Image, title: str) -> Image:
    drawn = image.copy()
    for color, thickness in (((0, 0, 0), 3), ((255, 255, 255), 1)):
        cv2.putText(drawn, title, (6, 18), cv2.FONT_HERSHEY_SIMPLEX, 0.5, color, thickness)
    return drawn


def _curves(logs: list[Path], path: Path) -> None:
    """Losses over the steps of all phases, one after the other."""
    steps: list[float] = []
    values: dict[str, list[float]] = {"lovasz": [], "heatmap": [], "semantic": []}
    ends = [0.0]
    for log in logs:
        for row in csv.DictReader(log.read_text(encoding="utf-8").splitlines()):
            steps.append(ends[-1] + float(row["step"]))
            for name, course in values.items():
                course.append(float(row[name]))
        ends.append(steps[-1])
    kernel = np.ones(SMOOTHING) / SMOOTHING
    with mpl.rc_context({"axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(10, 2.8), layout="constrained")
        for panel, (name, course) in enumerate(values.items(), start=1):
            axes = figure.add_subplot(1, 3, panel)
            smooth = np.convolve(course, kernel, "valid")
            axes.plot(steps[SMOOTHING - 1 :], smooth, color="#1f5f8b")
            for end in ends[1:-1]:
                axes.axvline(end, color="#999999", linestyle=":")
            axes.set(title=name, xlabel="step", ylim=(0, None))
        figure.savefig(path, dpi=90, pil_kwargs={"quality": 85})


def _write_jpeg(path: Path, image: Image) -> None:
    cv2.imwrite(str(path), image, [cv2.IMWRITE_JPEG_QUALITY, 82])


if __name__ == "__main__":
    typer.run(main)
