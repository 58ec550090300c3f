"""Publishes images at 20 Hz until a signal ends it: TOPIC:RELIABILITY:DURABILITY ...

RELIABILITY is reliable or best_effort, DURABILITY volatile or transient_local; a topic that ends
with /compressed carries PNG files. With --lose N every N-th image is left out.
"""

from __future__ import annotations

import argparse
import os
import time
from array import array

import cv2
import numpy as np
import rclpy
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import CompressedImage, Image

RATE = 20
SCENE = np.zeros((24, 40, 3), np.uint8)  # as in harness.py, which loads much more than this needs
SCENE[4:10, 3:12, 0], SCENE[12:20, 6:14, 0] = 5, 9


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("offers", nargs="+")
    parser.add_argument("--lose", type=int, default=0)
    parser.add_argument("--first", type=int, default=1, help="first stamp in seconds")
    options = parser.parse_args()
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    node = Node("camera")
    publishers = [publisher(node, *offer.split(":")) for offer in options.offers]
    print("ready", flush=True)
    index = 0
    while True:
        index += 1
        if not options.lose or index % options.lose:
            for each in publishers:
                each.publish(image(each.msg_type, options.first + index / RATE))
        time.sleep(1 / RATE)


def publisher(node: Node, topic: str, reliability: str, durability: str):  # type: ignore[no-untyped-def]
    qos = QoSProfile(
        depth=10,
        reliability=ReliabilityPolicy[reliability.upper()],
        durability=DurabilityPolicy[durability.upper()],
    )
    kind = CompressedImage if topic.endswith("/compressed") else Image
    return node.create_publisher(kind, topic, qos)


def image(kind: type, seconds: float) -> Image | CompressedImage:
    height, width, channels = SCENE.shape
    if kind is CompressedImage:
        made = CompressedImage(format="png", data=cv2.imencode(".png", SCENE)[1].tobytes())
    else:
        made = Image(height=height, width=width, encoding="bgr8", step=width * channels)
        made.data = array("B", SCENE.tobytes())
    made.header.stamp.sec = int(seconds)
    made.header.stamp.nanosec = round(seconds % 1 * 1e9)
    return made


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        os._exit(0)
