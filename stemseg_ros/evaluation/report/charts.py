"""Plots of the report as SVG text."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from stemseg_ros.evaluation.matches import IOU_BINS, MatchDiagnostics
from stemseg_ros.media.overlay import track_color

STYLE: Any = {
    "svg.fonttype": "none",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.hashsalt": "stemseg",
}
MISSED = "#d9d9d9"
"""Colour of frames in which a true object has no result."""


@mpl.rc_context(STYLE)
def ids_over_time(name: str, found: MatchDiagnostics) -> str:
    """A line per true track, in the colour of the result that matches it; ticks where the result
    changes."""
    tracks = sorted(found.tracks.items(), key=lambda item: item[1][0])
    figure = Figure(figsize=(9, 0.9 + 0.16 * len(tracks)))
    axes = figure.add_subplot()
    for line, (_, matches) in enumerate(tracks):
        for id_, first, last in _runs(matches):
            axes.barh(line, last - first + 1, left=first, height=0.75, color=_color(id_))
    line_of = {truth_id: line for line, (truth_id, _) in enumerate(tracks)}
    axes.plot(
        [switch.frame for switch in found.switches],
        [line_of[switch.truth_id] for switch in found.switches],
        "k|",
        markersize=8,
        clip_on=False,
    )
    axes.set_yticks(range(len(tracks)), [str(truth_id) for truth_id, _ in tracks], fontsize=7)
    axes.set_ylim(len(tracks) - 0.4, -0.6)
    axes.set_xlabel("frame")
    axes.set_title(
        f"{name}: colour is the result's id, grey is missed, a tick is an id switch", loc="left"
    )
    return _svg(figure, f"Ids of the results over time, sequence {name}")


@mpl.rc_context(STYLE)
def overlap_histogram(histogram: Mapping[str, Sequence[int]]) -> str:
    """True masks by their best IoU, one panel per size that occurs; empty without any."""
    histogram = {size: counts for size, counts in histogram.items() if sum(counts)}
    if not histogram:
        return ""
    figure = Figure(figsize=(9, 2.4))
    edges = [i / IOU_BINS for i in range(IOU_BINS)]
    for panel, (size, counts) in enumerate(histogram.items(), start=1):
        axes = figure.add_subplot(1, len(histogram), panel)
        axes.bar(edges, counts, width=0.9 / IOU_BINS, align="edge", color="#4477aa")
        axes.axvline(0.5, color="black", linewidth=0.8, linestyle=":")
        axes.set_title(f"{size}: {sum(counts)} masks", loc="left")
        axes.set_ylim(0, max(1, *counts) * 1.05)
        axes.set_xlabel("best IoU")
    return _svg(figure, "True masks by the IoU of the result that overlaps them most")


@mpl.rc_context(STYLE)
def latency_histogram(latencies: Mapping[str, Iterable[float]]) -> str:
    """Milliseconds from a frame to its result, one line per run."""
    figure = Figure(figsize=(9, 2.6))
    axes = figure.add_subplot()
    edges = np.histogram_bin_edges(
        [value for values in latencies.values() for value in values], bins=40
    )
    for name, values in latencies.items():
        axes.hist(list(values), bins=edges.tolist(), histtype="step", label=name)
    axes.set_xlabel("milliseconds from frame to result")
    axes.set_ylabel("frames")
    axes.legend(frameon=False)
    return _svg(figure, "Milliseconds from a frame to its result")


def _runs(matches: Sequence[tuple[int, int]]) -> list[tuple[int, int, int]]:
    """(id, first, last frame) of stretches of successive frames with one id."""
    runs: list[tuple[int, int, int]] = []
    for frame, id_ in matches:
        if runs and runs[-1][0] == id_ and runs[-1][2] == frame - 1:
            runs[-1] = (id_, runs[-1][1], frame)
        else:
            runs.append((id_, frame, frame))
    return runs


def _color(id_: int) -> str:
    if not id_:
        return MISSED
    blue, green, red = track_color(id_)
    return f"#{red:02x}{green:02x}{blue:02x}"


def _svg(figure: Figure, label: str) -> str:
    """The figure's <svg> element, to stand in a page; its text stays text."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None})
    text = buffer.getvalue()
    return f'<svg role="img" aria-label="{escape(label)}"' + text[text.index("<svg") + 4 :]
