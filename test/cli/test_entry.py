"""The command as a process: interrupts at any moment, terminals that print little, warnings."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from stemseg_ros.media.bags import write_bag

ROOT = Path(__file__).parents[2]


def start(
    *arguments: object, importtime: bool = False, **environment: str
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [
            sys.executable,
            *(["-X", "importtime"] if importtime else []),
            "-m",
            "stemseg_ros",
            *map(str, arguments),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env={**os.environ, **environment},
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i in range(3):
        cv2.imwrite(str(tmp_path / f"{i}.png"), np.full((48, 64, 3), 20 * i, np.uint8))
    return tmp_path


@pytest.mark.parametrize("module", ["rich", "typer.main", "numpy", "torch._C", "torch.nn"])
def test_an_interrupt_during_the_imports_is_one_line(folder: Path, module: str) -> None:
    with start("run", folder, "--out", folder / "out", importtime=True) as child:
        assert child.stderr is not None
        for line in child.stderr:
            if line.startswith("import time:") and line.split("|")[-1].strip() == module:
                child.send_signal(signal.SIGINT)
                break
        rest = [line for line in child.stderr if not line.startswith("import time:")]
    assert child.returncode == 130
    assert [line for line in rest if line.strip()] == ["stemseg: interrupted\n"]


def test_names_that_the_terminal_cannot_print_are_escaped(tmp_path: Path) -> None:
    path = tmp_path / "fährt.mcap"
    write_bag([(1, np.zeros((4, 6, 3), np.uint8))], path)
    child = start("bag", "info", path, PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    out, err = child.communicate()
    assert child.returncode == 0, err
    assert "f\\xe4hrt.mcap: mcap, 1 messages" in out


@pytest.mark.parametrize(
    "name, command", [("typer", "--help"), ("rich", "--help"), ("yaml", "run"), ("rosbags", "bag")]
)
def test_a_package_that_is_not_installed_is_one_line(
    folder: Path, name: str, command: str
) -> None:
    (folder / "sitecustomize.py").write_text(f"import sys\nsys.modules['{name}'] = None\n")
    arguments = {
        "run": ("run", folder, "--out", folder / "out"),
        "bag": ("bag", "info", folder / "x.mcap"),
    }.get(command, (command,))
    path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", ""), str(ROOT)])
    child = start(*arguments, PYTHONPATH=path)
    _, err = child.communicate()
    assert child.returncode == 2
    assert err.startswith(f"stemseg: {name}") and err.count("\n") == 1, err
    assert "pip install stemseg-ros brings it" in err


def test_the_shell_completes_commands() -> None:
    child = start(_STEMSEG_COMPLETE="complete_bash", COMP_WORDS="stemseg eva", COMP_CWORD="1")
    out, err = child.communicate()
    assert out.split() == ["evaluate"], err


def test_a_loss_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "x"
    write_bag([(1, np.zeros((4, 6, 3), np.uint8))], path)
    text = (path / "metadata.yaml").read_text()
    (path / "metadata.yaml").write_text(text.replace("message_count: 1\n", "message_count: 5\n"))
    child = start("bag", "info", path)
    _, err = child.communicate()
    assert child.returncode == 0
    assert err == f"stemseg: {path}: metadata.yaml counts 5 messages, the files hold 1\n"
