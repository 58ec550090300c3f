"""stemseg_player: plays the images of a bag, never faster than recorded nor than the node
processes them.

Flow control: at most ``--in-flight`` frames are without a result. A model that looks ahead returns
results only when enough frames are in flight; without a number, that in the node's diagnostics is
taken. At the end the player calls the node's service ``~/flush`` and waits for the last results.
``--in-flight 0`` plays without waiting for results.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import deque
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from rclpy.duration import Duration
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.utilities import remove_ros_args
from sensor_msgs.msg import CompressedImage, Image
from std_srvs.srv import Trigger
from stemseg.msg import InstanceArray

from stemseg_ros.errors import MediaError
from stemseg_ros.media.bags import IMAGE, IMAGE_TYPES, INSTANCE_ARRAY, BagReader
from stemseg_ros.media.messages import stamp_ns
from stemseg_ros.replay.node_counts import UNUSABLE
from stemseg_ros.ros.programs.node_status import NodeStatus
from stemseg_ros.ros.programs.program import (
    JsonLines,
    Program,
    ProgramError,
    exit_code,
    ros_program,
)

NAME = "stemseg_player"
DEFAULT_IN_FLIGHT = 16
"""For a node that does not report how many frames it needs in flight."""
SETTLE_S = 0.5
"""Seconds from the last frame to the flush: a service call can overtake the images before it."""
STATUS_S = 3.0
"""Seconds within which a node that publishes diagnostics once a second has done so."""
COUNTS_S = 10.0
"""Seconds within which its diagnostics count the frames it left out, also on a busy machine."""
FLUSH_AGAIN_S = 5.0
"""Seconds without a result after which the flush is repeated, in case a frame arrived after it."""


@dataclass(frozen=True, slots=True)
class PlayerOptions:
    """The arguments of the command line."""

    bag: Path
    bag_topic: str | None
    """Topic in the bag; None for the only image topic."""
    topic: str
    results: str
    flush: str
    rate: float
    loop: bool
    in_flight: int | None
    """None to ask the node."""
    wait: float
    """Seconds to wait for the node's start."""
    timeout: float
    """Seconds to wait for a result."""
    log: Path | None
    requires: str | None
    """Topic of instances without which the bag is refused."""
    check: bool
    """Only inspect the bag."""


class Outstanding:
    """Stamps of the frames that were sent and have no result. Results keep the order of the
    frames."""

    def __init__(self) -> None:
        self._stamps: deque[int] = deque()
        self.received = 0
        self.skipped = 0
        """Frames overtaken by a later result: the node dropped them."""
        self.last_change = time.monotonic()

    def __len__(self) -> int:
        return len(self._stamps)

    def send(self, stamp: int) -> None:
        """Record a frame that is sent."""
        self._stamps.append(stamp)
        self.last_change = time.monotonic()

    def receive(self, stamp: int) -> None:
        """Record a result; one of a frame from elsewhere is ignored."""
        if stamp not in self._stamps:
            return
        while self._stamps.popleft() != stamp:
            self.skipped += 1
        self.received += 1
        self.last_change = time.monotonic()


class Player:
    """Publishes the serialised images of a bag as they are, stamps and frame ids unchanged."""

    def __init__(
        self, program: Program, bag: BagReader, options: PlayerOptions, log: JsonLines
    ) -> None:
        self._program = program
        self._bag = bag
        self._options = options
        self._log = log
        self._outstanding = Outstanding()
        self._unread = 0
        self._last_sent = time.monotonic()
        self._interval = 0.0
        self._limit = DEFAULT_IN_FLIGHT if options.in_flight is None else options.in_flight
        depth = QoSProfile(depth=max(100, self._limit), reliability=ReliabilityPolicy.RELIABLE)
        node = program.node
        kind = Image if bag.type == IMAGE else CompressedImage
        # As image_transport names it, so that the node finds it under the same base name.
        topic = options.topic if bag.type == IMAGE else f"{options.topic}/compressed"
        self._publisher = node.create_publisher(kind, topic, depth)
        if self._limit:
            self._results = node.create_subscription(
                InstanceArray, options.results, self._on_result, depth
            )
            self._flush = node.create_client(Trigger, options.flush)
            self._status = NodeStatus(node, self._results.topic_name)

    def play(self) -> int:
        """Play the bag; returns the number of frames sent. Raises ProgramError when the node is
        silent."""
        self._wait_for_node()
        if self._options.in_flight is None:
            self._limit = self._needed_in_flight()
        sent = 0
        for _ in count() if self._options.loop else range(1):
            sent += self._play_once()
        self._program.spin_until(self._all_received, self._options.timeout)
        if self._limit:
            self._finish()
        if self._unread:
            self._program.node.get_logger().warning(
                f"{self._unread} messages cannot be read and were not played"
            )
        return sent

    def _play_once(self) -> int:
        previous, sent = None, 0
        for log_ns, data in self._bag.raw():
            try:
                stamp = stamp_ns(self._bag.decode(data))
            except MediaError:
                self._unread += 1
                continue
            if previous is not None:
                self._interval = max(0, log_ns - previous) / 1e9 / self._options.rate
            previous = log_ns
            # From frame to frame, not from the start: after a wait for the node, nothing is sent
            # in a burst.
            self._program.spin_for(self._last_sent + self._interval - time.monotonic())
            self._wait_for_room()
            self._send(stamp, data)
            sent += 1
        return sent

    def _send(self, stamp: int, data: bytes) -> None:
        if self._limit:
            self._outstanding.send(stamp)
        self._last_sent = time.monotonic()
        self._log.write(stamp_ns=stamp, published_ns=int(self._last_sent * 1e9))
        self._publisher.publish(data)

    def _on_result(self, message: Any) -> None:
        self._outstanding.receive(stamp_ns(message))

    def _wait_for_node(self) -> None:
        wait = self._options.wait
        if not self._program.spin_until(
            lambda: self._publisher.get_subscription_count() > 0, wait
        ):
            raise ProgramError(
                f"nobody subscribed to {self._publisher.topic_name} within {wait:g} s; is the "
                "node active, in the same ROS_DOMAIN_ID, with its image topic remapped to this "
                "name?"
            )
        if self._limit and not self._program.spin_until(
            lambda: self._results.get_publisher_count() > 0, wait
        ):
            raise ProgramError(
                f"nobody publishes {self._results.topic_name} within {wait:g} s; "
                "name the topic with --results, or play without flow control: --in-flight 0"
            )
        if self._limit:
            self._program.spin_until(lambda: bool(self._status.values), STATUS_S)

    def _needed_in_flight(self) -> int:
        """Read the number in the node's diagnostics; the default if they hold none."""
        wait = self._options.wait
        if not self._program.spin_until(lambda: bool(self._status.values), wait):
            raise ProgramError(
                f"the node publishes nothing on /diagnostics within {wait:g} s; name the "
                "number of frames in flight with --in-flight"
            )
        return int(self._status.values.get("in_flight", DEFAULT_IN_FLIGHT))

    def _wait_for_room(self) -> None:
        limit = self._limit
        if limit == 0:
            return
        timeout = self._options.timeout
        self._program.spin_until(
            lambda: self._in_flight() < limit or self._seconds_without_result() > timeout
        )
        if self._in_flight() >= limit:
            raise ProgramError(
                f"no result on {self._results.topic_name} for {timeout:g} s with {limit} frames "
                "in flight; raise --in-flight if the model needs more, else look at the node's "
                "log"
            )

    def _in_flight(self) -> int:
        """Frames whose results will come."""
        unusable = sum(self._status.unusable.values())
        return len(self._outstanding) - max(0, unusable - self._outstanding.skipped)

    def _all_received(self) -> bool:
        return self._publisher.wait_for_all_acked(Duration(seconds=0))

    def _finish(self) -> None:
        """Flush the pending frames and wait for their results."""
        self._program.spin_until(lambda: not self._outstanding, SETTLE_S)
        while self._outstanding:
            self._call_flush()
            flushed = self._status.received
            if self._program.spin_until(partial(self._all_finished, flushed), FLUSH_AGAIN_S):
                break
            if self._seconds_without_result() > self._options.timeout:
                raise ProgramError(
                    f"{len(self._outstanding)} frames have no result within "
                    f"{self._options.timeout:g} s after the end of the bag"
                )
        self._explain(self._outstanding.skipped + len(self._outstanding))

    def _all_finished(self, flushed: int) -> bool:
        """Whether no more results will come. Older counts may call frames held that the node has
        taken by now; flushed: number of statuses before the flush, and one may be on its way."""
        fresh = self._status.received > flushed + 1
        return not self._outstanding or (fresh and self._in_flight() <= 0)

    def _explain(self, missing: int) -> None:
        """Report frames without a result. Raises ProgramError for those that the node dropped for
        another reason than their content or stamp."""
        if not missing:
            return
        status = self._status
        self._program.spin_until(lambda: sum(status.unusable.values()) >= missing, COUNTS_S)
        dropped = missing - sum(status.unusable.values())
        if dropped > 0:
            raise ProgramError(f"the node dropped {dropped} frame{'s' * (dropped != 1)}")
        causes = "; ".join(f"{n} {UNUSABLE[key]}" for key, n in status.unusable.items())
        self._program.node.get_logger().warning(f"frames without a result: {causes}")

    def _call_flush(self) -> None:
        timeout = self._options.timeout
        if not self._program.spin_until(self._flush.service_is_ready, timeout):
            raise ProgramError(
                f"no service {self._options.flush} within {timeout:g} s; name it with --flush"
            )
        future = self._flush.call_async(Trigger.Request())
        if not self._program.spin_until(future.done, timeout):
            raise ProgramError(f"{self._options.flush} did not respond within {timeout:g} s")
        if not future.result().success:
            raise ProgramError(f"{self._options.flush} failed: {future.result().message}")

    def _seconds_without_result(self) -> float:
        return time.monotonic() - self._outstanding.last_change


def parse(arguments: list[str]) -> PlayerOptions:
    """Options of the command line, without its ROS arguments; argparse ends the program on a
    mistake."""
    parser = argparse.ArgumentParser(
        NAME, description="Plays the images of a bag into the stemseg node."
    )
    parser.add_argument("--bag", type=Path, required=True, help="folder, .mcap or .db3 file")
    parser.add_argument("--bag-topic", help="image topic in the bag (default: the only one)")
    parser.add_argument(
        "--topic", default="/camera/image_raw", help="topic to publish on (%(default)s)"
    )
    parser.add_argument(
        "--results", default="/stemseg/instances", help="the node's results (%(default)s)"
    )
    parser.add_argument("--flush", help="flush service of the node (default: beside the results)")
    parser.add_argument(
        "--rate", type=_positive, default=1.0, help="times the recorded rate (%(default)s)"
    )
    parser.add_argument(
        "--loop", action="store_true", help="start again at the end, until stopped"
    )
    parser.add_argument(
        "--in-flight",
        type=_not_negative,
        help="most frames without a result; 0: no flow control "
        "(default: as the node's window needs)",
    )
    parser.add_argument(
        "--wait",
        type=_positive,
        default=60.0,
        help="seconds to wait for the start of the node (%(default)s)",
    )
    parser.add_argument(
        "--timeout",
        type=_positive,
        default=60.0,
        help="seconds to wait for a result (%(default)s)",
    )
    parser.add_argument(
        "--log",
        type=Path,
        help="write stamps and times of publishing (monotonic, ns) as JSON lines",
    )
    parser.add_argument("--requires", help="refuse a bag without this topic of instances")
    parser.add_argument(
        "--check",
        action="store_true",
        help="only inspect the bag: print raw or compressed, as its images are, and end",
    )
    values = vars(parser.parse_args(arguments))
    values["flush"] = values["flush"] or values["results"].rpartition("/")[0] + "/flush"
    return PlayerOptions(**values)


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


def _not_negative(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is below 0")
    return value


def run(arguments: list[str]) -> None:
    """Play with the given command line (without the program's name)."""
    options = parse(remove_ros_args([NAME, *arguments])[1:])
    if options.requires:
        BagReader(options.bag, [INSTANCE_ARRAY], options.requires).close()
    with BagReader(options.bag, IMAGE_TYPES, options.bag_topic) as bag:
        if options.check:
            print("raw" if bag.type == IMAGE else "compressed")
            return
        with JsonLines(options.log) as log, ros_program(NAME, arguments) as program:
            sent = Player(program, bag, options, log).play()
            program.node.get_logger().info(f"played {sent} frames of {options.bag}")


def main() -> int:
    """Console script."""
    return exit_code(NAME, lambda: run(sys.argv[1:]))
