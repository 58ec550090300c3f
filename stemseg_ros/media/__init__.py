"""Frames in and out: videos, image folders, ROS 2 bags, drawings."""
