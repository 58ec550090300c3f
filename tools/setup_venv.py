"""Brings .venv up to date: interpreter, pinned requirements, messages, the package itself.

Usage: make setup Each step leaves a key of its inputs in .venv/setup.json once it is done; a step
whose key is still the same is skipped.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from build_messages import ROOT, missing_tool

VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "setup.json"
INTERRUPTED = (
    VENV / "pip-at-work"
)  # still there: pip was killed, and what it had half done is unknown
REQUIREMENTS = ROOT / "requirements"
GROUPS = ("base", "train", "eval", "view", "cpu", "onnx", "export", "dev")
DISK_GIB = 12  # the environment itself takes about 7
LARGE_DOWNLOAD = re.compile(
    r"(?:Downloading|Using cached) (\S+\.whl)\S* \((\d{2,}(?:\.\d+)? MB)\)"
)


class SetupError(Exception):
    """The environment cannot be made; the text names the reason."""


@dataclass(frozen=True)
class Step:
    name: str
    key: str  # changes whenever the step has to run again
    action: Callable[[], None]


def steps() -> list[Step]:
    """The set-up in order; the keys say what each step depends on."""
    venv_key = f"{VENV} {base_interpreter()}"
    ros = REQUIREMENTS / "ros.txt"
    requirements = sorted(REQUIREMENTS.glob("*.txt"))
    messages = [
        ros,
        ROOT / "CMakeLists.txt",
        ROOT / "package.xml",
        ROOT / "tools" / "build_messages.py",
    ]
    patterns = ("msg/*.msg", "srv/*.srv", "include/stemseg/*.hpp")
    messages += sorted(file for pattern in patterns for file in ROOT.glob(pattern))
    package = [ROOT / "setup.cfg", ROOT / "setup.py", ROOT / "pyproject.toml"]
    return [
        Step("virtual environment", venv_key, create_venv),
        Step(
            "Python packages and ROS 2 (about 5 GB)",
            digest(venv_key, requirements),
            install_requirements,
        ),
        Step("ROS 2 messages", digest(venv_key, messages), build_messages),
        Step("stemseg itself", digest(venv_key, package), install_package),
    ]


def base_interpreter() -> str:
    """The interpreter below a virtual environment, or this one where it is none."""
    return f"{Path(sys.base_prefix).resolve()} {platform.python_version()}"


def digest(venv_key: str, files: Iterable[Path]) -> str:
    summary = hashlib.sha256(venv_key.encode())
    for path in files:
        content = path.read_bytes()
        summary.update(f"{path.name} {len(content)} ".encode() + content)
    return summary.hexdigest()


def create_venv() -> None:
    """Makes .venv from nothing, unless there is one that works."""
    if venv_usable():
        return
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        raise SetupError(
            "ROS 2 wheels exist for Linux x86-64, this is "
            f"{platform.system()} {platform.machine()}"
        )
    free = shutil.disk_usage(ROOT).free / 2**30
    if free < DISK_GIB:
        raise SetupError(f"{free:.0f} GiB are free at {ROOT}, about {DISK_GIB} are needed")
    base = getattr(
        sys, "_base_executable", sys.executable
    )  # this may be the Python of a .venv that was moved
    run([base, "-m", "venv", "--clear", VENV])


def venv_usable() -> bool:
    """Whether .venv was made at this very place with this Python, and no pip was interrupted in
    it."""
    pip_script = VENV / "bin" / "pip"
    if (
        INTERRUPTED.exists()
        or not pip_script.is_file()
        or str(VENV) not in pip_script.read_text(encoding="utf-8")
    ):
        return False
    code = "import pip, platform; print(platform.python_version())"
    version = subprocess.run(
        [PYTHON, "-c", code], capture_output=True, text=True, env=clean_environment()
    )
    return version.stdout.strip() == platform.python_version()


def install_requirements() -> None:
    pip(
        "--no-deps", "-r", REQUIREMENTS / "ros.txt"
    )  # first, because it fixes the version of setuptools
    pip(*(part for group in GROUPS for part in ("-r", REQUIREMENTS / f"{group}.txt")))
    pip("--no-deps", "-r", REQUIREMENTS / "no-deps.txt")


def build_messages() -> None:
    run([PYTHON, ROOT / "tools" / "build_messages.py"])


def install_package() -> None:
    pip("--no-deps", "--no-build-isolation", "-e", ROOT)


def run(command: Sequence[str | Path]) -> None:
    """Raises SetupError where the command fails; what it says is seen as it says it."""
    done = subprocess.run(command, env=clean_environment())
    if done.returncode:
        raise SetupError(f"'{' '.join(map(str, command))}' failed")


def pip(*arguments: str | Path) -> None:
    """pip install; names the large files on the way, and shows the end of the output where it
    fails."""
    command = [str(PYTHON), "-m", "pip", "install", "--disable-pip-version-check", "--no-input"]
    command += ["--progress-bar", "off", *map(str, arguments)]
    output: list[str] = []
    INTERRUPTED.touch()
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=clean_environment(),
    ) as process:
        for line in process.stdout or ():
            output.append(line)
            if large := LARGE_DOWNLOAD.search(line):
                print(f"      {large[1]} ({large[2]})", flush=True)
            elif line.startswith("Installing collected packages:"):
                print(f"      unpacking {line.count(',') + 1} packages", flush=True)
    if process.returncode >= 0:  # else a signal ended it
        INTERRUPTED.unlink()
    if process.returncode:
        raise SetupError(f"pip install failed; the end of its output:\n{''.join(output[-15:])}")


def clean_environment() -> dict[str, str]:
    """Without what a sourced ROS workspace adds: it would hide packages of the virtual
    environment."""
    return {
        name: value
        for name, value in os.environ.items()
        if name not in ("PYTHONPATH", "PYTHONHOME")
    }


def read_stamp() -> dict[str, str]:
    """The keys of the finished steps; none of them where pip was interrupted or the file is
    damaged."""
    if INTERRUPTED.exists():
        return {}
    try:
        stamp = json.loads(STAMP.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) else {}


def write_stamp(stamp: dict[str, str]) -> None:
    scratch = STAMP.with_suffix(".tmp")
    scratch.write_text(json.dumps(stamp, indent=1) + "\n", encoding="utf-8")
    scratch.replace(STAMP)


def set_up() -> None:
    stamp = read_stamp()
    todo = [step for step in steps() if stamp.get(step.name) != step.key]
    if not todo:
        return
    if problem := missing_tool():
        raise SetupError(problem)
    print(f"setup: {len(todo)} of {len(steps())} steps to do in {VENV}", flush=True)
    for number, step in enumerate(todo, start=1):
        print(f"[{number}/{len(todo)}] {step.name} ...", flush=True)
        start = time.monotonic()
        stamp.pop(step.name, None)
        step.action()
        stamp[step.name] = step.key
        write_stamp(stamp)
        print(f"      done in {time.monotonic() - start:.0f} s", flush=True)


def main() -> int:
    folder = os.open(ROOT, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)  # one set-up at a time; released with the process
    try:
        set_up()
    except SetupError as error:
        print(f"setup: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("setup: interrupted; 'make setup' takes it up again", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
