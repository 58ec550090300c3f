"""Resources of a process, and the report of the faults tried."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

WARM_UP_SHARE = 0.2
"""First part of the samples that a slope leaves out."""


class FaultError(RuntimeError):
    """Something that must happen did not; the message names it."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Resources of a process (Linux)."""

    rss_mb: float
    """Resident memory, MB (10^6 bytes)."""
    anonymous_mb: float
    """The part of it that is no file: what a leak adds to."""
    threads: int
    files: int
    """Open file descriptors."""

    @classmethod
    def of(cls, pid: int) -> Usage:
        """Of a running process. Raises FaultError if it is gone."""
        try:
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
            files = len(list(Path(f"/proc/{pid}/fd").iterdir()))
        except OSError as error:
            raise FaultError(f"process {pid} is gone") from error
        status = {name: value.split() for name, _, value in (x.partition(":") for x in lines)}
        rss, anonymous = (int(status[name][0]) * 1024 / 1e6 for name in ("VmRSS", "RssAnon"))
        return cls(rss, anonymous, int(status["Threads"][0]), files)


@dataclass
class Report:
    """Outcome of one fault: numbers, and what had to hold."""

    fault: str
    numbers: dict[str, float] = field(default_factory=dict)
    checks: dict[str, bool] = field(default_factory=dict)
    series: dict[str, list[float]] = field(default_factory=dict)
    """Courses that the JSON file keeps and the table leaves out."""

    @property
    def passed(self) -> bool:
        """Whether everything holds that had to."""
        return all(self.checks.values())


def show_reports(reports: Sequence[Report]) -> None:
    """Print a table for each."""
    console = Console()
    for report in reports:
        table = Table("what", "found", title=report.fault, title_justify="left")
        for name, value in report.numbers.items():
            table.add_row(name, f"{value:.4g}" if isinstance(value, float) else f"{value:,}")
        for name, holds in report.checks.items():
            table.add_row(name, "[green]yes" if holds else "[red]NO")
        console.print(table)


def write_reports(reports: Sequence[Report], path: Path) -> None:
    """The same as JSON."""
    rows = [{**asdict(report), "passed": report.passed} for report in reports]
    path.write_text(json.dumps(rows, indent=1) + "\n")


def growth_kb(samples: Sequence[Usage]) -> float:
    """Slope of the memory in kB per sample, by a straight line through those after the warm-up."""
    rest = [sample.anonymous_mb for sample in samples[int(len(samples) * WARM_UP_SHARE) :]]
    if len(rest) < 2:
        return 0.0
    return float(np.polyfit(np.arange(len(rest)), rest, 1)[0]) * 1e3


def leaks(report: Report, samples: Sequence[Usage], kind: str) -> None:
    """Add what a process holds after the warm-up and in the end to a report."""
    first, last = samples[int(len(samples) * WARM_UP_SHARE)], samples[-1]
    report.numbers |= {
        f"memory in the end, MB ({kind})": last.rss_mb,
        f"growth, kB per {kind}": growth_kb(samples),
        f"threads ({kind})": last.threads,
        f"open files ({kind})": last.files,
    }
    report.series[f"memory after each {kind}, MB"] = [sample.anonymous_mb for sample in samples]
    report.checks[f"no more threads, {kind}"] = last.threads <= first.threads
    report.checks[f"no more open files, {kind}"] = last.files <= first.files
