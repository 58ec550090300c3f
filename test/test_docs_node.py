"""docs/node.md against the code: log lines, topics of RViz, settings it names."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import yaml

from stemseg_ros.config import walk_settings
from stemseg_ros.models.stemseg.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "node.md").read_text(encoding="utf-8")
NO_LOG = {"frames_duplicate", "frames_out_of_order", "dropped.*", "device_memory_mb", "epoch"}
"""What /diagnostics says under this key."""


def rows() -> list[list[str]]:
    """Cells of the table of symptoms."""
    table = PAGE.partition("## Troubleshooting by symptom")[2]
    lines = [line for line in table.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[1:]]


def log_lines() -> list[str]:
    """Everything in the second column that is quoted."""
    quoted = [text for row in rows() for text in re.findall(r"`([^`]+)`", row[1])]
    words = {*NO_LOG, "~/instances", "~/label_image", "/diagnostics", "worker", "frames", "active"}
    words |= {"height", "width", "stemseg_player", "runtime.compile", "stitching.max_gap"}
    return [text for text in quoted if text not in words]


def texts() -> str:
    """All strings of the package, the replaced parts of f-strings as …."""
    found: list[str] = []
    for path in (ROOT / "stemseg_ros").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = [str(v.value) if isinstance(v, ast.Constant) else "…" for v in node.values]
                found.append("".join(parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return "\n".join(found)


TEXTS = texts()


def test_there_are_symptoms_with_log_lines() -> None:
    assert len(rows()) >= 15
    assert len(log_lines()) >= 12


@pytest.mark.parametrize("line", log_lines())
def test_a_log_line_is_one_that_the_code_writes(line: str) -> None:
    for part in line.split("…"):
        assert part.strip(" ,:") in TEXTS, part


def test_settings_that_the_page_names_exist() -> None:
    known = {name for name, _ in walk_settings(Settings)}
    sections = {name.partition(".")[0] for name in known}
    named = set(re.findall(r"`(\w+\.\w+)(?:: [^`]*)?`", PAGE))
    assert not {name for name in named if name.partition(".")[0] in sections} - known


def test_rviz_shows_topics_of_the_page() -> None:
    config = yaml.safe_load((ROOT / "config" / "stemseg.rviz").read_text())
    displays = config["Visualization Manager"]["Displays"]
    for topic in (display["Topic"]["Value"] for display in displays):
        assert f"`~/{topic.removeprefix('stemseg/')}`" in PAGE
