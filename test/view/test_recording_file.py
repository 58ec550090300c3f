"""Files that cannot be written to their end."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("rerun", reason="needs the extra view")
from view.bags import frame, write_drive

from stemseg_ros.view.page_server import ViewError
from stemseg_ros.view.recording_file import RecordingFile

LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
from stemseg_ros.cli.entry import main
sys.argv[1:] = sys.argv[2:]
main()
"""


def write(file: RecordingFile, *parts: bytes) -> None:
    """Write as rerun does: through a descriptor of its own."""
    with open(file.pipe, "wb", buffering=0) as pipe:  # noqa: PTH123
        file.opened()
        for part in parts:
            pipe.write(part)


def test_a_file_appears_when_it_is_complete(tmp_path: Path) -> None:
    out = tmp_path / "a.rrd"
    file = RecordingFile(out)
    write(file, b"one", bytes(2**20), b"two")
    assert not out.exists()
    file.finish()
    assert out.read_bytes() == b"one" + bytes(2**20) + b"two"
    assert list(tmp_path.iterdir()) == [out]


def test_an_abandoned_file_leaves_the_one_before(tmp_path: Path) -> None:
    out = tmp_path / "a.rrd"
    out.write_text("old")
    file = RecordingFile(out)
    write(file, b"new")
    file.abandon()
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("a.rrd", "old")]


def test_a_full_device_holds_nobody_up(tmp_path: Path) -> None:
    """More than a pipe holds is written to it; the device refuses every byte."""
    (tmp_path / ".a.partial.rrd").symlink_to("/dev/full")
    file = RecordingFile(tmp_path / "a.rrd")
    write(file, *[bytes(2**16)] * 64)
    with pytest.raises(ViewError, match=r"cannot write '.*a\.rrd': No space left .*\(--save\)"):
        file.finish()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("limit", [0, 1000, 20_000])
def test_the_command_ends_when_its_file_cannot_grow(tmp_path: Path, limit: int) -> None:
    """As on a disk that fills while something is written: at once, after the first words, within
    the frames."""
    drive, out = tmp_path / "drive.mcap", tmp_path / "out" / "drive.rrd"
    write_drive(drive, [frame(i % 4) for i in range(20)])
    command = [sys.executable, "-c", LIMITED, str(limit), "view", str(drive), "--save", str(out)]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
        env={**os.environ, "CI": "1"},
    )
    assert done.returncode == 2, done.stderr
    assert f"stemseg: cannot write '{out}': File too large" in done.stderr
    assert "make room, or name a file on another disk (--save)" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(out.parent.iterdir()) == []
