"""``stemseg view`` as a process: view_live.py OPTIONS."""

from __future__ import annotations

import sys

from stemseg_ros.cli.main import app

if __name__ == "__main__":
    app(["view", *sys.argv[1:]])
