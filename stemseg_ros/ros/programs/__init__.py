"""The ROS programs of the package and what they share."""
