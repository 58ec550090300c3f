"""Plays images together with their time, as a bag that is played with --clock in a loop: LOOPS
FRAMES. Every loop begins at second 1000; frames come at 10 Hz, /clock with each of them."""

from __future__ import annotations

import os
import sys
import time
from array import array

import numpy as np
import rclpy
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.signals import SignalHandlerOptions
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image

BEGIN, PERIOD = 1000.0, 0.1


def main() -> None:
    loops, frames = int(sys.argv[1]), int(sys.argv[2])
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    node = Node("player")
    clock = node.create_publisher(Clock, "/clock", QoSProfile(depth=100))
    images = node.create_publisher(Image, "image", QoSProfile(depth=100))
    while not (images.get_subscription_count() and clock.get_subscription_count()):
        time.sleep(0.05)
    time.sleep(0.5)
    for _ in range(loops):
        for index in range(frames):
            now = BEGIN + index * PERIOD
            tick = Clock()
            tick.clock.sec, tick.clock.nanosec = int(now), round(now % 1 * 1e9)
            clock.publish(tick)
            images.publish(image(tick))
            time.sleep(PERIOD)
    print("played", flush=True)
    time.sleep(60)


def image(now: Clock) -> Image:
    pixels = np.zeros((24, 40, 3), np.uint8)
    pixels[4:10, 3:12, 0] = 5
    made = Image(height=24, width=40, encoding="bgr8", step=120, data=array("B", pixels.tobytes()))
    made.header.stamp = now.clock
    return made


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        os._exit(0)
