"""Memory and start time of this process, from the kernel."""

from __future__ import annotations

import os
import time
from pathlib import Path


def resident_mb() -> float:
    """Resident memory, 10^6 bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def started_at() -> float:
    """When the process started, in seconds of time.monotonic."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    since_boot = int(fields[19]) / os.sysconf("SC_CLK_TCK")
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - since_boot
    return time.monotonic() - age
