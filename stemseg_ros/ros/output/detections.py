"""Boxes as vision_msgs/Detection2DArray; imported only where vision_msgs is installed."""

from __future__ import annotations

from std_msgs.msg import Header
from vision_msgs.msg import (
    BoundingBox2D,
    Detection2D,
    Detection2DArray,
    ObjectHypothesis,
    ObjectHypothesisWithPose,
    Point2D,
    Pose2D,
)

from stemseg_ros.records import FrameResult, Instance


def detections_message(result: FrameResult, header: Header) -> Detection2DArray:
    """Build the message for one frame, with the header of its image."""
    detections = [_detection(item, result.epoch, header) for item in result.instances]
    return Detection2DArray(header=header, detections=detections)


def _detection(instance: Instance, epoch: int, header: Header) -> Detection2D:
    x, y, width, height = instance.box
    middle = Point2D(x=x + width / 2, y=y + height / 2)  # pixel n covers n to n + 1
    hypothesis = ObjectHypothesis(class_id=instance.class_name, score=instance.score)
    return Detection2D(
        header=header,
        results=[ObjectHypothesisWithPose(hypothesis=hypothesis)],
        bbox=BoundingBox2D(
            center=Pose2D(position=middle), size_x=float(width), size_y=float(height)
        ),
        # The message has no epoch, and its ids have to tell objects apart for good.
        id=f"{epoch}-{instance.track_id}",
    )
