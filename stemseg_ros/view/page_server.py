"""The server of the page: rerun's own program as a child process, because the functions of its
SDK listen on all interfaces and cannot be told otherwise."""

from __future__ import annotations

import os
import socket
import subprocess
import tempfile
import time
import webbrowser
from importlib.util import find_spec
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import quote

from stemseg_ros.errors import StemsegError

LOOPBACK = "127.0.0.1"
MEMORY_LIMIT = "2GiB"
"""What the server keeps for pages that open late; beyond it, the oldest frames are dropped."""
PATIENCE_S = 60.0
"""With the start of the program, which a busy machine reads from the disk."""
STOP_S = 5.0
PROGRAM = "rerun_cli"
"""Package of the wheel of rerun-sdk that holds the program."""
NO_STATISTICS = {"CI": "1"}
"""Rerun sends no usage statistics from automated builds, which it knows by this variable."""


class ViewError(StemsegError):
    """The page cannot be served, or the recording not be written."""


class PageServer:
    """Serves the page on ``port`` and its data on the next one, to whom reaches ``bind``."""

    def __init__(self, port: int, host: str = "localhost", bind: str = LOOPBACK) -> None:
        """host: the name under which browsers reach this machine. bind: IP address to listen on.

        Raises ViewError.
        """
        _check_address(bind)
        for number in (port, port + 1):
            _check_free(number, bind)
        near = LOOPBACK if ip_address(bind).is_unspecified else bind
        self.data = f"rerun+http://{_in_url(near)}:{port + 1}/proxy"
        """Where recordings go."""
        shown = f"rerun+http://{host}:{port + 1}/proxy"
        # Labels are written in the bright colours of tracks, which a light page makes unreadable.
        self.address = f"http://{host}:{port}/?url={quote(shown, safe='')}&theme=dark"
        """Of the page."""
        # Kept until the end: the reason of one that does not start.
        self._output = tempfile.TemporaryFile()  # noqa: SIM115  (closed by close)
        self._process = subprocess.Popen(
            _command(port, host, bind),
            env={**os.environ, **NO_STATISTICS},
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            # A session of its own: Ctrl-C reaches the parent alone, which ends its child last.
            start_new_session=True,
        )
        try:
            for number in (port, port + 1):
                self._wait_for(near, number)
        except BaseException:
            self.close()
            raise

    def open_browser(self) -> None:
        """Show the page in a browser, where there is one."""
        webbrowser.open(self.address)

    def close(self) -> None:
        """End the server; a second call does nothing."""
        self._process.terminate()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._output.close()

    def _wait_for(self, address: str, port: int) -> None:
        until = time.monotonic() + PATIENCE_S
        while self._process.poll() is None and time.monotonic() < until:
            try:
                socket.create_connection((address, port), timeout=1.0).close()
                return
            except OSError:
                time.sleep(0.05)
        self._output.seek(0)
        lines = self._output.read().decode(errors="replace").split("\n")
        last = next((line for line in reversed(lines) if line.strip()), "no word")
        raise ViewError(f"the server of the page did not start: {last}")


def _command(port: int, host: str, bind: str) -> list[str]:
    options = {
        "--bind": bind,
        "--web-viewer-port": str(port),
        "--port": str(port + 1),
        "--server-memory-limit": MEMORY_LIMIT,
        "--cors-allow-origin": f"http://{host}:{port}",
    }
    words = [word for option in options.items() for word in option]
    return [str(_program()), "--serve-web", "--hide-welcome-screen", *words]


def _program() -> Path:
    spec = find_spec(PROGRAM)
    if spec is None or spec.origin is None:
        raise ViewError(
            "this rerun-sdk has no program 'rerun' that could serve the page; install the one of "
            "PyPI, or write a file with --save"
        )
    return Path(spec.origin).parent / "rerun"


def _in_url(address: str) -> str:
    return f"[{address}]" if ip_address(address).version == 6 else address


def _check_address(bind: str) -> None:
    try:
        ip_address(bind)
    except ValueError:
        raise ViewError(
            f"--bind {bind}: expected an IP address of this machine, such as {LOOPBACK} (this "
            "machine alone) or 0.0.0.0 (whoever reaches it)"
        ) from None


def _check_free(port: int, bind: str) -> None:
    family = socket.AF_INET6 if ip_address(bind).version == 6 else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((bind, port))
        except OSError as error:
            raise ViewError(
                f"port {port} is not free on {bind} ({error.strerror}); choose another one with "
                "--port"
            ) from error
