"""Soak test: half an hour of images through the real node, whose memory must stay constant.

The bundled video, forwards and backwards, at a steady rate; memory, threads and open files of the
node are sampled, and with CUDA the memory of the device. A straight line through the samples after
the warm-up gives the growth per hour. Ends with exit code 1 if something grows or is lost.

    python -m soak.memory --minutes 30 --rate 5 --out out/soak --plot out/soak/soak.jpg
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import cycle
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress
from scipy.stats import linregress

from soak.reports import Report, Usage, show_reports, write_reports
from soak.rig import SECOND, Rig, own_domain, video_frames
from stemseg_ros.errors import needs_extra
from stemseg_ros.replay.processes import termination_as_exit

MB_PER_HOUR = 10.0
"""Growth that counts as none: a quarter of a gigabyte in a day."""
DROPPED = "frames_dropped"
"""Count of the frames that made room for others, when the machine was too slow for the rate."""
FAULTS = ("frames_lost", "frames_refused", "frames_failed")
"""Counts of the node's diagnostics that have to stay zero."""


@dataclass(frozen=True, slots=True)
class Sample:
    """The state of the node at one time."""

    seconds: float
    """Since the first image."""
    usage: Usage
    results: int
    """Messages since the sample before."""
    device_mb: float | None
    """Memory of the device that PyTorch holds, MB; none without CUDA."""


@dataclass(frozen=True, slots=True)
class Slope:
    """A straight line through samples over time."""

    per_hour: float
    error: float
    """Standard error of per_hour."""
    start: float
    """Value at time 0."""


def slope(seconds: Sequence[float], values: Sequence[float]) -> Slope:
    """Least squares."""
    line = linregress(seconds, values)
    return Slope(*(float(x) for x in (line.slope * 3600, line.stderr * 3600, line.intercept)))


def soak(rig: Rig, minutes: float, rate: float, interval: float) -> tuple[list[Sample], Report]:
    """Run the stream; samples, and a report with the counts."""
    samples: list[Sample] = []
    shown, received, epochs = 0, 0, set[int]()
    with (
        rig.node() as node,
        node.robot() as peer,
        Progress(console=Console(stderr=True)) as progress,
    ):
        peer.connect()
        bar = progress.add_task("soak", total=minutes * 60)
        begin = time.monotonic()
        images = cycle([*rig.images, *rig.images[-2:0:-1]])
        while (elapsed := time.monotonic() - begin) < minutes * 60:
            progress.update(bar, completed=elapsed)
            count = round(rate * interval)
            peer.stream(images, rate, count, int(SECOND * (1 + shown / rate)))
            shown, received = shown + count, received + len(peer.results)
            epochs |= {result.epoch for result in peer.results}
            device = peer.counts.get("device_memory_mb")
            samples.append(
                Sample(
                    time.monotonic() - begin,
                    node.usage,
                    len(peer.results),
                    None if device is None else float(device),
                )
            )
            peer.results.clear()
        peer.trigger("flush")
        peer.spin_for(3.0)  # the last results and diagnostics
        received += len(peer.results)
    report = Report(
        f"soak of {minutes:g} minutes at {rate:g} Hz",
        {
            "images shown": shown,
            "results": received,
            "results per second": received / samples[-1].seconds,
            **{name: peer.count(name) for name in (DROPPED, *FAULTS)},
        },
        {
            "every image has a result or is counted as dropped": received + peer.count(DROPPED)
            == shown,
            "nothing lost, refused, failed": not any(map(peer.count, FAULTS)),
            "one epoch": len(epochs) == 1,
        },
    )
    return samples, report


def judge(samples: Sequence[Sample], warm_up: float, report: Report) -> dict[str, Slope]:
    """Add growth and resources to the report; the lines through memory after the warm-up, s."""
    rest = [sample for sample in samples if sample.seconds >= warm_up]
    seconds = [sample.seconds for sample in rest]
    series = {
        "resident memory": [sample.usage.rss_mb for sample in rest],
        "anonymous memory": [sample.usage.anonymous_mb for sample in rest],
    }
    device = [sample.device_mb for sample in rest if sample.device_mb is not None]
    if len(device) == len(rest):
        series["device memory"] = device
    lines = {name: slope(seconds, values) for name, values in series.items()}
    for name, line in lines.items():
        report.numbers |= {
            f"{name} at the end, MB": series[name][-1],
            f"{name}, growth in MB per hour": line.per_hour,
            f"{name}, standard error of it": line.error,
        }
        report.checks[f"flat {name} (below {MB_PER_HOUR:g} MB per hour)"] = (
            line.per_hour < MB_PER_HOUR
        )
    for name in ("threads", "files"):
        values = [getattr(sample.usage, name) for sample in rest]
        report.numbers |= {f"fewest {name}": min(values), f"most {name}": max(values)}
        report.checks[f"no more {name} at the end"] = values[-1] <= values[0]
    return lines


def plot(samples: Sequence[Sample], lines: dict[str, Slope], warm_up: float, path: Path) -> None:
    """Memory and results over time as a picture."""
    with needs_extra("eval"):
        from matplotlib.figure import Figure
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    memory, results = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    minutes = [sample.seconds / 60 for sample in samples]
    series = {
        "resident memory": [sample.usage.rss_mb for sample in samples],
        "anonymous memory": [sample.usage.anonymous_mb for sample in samples],
        "device memory": [sample.device_mb or 0.0 for sample in samples],
    }
    ends = (warm_up, samples[-1].seconds)
    for name, line in lines.items():
        (drawn,) = memory.plot(minutes, series[name], lw=1, label=name)
        text = f"{line.per_hour:+.2f} ± {line.error:.2f} MB/h"
        memory.plot(
            [end / 60 for end in ends],
            [line.start + line.per_hour * end / 3600 for end in ends],
            ls="--",
            color=drawn.get_color(),
            label=text,
        )
    memory.axvspan(0, warm_up / 60, color="0.9", label="warm-up")
    memory.set(ylabel="MB", ylim=(0, None))
    memory.legend(loc="lower right", fontsize="small", ncols=len(lines) + 1)
    seconds = [0.0, *(sample.seconds for sample in samples)]
    rates = [
        sample.results / (after - before)
        for sample, before, after in zip(samples, seconds[:-1], seconds[1:], strict=True)
    ]
    results.plot(minutes, rates, lw=1)
    results.set(xlabel="minutes", ylabel="results / s", ylim=(0, None))
    figure.savefig(path, dpi=90)


def main(
    minutes: Annotated[float, typer.Option(help="Length of the stream.")] = 30.0,
    rate: Annotated[float, typer.Option(help="Images per second.")] = 5.0,
    warm_up: Annotated[float, typer.Option(help="Minutes that the slope leaves out.")] = 5.0,
    interval: Annotated[float, typer.Option(help="Seconds between samples.")] = 5.0,
    out: Annotated[Path, typer.Option(help="Folder for results and log.")] = Path("out/soak"),
    picture: Annotated[Path | None, typer.Option("--plot", help="Also draw it here.")] = None,
    parameter: Annotated[
        list[str] | None, typer.Option("-p", help="Of the node, as in -p device:=cuda.")
    ] = None,
) -> None:
    """Soak the node."""
    out.mkdir(parents=True, exist_ok=True)
    own_domain()
    rig = Rig(out, video_frames(100, (192, 108)), (*Rig.parameters, *(parameter or ())))
    with termination_as_exit():
        samples, report = soak(rig, minutes, rate, interval)
    lines = judge(samples, warm_up * 60, report)
    show_reports([report])
    write_reports([report], out / "soak.json")
    rows = "".join(json.dumps(asdict(sample)) + "\n" for sample in samples)
    (out / "samples.jsonl").write_text(rows)
    if picture is not None:
        plot(samples, lines, warm_up * 60, picture)
    sys.exit(0 if report.passed else 1)


if __name__ == "__main__":
    typer.run(main)
