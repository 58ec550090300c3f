"""``python -m stemseg_ros.ros node|player|recorder``, with the arguments of the program."""

from __future__ import annotations

import sys

from stemseg_ros.ros.programs.entry_points import MODULES, run

if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in MODULES:
        sys.exit(f"usage: python -m stemseg_ros.ros {'|'.join(MODULES)} ARGUMENTS")
    sys.exit(run(sys.argv.pop(1)))
