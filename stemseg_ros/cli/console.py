"""What commands print: progress bars with the time that remains, and small tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

if TYPE_CHECKING:
    from stemseg_ros.cli.bench import BenchReport
    from stemseg_ros.datasets.check import EntryReport
    from stemseg_ros.labelling.job import RunSummary
    from stemseg_ros.media.bags import BagInfo
    from stemseg_ros.media.damage import Damage
    from stemseg_ros.training.train import TrainingProgress


def _bar(
    *columns: TextColumn, remaining: ProgressColumn | None = None, shown: bool = True
) -> Progress:
    """On standard error, so that standard output holds results alone.

    remaining: column of the remaining time, where it is known better than by the bar's pace.
    """
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        *columns,
        TimeElapsedColumn(),
        remaining or TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not shown,
    )


@contextmanager
def frames_progress(name: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """A bar over frames; yields a function that takes the number of frames done."""
    with _bar() as bar:
        task = bar.add_task(name, total=total)
        yield lambda done: bar.update(task, completed=done)


@contextmanager
def training_progress(shown: bool = True) -> Iterator[Callable[[TrainingProgress], None]]:
    """A bar over steps with the total loss; yields a function that takes a training Progress."""
    # The bar's own estimate would take the steps before a resumption for its pace.
    remaining = TextColumn("{task.fields[remaining]}", style="progress.remaining")
    with _bar(TextColumn("{task.fields[loss]}"), remaining=remaining, shown=shown) as bar:
        task = bar.add_task("train", total=None, loss="", remaining="-:--:--")

        def report(progress: TrainingProgress) -> None:
            bar.update(
                task,
                completed=progress.step,
                total=progress.steps,
                loss=f"loss {progress.losses['total']:.3f}, "
                f"{progress.clips_per_second:.2f} clips/s",
                remaining=str(timedelta(seconds=round(progress.remaining_seconds))),
            )

        yield report


def print_run(summary: RunSummary, out: Path) -> None:
    """Frames, tracks, rates and latency of ``stemseg run``, and where the files are."""
    table = Table(
        show_header=False, title=f"{summary.source}, {summary.config} on {summary.device}"
    )
    table.add_row("frames / tracks", f"{summary.frames} / {summary.tracks}")
    table.add_row("fps, all / pipeline", f"{summary.fps:.2f} / {summary.pipeline_fps:.2f}")
    latency = summary.latency_ms
    table.add_row("latency ms, median / p99", f"{latency['median']:.1f} / {latency['p99']:.1f}")
    for stage, milliseconds in summary.stage_ms.items():
        table.add_row(f"{stage}, ms per window", f"{milliseconds:.1f}")
    console = Console()
    console.print(table)
    console.print(f"{out}: instances.txt, overlay.mp4, summary.json", soft_wrap=True)


def report_damage(damage: Damage) -> None:
    """The frames that a source skipped, on standard error; other losses are logged as they
    show."""
    for line in damage.lines():
        typer.echo(f"stemseg: {line}", err=True)


def print_bench(report: BenchReport) -> None:
    """Milliseconds per frame by stage, rates and memory of ``stemseg bench``."""
    width, height = report.size
    table = Table(
        "stage",
        title=f"{report.config}, {width}x{height}, {', '.join(report.traits.values())}, "
        f"{report.precision}, {report.engine}",
    )
    table.add_column("median ms / frame", justify="right")
    table.add_column("p90", justify="right")
    for stage, times in report.stages.items():
        table.add_row(stage, f"{times.median_ms:.2f}", f"{times.p90_ms:.2f}")
    console = Console()
    console.print(table)
    cuda = f", CUDA {report.peak_cuda_mb:.0f} MB" if report.peak_cuda_mb is not None else ""
    console.print(
        f"{report.fps:.2f} frames/s over {report.frames} frames, "
        f"{report.instances_per_frame:g} instances per frame; "
        f"peak memory: process {report.peak_process_mb:.0f} MB{cuda}",
        soft_wrap=True,
    )


def print_bag(info: BagInfo) -> None:
    """Storage, duration and topics of a bag."""
    table = Table("topic", "type", "messages")
    for topic in info.topics:
        table.add_row(topic.name, topic.type, str(topic.messages))
    console = Console()
    console.print(
        f"{info.path}: {info.storage}, {info.messages} messages, {info.duration_ns / 1e9:.2f} s",
        soft_wrap=True,
    )
    console.print(table)


def print_data(reports: list[EntryReport]) -> None:
    """Contents of each entry of a training mix, ``stemseg data check``."""
    table = Table("entry", title="training.mix")
    for column in ("sequences", "frames", "size", "objects (masks)", "ignored", "bad"):
        table.add_column(column, justify="right")
    for report in reports:
        sizes = [f"{width}x{height}" for (width, height), _ in report.sizes.most_common(1)]
        sizes += [f"{len(report.sizes) - 1} other sizes"] if len(report.sizes) > 1 else []
        objects = [
            f"{name} {count} ({report.masks[name]})"
            for name, count in sorted(report.tracks.items())
        ]
        table.add_row(
            f"{escape(report.name)}\n{report.format}, {report.share:.1%}",
            str(report.sequences),
            str(report.frames),
            "\n".join(sizes),
            "\n".join(objects),
            f"{report.ignored:.2%}",
            str(len(report.bad)),
        )
    Console().print(table)
