"""A camera as a process of its own: publishes a still over and over, until it is ended.

    python -m soak.camera STILL.npy --topic /image --rate 10 --behind 1000 --best-effort

Stamps are the time of the day less ``--behind`` seconds: a camera that is started with a larger
number than the one before goes back in time, as a bag that starts again does. It imports little,
so that it starts quickly.
"""

from __future__ import annotations

import argparse
import time
from array import array
from pathlib import Path

import numpy as np
import rclpy
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image

SECOND = 1_000_000_000


def main() -> None:
    """Publish until a signal ends the process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("still", type=Path, help="uint8 (H, W, 3), BGR, as .npy")
    parser.add_argument("--topic", default="/image")
    parser.add_argument("--rate", type=float, default=10.0, help="images per second")
    parser.add_argument("--behind", type=float, default=0.0, help="seconds into the past")
    parser.add_argument("--best-effort", action="store_true", help="else reliable")
    options = parser.parse_args()
    still = np.load(options.still)
    rclpy.init()
    node = rclpy.create_node("camera")
    policy = ReliabilityPolicy.BEST_EFFORT if options.best_effort else ReliabilityPolicy.RELIABLE
    qos = QoSProfile(depth=10, reliability=policy)
    publisher = node.create_publisher(Image, options.topic, qos)
    message = Image(height=still.shape[0], width=still.shape[1], encoding="bgr8")
    message.step, message.data = still.shape[1] * 3, array("B", still.tobytes())
    while True:
        stamp = time.time_ns() - int(options.behind * SECOND)
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp, SECOND)
        publisher.publish(message)
        time.sleep(1 / options.rate)


if __name__ == "__main__":
    main()
