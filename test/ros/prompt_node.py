"""The real node with a HODOR model of random weights, which takes small images."""

from __future__ import annotations

import sys

if __name__ == "__main__":
    from stemseg_ros.ros.node import main

    sys.exit(main())
