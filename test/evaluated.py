"""A small KITTI-MOTS data set, labelled bags, and ``stemseg evaluate`` on them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from colour_engine import scene
from typer.testing import CliRunner

from stemseg_ros.cli.demo import VIDEO
from stemseg_ros.cli.main import app
from stemseg_ros.config import load_config
from stemseg_ros.evaluation.truth_bag import write_labelled_bag
from stemseg_ros.formats import kitti_mots_text
from stemseg_ros.formats.kitti_lines import ResultRow
from stemseg_ros.formats.sequence_masks import SequenceMasks
from stemseg_ros.masks import encode
from stemseg_ros.media.sources import Video
from stemseg_ros.models.layers.weights import bundled_checkpoint
from stemseg_ros.records import Image
from stemseg_ros.resources import resource_path

SIZE = (96, 160)
SETTINGS = ["--set", "input.min_dim=96", "--set", "input.max_dim=512"]
CAR, PEDESTRIAN = 1, 2


def frame(index: int) -> tuple[Image, list[ResultRow]]:
    """A car that moves to the right and a pedestrian that stands, with their true masks."""
    places = [(1, CAR, 16, 8 + 4 * index, 32), (2, PEDESTRIAN, 56, 112, 24)]
    image = scene(SIZE, *places)
    rows = [
        ResultRow(index, kind * 1000 + number, kind, encode(image[..., 0] == number))
        for number, kind, *_ in places
    ]
    return image, rows


def evaluate(*arguments: object, code: int = 0) -> str:
    done = CliRunner().invoke(app, ["evaluate", *map(str, arguments)])
    assert done.exit_code == code, done.output
    return " ".join(done.output.split())


def run(dataset: Path, out: Path, *arguments: object) -> dict[str, Any]:
    evaluate(
        "--ground-truth",
        dataset,
        "--out",
        out,
        "--checkpoint",
        "random",
        "--device",
        "cpu",
        *SETTINGS,
        *arguments,
    )
    report: dict[str, Any] = json.loads((out / "report.json").read_text())
    return report


@dataclass(frozen=True)
class Clip:
    """A labelled bag to be made, and the options to evaluate it with."""

    images: list[Image]
    rows: tuple[ResultRow, ...]
    stamps: list[int]
    options: list[str]

    def write(self, bag: Path) -> None:
        truth = SequenceMasks(
            bag.stem,
            self.images[0].shape[:2],
            len(self.images),
            kitti_mots_text.CLASSES,
            self.rows,
        )
        write_labelled_bag(
            zip(range(len(self.images)), self.stamps, self.images, strict=True),
            truth,
            bag,
            topic="/camera/image_raw",
            frame_id="camera",
            encoding="bgr8",
            storage=None,
            progress=lambda count: None,
        )


LOOPED = 2 * [(25 + index) * 400_000_000 for index in range(5)]
"""Stamps of a stream that starts again, in ns; a step back of less than a second is disorder."""


def drawn_clip(stamps: list[int]) -> Clip:
    """Random weights: without thresholds they find something in most frames."""
    frames = [frame(index) for index in range(len(stamps))]
    settings = (
        "clustering.min_heat=0",
        "clustering.foreground_probability=0",
        "clustering.max_instances=5",
        "output.min_area=0",
        "output.min_score=0",
    )
    return Clip(
        [image for image, _ in frames],
        tuple(row for _, rows in frames for row in rows),
        stamps,
        [part for setting in settings for part in ("--set", setting)],
    )


def filmed_clip() -> Clip:
    """The bundled weights with their own thresholds, on two cars of the bundled video.

    The ground truth is boxes around the cars.
    """
    top, left, height, width = 300, 760, 256, 480
    with Video(resource_path(VIDEO)) as video:
        images = [
            image[top : top + height, left : left + width].copy() for _, image in islice(video, 6)
        ]
    rows = []
    for number, (x, y, w, h) in enumerate([(811, 405, 134, 90), (1010, 405, 178, 90)], start=1):
        box = np.zeros((height, width), bool)
        box[y - top : y - top + h, x - left : x - left + w] = True
        rows += [ResultRow(i, CAR * 1000 + number, CAR, encode(box)) for i in range(6)]
    weights = str(bundled_checkpoint(load_config("lite")))
    options = ["--config", "lite", "--checkpoint", weights, "--set", "input.min_dim=256"]
    return Clip(images, tuple(rows), [i * 40_000_000 for i in range(6)], options)
