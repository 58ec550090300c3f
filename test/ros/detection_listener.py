"""Prints the messages on stemseg/detections, one JSON object a line: detection_listener.py COUNT.

A process of its own, because vision_msgs is in no environment but the one that the test builds.
"""

from __future__ import annotations

import json
import sys

import rclpy
from rclpy.node import Node
from vision_msgs.msg import Detection2DArray


def printed(message: Detection2DArray) -> str:
    return json.dumps(
        {
            "stamp": message.header.stamp.sec,
            "frame_id": message.header.frame_id,
            "detections": [
                {
                    "id": item.id,
                    "class": item.results[0].hypothesis.class_id,
                    "score": item.results[0].hypothesis.score,
                    "center": [item.bbox.center.position.x, item.bbox.center.position.y],
                    "theta": item.bbox.center.theta,
                    "size": [item.bbox.size_x, item.bbox.size_y],
                    "same_header": item.header == message.header,
                }
                for item in message.detections
            ],
        }
    )


if __name__ == "__main__":
    rclpy.init()
    node, count, seen = Node("listener"), int(sys.argv[1]), []
    node.create_subscription(Detection2DArray, "stemseg/detections", seen.append, 50)
    while len(seen) < count:
        rclpy.spin_once(node, timeout_sec=0.1)
    for message in seen:
        print(printed(message), flush=True)
