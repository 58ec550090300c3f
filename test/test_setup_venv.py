"""The set-up of the environment: which change repeats which step, and what it says where it
cannot."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent
VENV, REQUIREMENTS, MESSAGES, PACKAGE = (
    "virtual environment",
    "Python packages and ROS 2 (about 5 GB)",
    "ROS 2 messages",
    "stemseg itself",
)


@pytest.fixture
def setup_venv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """tools/setup_venv.py of a copy of the checkout, without an environment."""
    for folder in ("tools", "requirements", "msg", "srv", "include"):
        shutil.copytree(
            ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__")
        )
    for name in ("CMakeLists.txt", "package.xml", "setup.cfg", "setup.py", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path / name)
    monkeypatch.syspath_prepend(tmp_path / "tools")
    for name in ("setup_venv", "build_messages"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    import setup_venv

    assert tmp_path / ".venv" == setup_venv.VENV
    setup_venv.VENV.mkdir()
    return setup_venv


def keys(setup_venv: ModuleType) -> dict[str, str]:
    return {step.name: step.key for step in setup_venv.steps()}


@pytest.mark.parametrize(
    ("changed", "again"),
    [
        ("msg/Instance.msg", {MESSAGES}),
        ("srv/TrackMasks.srv", {MESSAGES}),
        ("include/stemseg/masks.hpp", {MESSAGES}),
        ("CMakeLists.txt", {MESSAGES}),
        ("tools/build_messages.py", {MESSAGES}),
        ("requirements/base.txt", {REQUIREMENTS}),
        ("requirements/constraints.txt", {REQUIREMENTS}),
        (
            "requirements/ros.txt",
            {REQUIREMENTS, MESSAGES},
        ),  # new wheels name their build machine again
        ("setup.cfg", {PACKAGE}),
    ],
)
def test_a_change_repeats_what_depends_on_it(
    setup_venv: ModuleType, changed: str, again: set[str]
) -> None:
    before = keys(setup_venv)
    with (setup_venv.ROOT / changed).open("a") as file:
        file.write("# changed\n")
    after = keys(setup_venv)
    assert {name for name in after if after[name] != before[name]} == again


def test_another_interpreter_repeats_everything(
    setup_venv: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = keys(setup_venv)
    monkeypatch.setattr(setup_venv, "base_interpreter", lambda: "/elsewhere 3.99")
    assert not set(before.values()) & set(keys(setup_venv).values())


def test_finished_steps_are_remembered(setup_venv: ModuleType) -> None:
    setup_venv.write_stamp(keys(setup_venv))
    assert setup_venv.read_stamp() == keys(setup_venv)
    setup_venv.set_up()  # would build an environment of 7 GB if it forgot


def test_an_interrupted_pip_or_a_damaged_stamp_starts_from_nothing(setup_venv: ModuleType) -> None:
    setup_venv.write_stamp(keys(setup_venv))
    setup_venv.INTERRUPTED.touch()
    assert setup_venv.read_stamp() == {}
    assert not setup_venv.venv_usable()
    setup_venv.INTERRUPTED.unlink()
    setup_venv.STAMP.write_text('{"virtual envi')
    assert setup_venv.read_stamp() == {}


def test_a_missing_compiler_is_named(
    setup_venv: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler -O2")
    assert "no C++ compiler found (no-such-compiler -O2)" in setup_venv.missing_tool()
    with pytest.raises(setup_venv.SetupError, match=r"no-such-compiler"):
        setup_venv.set_up()


def test_missing_headers_are_named(
    setup_venv: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("sysconfig.get_path", lambda _name: str(tmp_path / "no-headers"))
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert f"apt install python{version}-dev" in setup_venv.missing_tool()


OLD_PYTHON = "#!/bin/sh\necho 'is Python 3.6, needed is 3.10 to 3.14' >&2\nexit 1\n"


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (OLD_PYTHON, "old-python: is Python 3.6, needed is 3.10 to 3.14"),
        (None, "old-python: not found"),
    ],
)
def test_unsuitable_interpreters_are_listed_with_the_reason(
    tmp_path: Path, script: str | None, reason: str
) -> None:
    python = tmp_path / "old-python"
    if script is not None:
        python.write_text(script)
        python.chmod(0o755)
    environment = {**os.environ, "PYTHON": str(python)}
    done = subprocess.run(
        [ROOT / "tools" / "setup.sh"], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert reason in done.stderr
    assert "no suitable Python found" in done.stderr


def test_wheels_are_relocated_to_this_python(
    setup_venv: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import sysconfig

    import build_messages
    import numpy

    monkeypatch.setattr(build_messages, "VENV", tmp_path)
    exported = tmp_path / "share" / "some_msgs" / "cmake" / "export.cmake"
    exported.parent.mkdir(parents=True)
    exported.write_text(
        'INCLUDE "/opt/python/cp312-cp312/include/python3.12;'
        "/opt/python/cp312-cp312/lib/python3.12/site-packages/numpy/_core/include"
        '" "/opt/ros/kept"\n'
    )
    assert build_messages.relocate_wheels() == 1
    expected = f'INCLUDE "{sysconfig.get_path("include")};{numpy.get_include()}" "/opt/ros/kept"\n'
    assert exported.read_text() == expected
    assert build_messages.relocate_wheels() == 0
