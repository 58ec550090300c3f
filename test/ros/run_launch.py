"""What ``ros2 launch stemseg FILE name:=value ...`` does, where the command line of ROS 2 is not installed."""

from __future__ import annotations

import sys
from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource

from launch import LaunchDescription, LaunchService

if __name__ == "__main__":
    file = Path(get_package_share_directory("stemseg")) / "launch" / sys.argv[1]
    values = [tuple(argument.split(":=", 1)) for argument in sys.argv[2:]]
    source = PythonLaunchDescriptionSource(str(file))
    service = LaunchService()
    service.include_launch_description(LaunchDescription([IncludeLaunchDescription(source, launch_arguments=values)]))
    sys.exit(service.run())
