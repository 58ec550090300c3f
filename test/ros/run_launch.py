"""What ``ros2 launch stemseg FILE name:=value ...`` does, for tests without the command line of
ROS 2."""

from __future__ import annotations

import sys
from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchDescription, LaunchService
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource

if __name__ == "__main__":
    file = Path(get_package_share_directory("stemseg")) / "launch" / sys.argv[1]
    sys.argv.insert(1, "stemseg")  # the command line of ros2 launch
    values = [tuple(argument.split(":=", 1)) for argument in sys.argv[3:]]
    source = PythonLaunchDescriptionSource(str(file))
    service = LaunchService()
    include = IncludeLaunchDescription(source, launch_arguments=values)
    service.include_launch_description(LaunchDescription([include]))
    sys.exit(service.run())
