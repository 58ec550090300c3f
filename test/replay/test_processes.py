"""No child outlives its parent, however either of them ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from stemseg_ros.errors import StemsegError
from stemseg_ros.replay import processes
from stemseg_ros.replay.processes import ChildProcess, free_domain

PATIENCE_S = 90.0
"""Until a test gives up; generous, for machines with other work."""
MODULES = {
    "obedient": "import time\nprint('ready', flush=True)\ntime.sleep(600)\n",
    "stubborn": "import signal, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"
    "print('ready', flush=True)\ntime.sleep(600)\n",
    "parent": "import subprocess, sys, time\n"
    "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
    "print('grandchild', child.pid, flush=True)\ntime.sleep(600)\n",
    "failing": "print('first')\nprint('second')\nraise SystemExit(3)\n",
}


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ChildProcess]:
    for name, code in MODULES.items():
        (tmp_path / f"module_{name}.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def start(name: str) -> ChildProcess:
        patience = 0.5 if name == "stubborn" else PATIENCE_S
        log = tmp_path / f"{name}.log"
        return ChildProcess(name, f"module_{name}", [], log, os.environ, patience)

    return start


def eventually(holds: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def alive(pid: int) -> bool:
    """Whether it runs; a zombie that nobody waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize(
    "name, code", [("obedient", -signal.SIGINT), ("stubborn", -signal.SIGKILL)]
)
def test_stop(start: Callable[[str], ChildProcess], name: str, code: int) -> None:
    with start(name) as child:
        assert eventually(lambda: "ready" in child.tail())
    # Python turns SIGINT into a traceback and ends itself by the same signal.
    assert child.exit_code == code
    assert not alive(child.pid)


def test_stop_in_a_job_in_the_background(start: Callable[[str], ChildProcess]) -> None:
    """A shell without job control starts it with SIGINT ignored, which children inherit."""
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with start("obedient") as child:
            assert eventually(lambda: "ready" in child.tail())
        assert child.exit_code == -signal.SIGINT
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, previous)


def test_grandchildren_end_too(start: Callable[[str], ChildProcess]) -> None:
    with start("parent") as child:
        assert eventually(lambda: "grandchild" in child.tail())
        grandchild = int(child.tail().split()[1])
        assert alive(grandchild)
    assert eventually(lambda: not alive(grandchild))


def test_exit_code_and_last_words(start: Callable[[str], ChildProcess]) -> None:
    with start("failing") as child:
        assert eventually(lambda: child.exit_code is not None)
        assert child.exit_code == 3
        assert child.tail(1) == "second"
    assert child.stop() == 3


PROGRAM = """
import os, sys, time
from pathlib import Path
from stemseg_ros.replay.processes import ChildProcess, termination_as_exit
log = Path(sys.argv[1])
process = ChildProcess("child", "module_stubborn", [], log, os.environ, 0.5)
with termination_as_exit(), process as child:
    print(child.pid, flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_the_parent_ends_the_child(
    start: Callable[[str], ChildProcess], tmp_path: Path, number: signal.Signals
) -> None:
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "log")],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert program.stdout is not None
    child = int(program.stdout.readline())
    program.send_signal(number)
    program.wait(PATIENCE_S)
    assert eventually(lambda: not alive(child))


def test_an_occupied_domain_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    taken, other = free_domain(), free_domain()
    while other == taken:
        other = free_domain()
    monkeypatch.setattr(processes, "DOMAINS", [taken, other])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as participant:
        participant.bind(
            ("", 7400 + 250 * taken + 10)
        )  # where the first participant of the domain listens
        assert {free_domain() for _ in range(20)} == {other}
        monkeypatch.setattr(processes, "DOMAINS", [taken])
        with pytest.raises(StemsegError, match="in use"):
            free_domain()
