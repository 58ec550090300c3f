"""Child processes that end with their parent, and a ROS domain of their own for them."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from stemseg_ros.errors import StemsegError
from stemseg_ros.resources import resource_path

FAST_DDS_PROFILES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")
"""Variables that name a transport profile of Fast DDS; either will do."""
DOMAINS = range(1, 102)
"""Above 101 the ports of DDS meet those that Linux hands out to everybody."""


class ChildProcess:
    """A Python module as a process of its own group, with its output in a file; a context manager.

    On leaving the ``with`` block it is stopped, at the latest by SIGKILL to the whole group.
    """

    def __init__(
        self,
        name: str,
        module: str,
        arguments: list[str],
        log: Path,
        environment: Mapping[str, str],
        patience_s: float = 5.0,
    ) -> None:
        self.name = name
        self.log = log
        self._patience_s = patience_s
        with log.open("wb") as output, default_interrupt():
            # A session of its own: Ctrl-C reaches the parent alone, which stops its children in
            # order.
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Process id, also that of its group."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative for the signal that ended it."""
        return self._process.poll()

    def tail(self, lines: int = 4) -> str:
        """The last lines of its output."""
        return "\n".join(
            self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:]
        )

    def stop(self) -> int:
        """SIGINT, and after patience_s seconds SIGKILL; the exit code."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(self._patience_s)
        with suppress(ProcessLookupError):  # nothing of the group is left: as it should be
            os.killpg(self._process.pid, signal.SIGKILL)
        return self._process.wait()

    def __enter__(self) -> ChildProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


@contextmanager
def default_interrupt() -> Iterator[None]:
    """Let SIGINT end processes that are started meanwhile, also if it is ignored here: a shell
    starts jobs in the background so, and children would inherit it."""
    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    if not ignored or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def ros_environment() -> dict[str, str]:
    """This environment, with a free ROS domain, on this machine only, and shared memory for whole
    images."""
    profile = str(resource_path("config/fastdds_shm.xml"))
    return {
        **os.environ,
        "ROS_DOMAIN_ID": str(free_domain()),
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
        **dict.fromkeys(FAST_DDS_PROFILES, profile),
        "PYTHONUNBUFFERED": "1",
    }


def free_domain() -> int:
    """A ROS domain without participants on this machine: the first one would hold a fixed UDP
    port."""
    for domain in random.sample(DOMAINS, len(DOMAINS)):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind(("", 7400 + 250 * domain + 10))
            except OSError:
                continue
        return domain
    raise StemsegError("all ROS domains from 1 to 101 are in use on this machine")


@contextmanager
def termination_as_exit() -> Iterator[None]:
    """SIGTERM and SIGHUP unwind the program instead of ending it at once, so that children are
    stopped."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    previous = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
