"""Stands in for the node, over real DDS: answers each image with an empty result, ``--window`` at
a time.

``--mute`` answers nothing, ``--skip N`` leaves out the answer to every N-th image, ``--refuse N``
refuses every N-th image and counts it, ``--held N`` reports that many held frames until the flush.
"""

from __future__ import annotations

import argparse
import sys

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import Image
from std_srvs.srv import Trigger
from stemseg.msg import InstanceArray


class FakeNode(Node):
    def __init__(self, window: int, mute: bool, skip: int, refuse: int, held: int) -> None:
        super().__init__("stemseg")
        self.window, self.mute, self.skip, self.refuse = window, mute, skip, refuse
        self.held = held
        self.refused = 0
        self.pending: list[Image] = []
        self.images = 0
        self.most_pending = 0
        self.results = self.create_publisher(InstanceArray, "~/instances", 10)
        self.diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self.create_subscription(Image, "image", self.on_image, 50)
        self.create_service(Trigger, "~/flush", self.on_flush)
        self.create_timer(0.2, self.diagnose)

    def on_image(self, image: Image) -> None:
        self.images += 1
        if self.refuse and (image.data[0] + 1) % self.refuse == 0:
            self.refused += 1
            return
        self.pending.append(image)
        self.most_pending = max(self.most_pending, len(self.pending))
        if len(self.pending) >= self.window:
            self.answer()

    def on_flush(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self.held = 0
        response.success, response.message = True, f"{len(self.pending)} frames"
        self.answer()
        return response

    def answer(self) -> None:
        for image in [] if self.mute else self.pending:
            number = image.data[0] + 1  # the grey level of a frame is its index
            if not self.skip or number % self.skip:
                result = InstanceArray(header=image.header, height=image.height, width=image.width)
                self.results.publish(result)
        self.pending.clear()
        self.diagnose()

    def diagnose(self) -> None:
        values = [
            KeyValue(key="images", value=str(self.images)),
            KeyValue(key="most_pending", value=str(self.most_pending)),
            KeyValue(key="frames_refused", value=str(self.refused)),
            KeyValue(key="frames_held", value=str(self.held if self.images else 0)),
        ]
        status = DiagnosticStatus(name="/stemseg: frames", values=values)
        self.diagnostics.publish(DiagnosticArray(status=[status]))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--window", type=int, default=1)
    parser.add_argument("--mute", action="store_true")
    parser.add_argument("--skip", type=int, default=0)
    parser.add_argument("--refuse", type=int, default=0)
    parser.add_argument("--held", type=int, default=0)
    options = parser.parse_args(rclpy.utilities.remove_ros_args(sys.argv)[1:])
    rclpy.init(args=sys.argv, signal_handler_options=SignalHandlerOptions.NO)
    node = FakeNode(**vars(options))
    print("ready", flush=True)
    while True:
        rclpy.spin_once(node, timeout_sec=0.1)


if __name__ == "__main__":
    main()
