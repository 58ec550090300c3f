"""The console scripts in an environment that lacks something."""

from __future__ import annotations

import sys

import pytest

from stemseg_ros.ros.programs import entry_points


@pytest.mark.parametrize(
    ("name", "missing"), [("node", "torch"), ("player", "rclpy"), ("recorder", "stemseg")]
)
def test_a_missing_module_is_one_line(
    name: str, missing: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in [m for m in sys.modules if m.startswith(("stemseg_ros.ros.", f"{missing}."))]:
        if module != "stemseg_ros.ros.programs.entry_points":
            monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, missing, None)
    assert getattr(entry_points, name)() == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"stemseg_{name}: {missing}") and "is not installed for" in line
    assert sys.executable in line
