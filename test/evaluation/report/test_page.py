"""Diagnostics against the measures, and the report page that shows them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from mask_strips import switching, two_cars
from typer.testing import CliRunner

pytest.importorskip("trackeval")

from stemseg_ros.cli.main import app
from stemseg_ros.evaluation.matches import diagnose
from stemseg_ros.evaluation.measures import MOTS, score_sequence, sequence_measures
from stemseg_ros.evaluation.report.charts import overlap_histogram
from stemseg_ros.formats import kitti_mots_text


def test_diagnostics_agree_with_the_measures() -> None:
    truth, result = two_cars(), switching()
    found = diagnose(truth, result)
    measures = sequence_measures(MOTS, score_sequence(MOTS, truth, result))["car"]
    assert [(s.frame, s.previous_frame, s.previous_id, s.id) for s in found.switches] == [
        (4, 3, 1001, 1005),
        (8, 6, 1005, 1006),
    ]
    assert len(found.switches) == measures["IDS"] == 2
    assert sum(errors.missed for errors in found.frames.values()) == measures["FN"] == 1
    assert found.overlaps["small"] == [1, *[0] * 8, 19]
    assert found.tracks[1001][6:9] == [(6, 1005), (7, 0), (8, 1006)]


def report_page(folder: Path) -> Path:
    """The report of results with two id switches."""
    kitti_mots_text.write(folder / "gt", [two_cars()], truth=True)
    kitti_mots_text.write(folder / "results", [switching()])
    options = {
        "--ground-truth": folder / "gt",
        "--results": folder / "results",
        "--out": folder / "out",
        "--post-filter": "without",
    }
    arguments = [str(part) for option in options.items() for part in option]
    done = CliRunner().invoke(app, ["evaluate", *arguments])
    assert done.exit_code == 0, done.output
    return folder / "out" / "report.html"


def test_page_shows_every_switch_and_needs_nothing_else(tmp_path: Path) -> None:
    page = report_page(tmp_path).read_text()
    assert "Id switches: 2" in page
    assert "0000, car 1001: result 1005 in frame 6, 1006 in frame 8" in page
    # One of the worst frames, since the others are near it, and two switches.
    assert page.count("data:image/jpeg;base64,") == 1 + 2
    references = re.findall(r"""(?:src|href)=["']([^"']+)""", page)
    assert all(reference.startswith(("data:", "#")) for reference in references)


def test_page_can_be_read_without_seeing_it(tmp_path: Path) -> None:
    page = report_page(tmp_path).read_text()
    captions = re.findall(r'<img alt="([^"]*)"', page)
    assert len(captions) == 3 and all(captions)
    assert page.count("<caption>") == page.count("<table>") >= 3
    heads = re.findall(r"<th\b[^>]*>", page)
    assert heads and all("scope=" in head for head in heads)
    charts = re.findall(r"<svg[^>]*>", page)
    assert charts and all('role="img" aria-label="' in chart for chart in charts)
    assert "1 sequence, 10 frames" in page and "stored results" in page
    ids = set(re.findall(r'id="([^"]+)"', page))
    targets = set(re.findall(r'href="#([^"]+)"', page))
    assert {"sMOTSA", "HOTA", "worst-1", "switch-2"} <= targets <= ids


def test_charts_show_the_sizes_that_occur() -> None:
    counts = {"small": [0] * 10, "medium": [1, *[0] * 9], "large": [0] * 10}
    chart = overlap_histogram(counts)
    assert "medium: 1 masks" in chart and "small" not in chart and "large" not in chart
    assert overlap_histogram({"small": [0] * 10}) == ""


BROWSER = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.skipif(BROWSER is None, reason="no Chromium in the path")
def test_page_in_a_browser(tmp_path: Path, width: int) -> None:
    """The browser lays everything out: every picture has its size, every plot its bars, nothing is
    wider than the window, nothing is complained of."""
    page = report_page(tmp_path)
    probe = (
        "<script>onload = () => document.title = JSON.stringify({"
        "beyond: document.documentElement.scrollWidth - innerWidth,"
        "pictures: [...document.images].map(i => i.naturalWidth),"
        "plots: [...document.querySelectorAll('svg')].map(s => s.getBBox().width)})"
        "</script></body>"
    )
    page.write_text(page.read_text().replace("</body>", probe))
    flags = [
        f"--window-size={width},900",
        "--enable-logging=stderr",
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
    ]
    done = subprocess.run(
        [
            str(BROWSER),
            *flags,
            f"--user-data-dir={tmp_path / 'profile'}",
            "--dump-dom",
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    title = re.search("<title>(.*)</title>", done.stdout)
    assert title is not None, done.stderr
    found = json.loads(title[1])
    assert found["beyond"] <= 0
    assert "CONSOLE" not in done.stderr, done.stderr
    assert len(found["pictures"]) == 3 and min(found["pictures"]) > 100
    assert len(found["plots"]) == 2 and min(found["plots"]) > 100
