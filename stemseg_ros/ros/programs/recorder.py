"""stemseg_recorder: writes the instances that a node publishes to a bag, and its diagnostics to
JSON."""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.utilities import remove_ros_args
from stemseg.msg import InstanceArray

from stemseg_ros.media.bags import INSTANCE_ARRAY, BagWriter, message_types
from stemseg_ros.media.messages import stamp_ns
from stemseg_ros.ros.programs.program import JsonLines, Program, Stopped, exit_code, ros_program

NAME = "stemseg_recorder"


@dataclass(frozen=True, slots=True)
class RecorderOptions:
    """The arguments of the command line."""

    out: Path
    topic: str
    count: int
    log: Path | None
    diagnostics: Path | None


class Recorder:
    """Appends every message as received, serialised, with the time of its arrival."""

    def __init__(
        self, program: Program, bag: BagWriter, options: RecorderOptions, log: JsonLines
    ) -> None:
        self._program = program
        self._bag = bag
        self._options = options
        self._log = log
        self._values: dict[str, str] = {}
        node = program.node
        reliable = QoSProfile(depth=100, reliability=ReliabilityPolicy.RELIABLE)
        self._instances = node.create_subscription(
            InstanceArray, options.topic, self._on_instances, reliable, raw=True
        )
        if options.diagnostics is not None:
            node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)

    def record(self) -> None:
        """Record until the count is reached or a signal comes."""
        try:
            self._program.spin_until(lambda: self._instances.get_publisher_count() > 0)
            self._log.write(connected_ns=time.monotonic_ns())
            self._program.node.get_logger().info(f"recording {self._instances.topic_name}")
            self._program.spin_until(lambda: 0 < self._options.count <= self._bag.count)
        except Stopped:
            pass  # the usual end of a recording

    def _on_instances(self, data: bytes) -> None:
        received_ns = time.monotonic_ns()
        if 0 < self._options.count <= self._bag.count:
            return
        self._bag.write_raw(time.time_ns(), data)
        message: Any = message_types().deserialize_cdr(data, INSTANCE_ARRAY)
        self._log.write(
            stamp_ns=stamp_ns(message),
            received_ns=received_ns,
            epoch=int(message.epoch),
            instances=len(message.instances),
        )

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        node = self._program.node.resolve_topic_name(self._options.topic).rpartition("/")[0]
        for status in message.status:
            if status.name.partition(":")[0] == node:
                self._values |= {item.key: item.value for item in status.values}
        if self._options.diagnostics is not None:
            # Replaced as a whole, so that a reader never sees half of it.
            partial = self._options.diagnostics.with_suffix(".partial")
            partial.write_text(json.dumps(self._values, indent=1), encoding="utf-8")
            partial.replace(self._options.diagnostics)


def parse(arguments: list[str]) -> RecorderOptions:
    """Options of the command line, without its ROS arguments; argparse ends the program on a
    mistake."""
    parser = argparse.ArgumentParser(
        NAME, description="Records the instances of the stemseg node."
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="new bag: folder, .mcap or .db3 file"
    )
    parser.add_argument(
        "--topic", default="/stemseg/instances", help="topic to record (%(default)s)"
    )
    parser.add_argument(
        "--count",
        type=int,
        default=0,
        help="end after so many messages; 0: on Ctrl-C (%(default)s)",
    )
    parser.add_argument(
        "--log", type=Path, help="write stamps and times of arrival (monotonic, ns) as JSON lines"
    )
    parser.add_argument(
        "--diagnostics", type=Path, help="keep the node's latest diagnostics in this file"
    )
    return RecorderOptions(**vars(parser.parse_args(arguments)))


def run(arguments: list[str]) -> None:
    """Record with the given command line (without the program's name)."""
    options = parse(remove_ros_args([NAME, *arguments])[1:])
    with (
        BagWriter(options.out, options.topic, INSTANCE_ARRAY) as bag,
        JsonLines(options.log) as log,
        ros_program(NAME, arguments) as program,
    ):
        Recorder(program, bag, options, log).record()
        program.node.get_logger().info(f"recorded {bag.count} messages to {options.out}")


def main() -> int:
    """Console script."""
    return exit_code(NAME, lambda: run(sys.argv[1:]))
