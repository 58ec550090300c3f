"""report.html: one file that opens offline."""

from __future__ import annotations

import math
from collections.abc import Callable
from importlib import resources
from pathlib import Path

import jinja2

from stemseg_ros.evaluation.inputs import EvaluationInput
from stemseg_ros.evaluation.measures import ALL_CLASSES, COUNTS, MEAN_CLASSES
from stemseg_ros.evaluation.report import charts
from stemseg_ros.evaluation.report.content import EvaluationReport, iou_histogram, lost_lines
from stemseg_ros.evaluation.report.meanings import MEANINGS
from stemseg_ros.evaluation.report.worst_frames import Picture, Scene, scene_pictures, worst_frames
from stemseg_ros.evaluation.scoring import Timing, VariantReport
from stemseg_ros.evaluation.variants import prepare
from stemseg_ros.formats.sequence_masks import EvaluationError, SequenceMasks

SPEED_COLUMNS = (
    "frames",
    "frames/s end to end",
    "frames/s network and clustering",
    "latency, median, ms",
    "latency, p99, ms",
)


def write_page(
    path: Path,
    report: EvaluationReport,
    given: EvaluationInput,
    results: Callable[[str], SequenceMasks],
) -> None:
    """Write the page; pictures and plots are those of the first variant.

    results: masks of a sequence by name, of the first variant before it was prepared. Raises
    EvaluationError.
    """
    shown = report.variants[0]
    scenes = {name: _scene(shown, given, name, results) for name in shown.diagnostics}
    worst, switches = _pictures(shown, scenes)
    text = _template().render(
        report=report,
        shown=shown,
        number=_number,
        amount=_amount,
        totals=(ALL_CLASSES, MEAN_CLASSES),
        meanings={name: text for name, text in MEANINGS.items() if name in _names(report)},
        speed=_speed,
        speed_columns=SPEED_COLUMNS,
        worst=worst,
        switches=switches,
        tracks=[
            charts.ids_over_time(name, found)
            for name, found in shown.diagnostics.items()
            if found.tracks
        ],
        overlaps=charts.overlap_histogram(iou_histogram(shown.diagnostics.values()))
        if shown.diagnostics
        else "",
        latencies=_latencies(report),
        lost=lost_lines(report.variants),
    )
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise EvaluationError(f"cannot write {path}: {error.strerror}") from error


def _template() -> jinja2.Template:
    source = resources.files(__package__).joinpath("report.html.j2").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    return environment.from_string(source)


def _number(name: str, value: float) -> str:
    """A dash for what is not defined."""
    if math.isnan(value):
        return "–"
    return f"{value:g}" if name in COUNTS else f"{value:.1f}"


def _amount(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' * (number != 1)}"


def _names(report: EvaluationReport) -> set[str]:
    """Of all measures that occur."""
    tables = [table for v in report.variants for table in v.measures.values()]
    return {name for table in tables for name in table}


def _speed(timing: Timing) -> list[str]:
    """Values of SPEED_COLUMNS."""
    alone = timing.fps_network_and_clustering
    return [
        f"{timing.frames}",
        f"{timing.fps_end_to_end:.2f}",
        f"{alone:.2f}" if alone else "",
        f"{timing.latency_ms['median']:.0f}",
        f"{timing.latency_ms['p99']:.0f}",
    ]


def _latencies(report: EvaluationReport) -> str:
    runs = {
        variant.variant.run: variant.latency_ms
        for variant in report.variants
        if variant.latency_ms
    }
    return charts.latency_histogram(runs) if runs else ""


def _scene(
    shown: VariantReport,
    given: EvaluationInput,
    name: str,
    results: Callable[[str], SequenceMasks],
) -> Scene:
    truth, result = prepare(shown.variant, given.format, given.truths[name], results(name))
    return Scene(truth, result, given.images.get(name))


def _pictures(
    shown: VariantReport, scenes: dict[str, Scene]
) -> tuple[list[Picture], list[Picture]]:
    """The worst frames, worst first, and every id switch."""
    chosen = worst_frames(shown.diagnostics)
    worst: dict[tuple[str, int], Picture] = {}
    switches: list[Picture] = []
    for name, scene in scenes.items():
        frames = [frame for other, frame in chosen if other == name]
        pictures, strips = scene_pictures(scene, shown.diagnostics[name], frames)
        worst |= {(name, frame): picture for frame, picture in pictures.items()}
        switches += strips
    return [worst[place] for place in chosen], switches
