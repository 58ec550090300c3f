"""Layout of the page, and the lines of its plots."""

from __future__ import annotations

from itertools import combinations

import cv2
import numpy as np
import pytest

pytest.importorskip("rerun", reason="needs the extra view")
from stemseg_ros.view.panels import STAGE_COLORS, latency_line, layout, stage_line

STAGES = ("unpack", "wait", "encode", "describe", "detect", "decode", "track", "publish")
"""All that a node may report with any model."""


def lab(*colors: tuple[int, int, int]) -> np.ndarray:
    """(N, 3): the distance of two is how different they look."""
    return cv2.cvtColor(np.array([colors], np.float32) / 255, cv2.COLOR_RGB2LAB)[0]


def test_colours_of_stages_differ_from_each_other_and_from_the_page() -> None:
    assert len(STAGE_COLORS) >= len(STAGES)
    for one, other in combinations(lab(*STAGE_COLORS), 2):
        assert np.linalg.norm(one - other) > 35
    assert lab(*STAGE_COLORS)[:, 0].min() > 50


def test_each_stage_has_its_name_unit_and_colour() -> None:
    lines = [stage_line(name, number) for number, name in enumerate(STAGES)]
    names = [line.names.as_arrow_array().to_pylist() for line in lines]
    assert names == [[f"{name}, ms"] for name in STAGES]
    colors = [line.colors.as_arrow_array().to_pylist()[0] for line in lines]
    assert len(set(colors)) == len(STAGES)
    assert stage_line("one more", len(STAGE_COLORS)).colors is not None
    assert latency_line().names.as_arrow_array().to_pylist() == ["latency, ms"]


@pytest.mark.parametrize(
    ("panels", "titles"),
    [
        ((), ["masks, ids, trails"]),
        (("stage",), ["masks, ids, trails", "stages, ms"]),
        (
            ("events", "timing"),
            ["masks, ids, trails", "latency of the results, ms", "events"],
        ),
    ],
)
def test_the_page_has_the_panels_that_are_needed(
    panels: tuple[str, ...], titles: list[str]
) -> None:
    def names(part: object) -> list[str]:
        contents = getattr(part, "contents", None)
        if isinstance(contents, tuple):
            return [name for item in contents for name in names(item)]
        return [str(getattr(part, "name", ""))]

    assert names(layout(False, panels).root_container) == titles
