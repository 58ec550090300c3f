"""Where the files that belong to the package lie: a source checkout, a pip install, or a ROS
install space."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def resource_path(relative: str) -> Path:
    """Path of a file or folder such as ``config/models/lite.yaml``.

    Raises FileNotFoundError that lists the places looked at.
    """
    candidates = [root / relative for root in _roots()]
    for candidate in candidates:
        if candidate.exists():
            return candidate
    looked = ", ".join(str(candidate) for candidate in candidates)
    raise FileNotFoundError(f"'{relative}' is not installed with stemseg; looked at {looked}")


def _roots() -> list[Path]:
    prefixes = [p for p in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if p]
    return [
        Path(__file__).resolve().parent.parent,  # a source checkout
        *(Path(prefix) / "share" / "stemseg" for prefix in prefixes),
        Path(sys.prefix) / "share" / "stemseg",
    ]
