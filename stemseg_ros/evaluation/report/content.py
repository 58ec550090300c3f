"""Content of report.json and report.html: scores and how they were obtained."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from stemseg_ros.config import dump_config
from stemseg_ros.evaluation.inputs import EvaluationInput
from stemseg_ros.evaluation.matches import MatchDiagnostics
from stemseg_ros.evaluation.runs import Setup
from stemseg_ros.evaluation.scoring import VariantReport
from stemseg_ros.execution.device import describe_device, resolve_device
from stemseg_ros.labelling.job import versions


@dataclass(frozen=True, slots=True)
class EvaluationReport:
    """Content of report.json and report.html."""

    format: str
    ground_truth: str
    sequences: int
    frames: int
    date: str
    """Local time, to the minute."""
    command: str
    """The command line that was given."""
    variants: list[VariantReport]
    config: str | None
    """The whole tree as YAML, for runs."""
    checkpoint: str | None
    versions: dict[str, str]
    hardware: dict[str, str]


def summarise(
    given: EvaluationInput, ground_truth: Path, variants: list[VariantReport], setup: Setup | None
) -> EvaluationReport:
    """The whole report."""
    return EvaluationReport(
        given.format,
        ground_truth.name,
        len(given.truths),
        sum(truth.frames for truth in given.truths.values()),
        datetime.now().astimezone().isoformat(" ", "minutes"),
        shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        variants,
        dump_config(setup.config) if setup else None,
        (setup.checkpoint or "bundled") if setup else None,
        evaluation_versions(),
        hardware(setup.device if setup else "cpu"),
    )


def lost_lines(variants: Iterable[VariantReport]) -> list[str]:
    """List frames without predictions, one line each; lines of several variants appear once."""
    return list(
        dict.fromkeys(
            f"sequence {name}: {line}"
            for variant in variants
            for name, lost in variant.lost.items()
            for line in lost.lines()
        )
    )


def evaluation_versions() -> dict[str, str]:
    """Versions of the software that computed the numbers."""
    return {**versions(), "trackeval": version("trackeval"), "pycocotools": version("pycocotools")}


def hardware(device: str) -> dict[str, str]:
    """Device, processor and operating system."""
    return {
        "device": describe_device(resolve_device(device)),
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "system": platform.platform(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def to_json(report: EvaluationReport) -> dict[str, Any]:
    """report.json: measures in percent, counts as numbers."""
    return {
        "format": report.format,
        "ground_truth": report.ground_truth,
        "unit": "percent, except counts",
        "runs": [_variant_json(variant) for variant in report.variants],
        "config": report.config,
        "checkpoint": report.checkpoint,
        "versions": report.versions,
        "hardware": report.hardware,
    }


def _variant_json(report: VariantReport) -> dict[str, Any]:
    return {
        "name": report.variant.name,
        "source": report.variant.source,
        "post_filter": report.variant.post_filter,
        "through_ros": report.variant.through_ros,
        "measures": report.measures,
        "sequences": report.sequences,
        "lost": {name: asdict(lost) for name, lost in report.lost.items()},
        "timing": asdict(report.timing) if report.timing else None,
        "id_switches": {
            name: [asdict(switch) for switch in found.switches]
            for name, found in report.diagnostics.items()
            if found.switches
        },
        "iou_histogram": iou_histogram(report.diagnostics.values()),
    }


def iou_histogram(diagnostics: Iterable[MatchDiagnostics]) -> dict[str, list[int]]:
    """True masks by size and best IoU in tenths, over all sequences."""
    total: dict[str, list[int]] = {}
    for found in diagnostics:
        for size, counts in found.overlaps.items():
            total[size] = np.add(total.get(size, [0] * len(counts)), counts).tolist()
    return total
