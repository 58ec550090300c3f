"""Builds the stemseg messages (msg/*.msg, srv/*.srv) with CMake into the virtual environment that
runs this script.

Usage: .venv/bin/python tools/build_messages.py The wheels of requirements/ros.txt have to be
installed there; a C/C++ compiler and the headers of Python have to be on the machine.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = Path(sys.prefix)
# Where the machine that built the wheels kept Python; their exported CMake targets still name it.
FOREIGN_PYTHON = re.compile(
    r"/opt/(?:python/cp|_internal/cpython-)[^/;\"]+/(?:include/python|lib/python)[^;\"]*"
)


class BuildError(Exception):
    """Something on this machine keeps the messages from being built; the text names it and the
    remedy."""


def missing_tool() -> str:
    """What is missing here to compile the messages, with the remedy; empty where all is there."""
    for language, variable, usual in (
        ("C", "CC", ("cc", "gcc", "clang")),
        ("C++", "CXX", ("c++", "g++", "clang++")),
    ):
        own = os.environ.get(variable)
        if not any(shutil.which(name) for name in ([own.split()[0]] if own else usual)):
            looked = own or ", ".join(usual)
            return f"no {language} compiler found ({looked}); install one: apt install g++"
    header = Path(sysconfig.get_path("include")) / "Python.h"
    if not header.is_file():
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        return (
            f"Python {version} has no headers to compile against ({header}); "
            f"apt install python{version}-dev"
        )
    return ""


def relocate_wheels() -> int:
    """Makes the CMake files of the ROS wheels name this Python and NumPy; returns how many files
    changed."""
    import numpy

    def here(match: re.Match[str]) -> str:
        return numpy.get_include() if "numpy" in match[0] else sysconfig.get_path("include")

    changed = 0
    for path in sorted((VENV / "share").glob("**/*.cmake")):
        text = path.read_text(encoding="utf-8")
        relocated = FOREIGN_PYTHON.sub(here, text)
        if relocated != text:
            path.write_text(relocated, encoding="utf-8")
            changed += 1
    return changed


def build_environment() -> dict[str, str]:
    """The environment for CMake: this venv and no other ROS that a shell may have sourced."""
    env = {
        name: value
        for name, value in os.environ.items()
        if name not in ("PYTHONPATH", "CMAKE_MODULE_PATH")
    }
    env["PATH"] = f"{VENV / 'bin'}{os.pathsep}{env.get('PATH', os.defpath)}"
    env["VIRTUAL_ENV"] = env["CMAKE_PREFIX_PATH"] = env["AMENT_PREFIX_PATH"] = str(VENV)
    return env


def build(folder: Path, source: Path = ROOT, prefix: Path = VENV) -> None:
    """Configures a message package in a fresh folder, builds it, and installs it to the prefix;
    raises BuildError with the end of the log."""
    configure = [
        "cmake", "-S", str(source), "-B", str(folder), "-G", "Ninja", "-Wno-dev",
        f"-DCMAKE_INSTALL_PREFIX={prefix}",
        f"-DPython3_EXECUTABLE={sys.executable}",
        "-DPython3_FIND_VIRTUALENV=ONLY",
        "-DCMAKE_BUILD_TYPE=Release",
        "-DBUILD_TESTING=OFF",
        "-DSTEMSEG_MESSAGES_ONLY=ON",
    ]  # fmt: skip
    for command in (
        configure,
        ["cmake", "--build", str(folder)],
        ["cmake", "--install", str(folder)],
    ):
        done = subprocess.run(
            command,
            env=build_environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if done.returncode:
            log = "\n".join(done.stdout.splitlines()[-40:])
            raise BuildError(f"{' '.join(command[:4])} failed; the end of its output:\n{log}")


def check_import() -> None:
    code = (
        "from stemseg.msg import InstanceArray\n"
        "from stemseg.srv import TrackMasks, Untrack\n"
        "for kind in (InstanceArray, TrackMasks, Untrack):\n"
        "    kind.__class__.__import_type_support__()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=VENV, capture_output=True, text=True)
    if done.returncode:
        raise BuildError(f"the built messages do not import:\n{done.stderr}")


def main() -> int:
    try:
        if sys.prefix == sys.base_prefix:
            raise BuildError(f"{sys.executable} is not in a virtual environment; run 'make setup'")
        if problem := missing_tool():
            raise BuildError(problem)
        relocate_wheels()
        with tempfile.TemporaryDirectory(prefix="stemseg-messages-") as folder:
            build(Path(folder))
        check_import()
    except BuildError as error:
        print(f"build_messages: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
