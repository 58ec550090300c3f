"""The file of a recording, written from a pipe: when rerun's own writer meets a full disk, it only
logs that, and the last flush may then wait for ever."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from threading import Thread

from stemseg_ros.view.page_server import ViewError

REMEDY = "make room, or name a file on another disk (--save)"
CHUNK_BYTES = 2**20
END_TIMEOUT_S = 60.0
"""Patience with the disk, after the last data."""


class RecordingFile:
    """Takes what is written to ``pipe``; the file appears under its name when it is complete."""

    def __init__(self, path: Path) -> None:
        """Raises OSError."""
        self.path = path
        self._partial = path.with_name(f".{path.stem}.partial{path.suffix}")
        self._file = self._partial.open("wb")
        self._source, self._sink = os.pipe()
        self.pipe = f"/dev/fd/{self._sink}"
        """Where to write; to be opened before ``opened`` is called."""
        self._error: OSError | None = None
        self._copier = Thread(target=self._copy, name="recording file", daemon=True)
        self._copier.start()

    def opened(self) -> None:
        """Leave the pipe to the one who writes; its end is that of the file."""
        if self._sink >= 0:
            os.close(self._sink)
            self._sink = -1

    def check(self) -> None:
        """Raises ViewError if the file cannot be written."""
        if self._error is not None:
            raise ViewError(
                f"cannot write '{self.path}': {self._error.strerror or self._error}; if the disk "
                f"is full or a quota used up, {REMEDY}"
            ) from self._error

    def finish(self) -> None:
        """Give the file its name, once the writer has closed the pipe. Raises ViewError."""
        try:
            self._join()
            self.check()
            self._partial.replace(self.path)
        except BaseException:
            self._partial.unlink(missing_ok=True)
            raise

    def abandon(self) -> None:
        """End without a file; one of that name stays as it was."""
        self._partial.unlink(missing_ok=True)
        self._join()

    def _join(self) -> None:
        self.opened()
        self._copier.join(END_TIMEOUT_S)
        if self._copier.is_alive():
            raise ViewError(f"cannot write '{self.path}': the disk takes too long")

    def _copy(self) -> None:
        with os.fdopen(self._source, "rb") as pipe:
            try:
                with self._file as file:
                    shutil.copyfileobj(pipe, file, CHUNK_BYTES)
            except OSError as error:
                self._error = error
                while pipe.read(CHUNK_BYTES):
                    pass  # the writer shall not wait
