"""The console scripts in an environment that lacks something."""

from __future__ import annotations

import subprocess
import sys

import pytest

CALL = """
import sys
sys.modules[{missing!r}] = None  # every import of it fails
from stemseg_ros.ros.programs import entry_points
sys.exit(entry_points.{name}())
"""


@pytest.mark.parametrize(
    ("name", "missing"), [("node", "torch"), ("player", "rclpy"), ("recorder", "stemseg")]
)
def test_a_missing_module_is_one_line(name: str, missing: str) -> None:
    call = [sys.executable, "-c", CALL.format(name=name, missing=missing)]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    line = done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert line.startswith(f"stemseg_{name}: {missing}") and "is not installed for" in line
    assert sys.executable in line
