"""The tables of parameters in docs/node.md are those of a node."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")
from stemseg_ros.config import load_config

pytestmark = pytest.mark.ros

ROOT = Path(__file__).resolve().parents[2]


def test_the_tables_are_current() -> None:
    path = ROOT / "tools" / "node_parameters.py"
    spec = importlib.util.spec_from_file_location("node_parameters", path)
    assert spec is not None
    assert spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    page = (ROOT / "docs" / "node.md").read_text(encoding="utf-8")
    current = tool.with_tables(page, tool.tables())
    assert page == current, "run .venv/bin/python tools/node_parameters.py"
    heat = load_config("lite").clustering.min_heat
    assert f"| `clustering.min_heat` | {heat} | 0 to 1 | yes |" in page
    assert "| `checkpoint` | empty |  |  |" in page
    with pytest.raises(ValueError, match="has no lines"):
        tool.with_tables("no marks", "")
