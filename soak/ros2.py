"""The command line of ROS 2 as a module, to be started as a process: python -m soak.ros2."""

import sys

from ros2cli.cli import main

if __name__ == "__main__":
    sys.exit(main())
