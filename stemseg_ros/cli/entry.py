"""Entry point of the ``stemseg`` command: what has to be settled before its imports.

Ctrl-C ends with one line and exit code 130 from the first import on, output holds names that the
terminal cannot print, and warnings of readers become lines like all others.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from types import FrameType
from typing import NoReturn

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""


def main() -> None:
    """Run the command."""
    interrupts = _Interrupts()
    # A shell starts background jobs with the signal ignored.
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, interrupts.quit)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    for name in ("stemseg_ros.media", "stemseg_ros.view"):
        logging.getLogger(name).addHandler(_Lines(logging.WARNING))
    try:
        from stemseg_ros.cli.main import app
    except ModuleNotFoundError as error:
        _missing(error)
    if signal.getsignal(signal.SIGINT) == interrupts.quit:
        signal.signal(signal.SIGINT, interrupts.interrupt)
    try:
        app(prog_name="stemseg")
    except ModuleNotFoundError as error:
        _missing(error)
    except BaseException:
        # Extension modules turn an interrupt during their import into errors of other kinds.
        if interrupts.seen:
            _end()
        raise


def _missing(error: ModuleNotFoundError) -> NoReturn:
    """End with what to install; a module of this package that is missing is a fault of ours."""
    if (error.name or "").partition(".")[0] == __name__.partition(".")[0]:
        raise error
    print(
        f"stemseg: {error.name} is not installed for {sys.executable}; pip install "
        "stemseg-ros brings it",
        file=sys.stderr,
    )
    sys.exit(2)


class _Interrupts:
    """Handlers of SIGINT: one for the imports, one for the commands, which clean up."""

    def __init__(self) -> None:
        self.seen = False

    def quit(self, signum: int, frame: FrameType | None) -> None:
        _end()

    def interrupt(self, signum: int, frame: FrameType | None) -> None:
        self.seen = True
        raise KeyboardInterrupt


def _end() -> None:
    sys.stderr.write("stemseg: interrupted\n")
    sys.stderr.flush()
    os._exit(INTERRUPTED)


class _Lines(logging.Handler):
    """Warnings on standard error, each text once: a bag may be opened several times."""

    def __init__(self, level: int) -> None:
        super().__init__(level)
        self._seen: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        text = " ".join(record.getMessage().split())
        if text not in self._seen:
            self._seen.add(text)
            print(f"stemseg: {text}", file=sys.stderr)
