"""Layout of the page, and the lines of its plots."""

from __future__ import annotations

from collections.abc import Collection

import rerun as rr
import rerun.blueprint as rrb

PANELS = {
    "timing": "no panel of latencies: images and results were not recorded by one clock",
    "stage": "no panel of stages: nobody reported them on /diagnostics",
    "events": "no panel of events: there were none",
}
"""Panels beside the frame, by the entity that they show, and why one may be missing."""
STAGE_COLORS = (
    (110, 160, 255),  # blue
    (250, 235, 60),  # yellow
    (255, 120, 215),  # pink
    (60, 200, 90),  # green
    (255, 159, 28),  # orange
    (60, 225, 235),  # cyan
    (255, 75, 75),  # red
    (235, 235, 235),  # white
    (176, 110, 255),  # violet
    (190, 140, 100),  # brown
)
"""Far from each other and from the dark page; more than any model has stages."""
LATENCY_COLOR = STAGE_COLORS[7]
LINE_WIDTH = 2.0


def latency_line() -> rr.SeriesLines:
    """The line of the latencies."""
    return rr.SeriesLines(names="latency, ms", colors=[LATENCY_COLOR], widths=[LINE_WIDTH])


def stage_line(stage: str, number: int) -> rr.SeriesLines:
    """The line of a stage. number: how many stages there are before it."""
    color = STAGE_COLORS[number % len(STAGE_COLORS)]
    return rr.SeriesLines(names=f"{stage}, ms", colors=[color], widths=[LINE_WIDTH])


def layout(follow: bool, panels: Collection[str]) -> rrb.Blueprint:
    """The frame on the left; on the right the panels that have something to show.

    follow: the page stays at the newest frame.
    """
    time = rrb.TimePanel(state="collapsed", timeline="frame")
    if follow:
        time = rrb.TimePanel(state="collapsed", timeline="frame", play_state="following")
    frame = rrb.Spatial2DView(origin="camera", name="masks, ids, trails")
    right = [view for name, view in _views().items() if name in panels]
    return rrb.Blueprint(
        rrb.Horizontal(frame, rrb.Vertical(*right), column_shares=[3, 1]) if right else frame,
        rrb.BlueprintPanel(state="collapsed"),
        rrb.SelectionPanel(state="collapsed"),
        time,
    )


def _views() -> dict[str, rrb.View]:
    return {
        # One line, named by the title.
        "timing": rrb.TimeSeriesView(
            origin="timing",
            name="latency of the results, ms",
            plot_legend=rrb.PlotLegend(visible=False),
        ),
        # Most stages are short, so that their lines run below.
        "stage": rrb.TimeSeriesView(
            origin="stage",
            name="stages, ms",
            plot_legend=rrb.PlotLegend(rrb.Corner2D.LeftTop),
        ),
        # The other columns say nothing here, and leave too little room for the text.
        "events": rrb.TextLogView(
            origin="events",
            name="events",
            columns=rrb.TextLogColumns(text_log_columns=["Body"]),
        ),
    }
