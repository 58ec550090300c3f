"""Latency and drops of the node under load, for every policy: real processes, real DDS.

    .venv/bin/python benchmarks/load.py --out load.jpg                    # the network, here
    .venv/bin/python benchmarks/load.py --out load.jpg --stand-in 40 240  # a device of fixed speed

A publisher in a process of its own sends images at 0.5, 1, 2 and 4 times the capacity of the node,
which is measured first, with more images than can be served. The node keeps running while its
policy changes. Latency is the time from the call of publish to the arrival of the result. Prints a
table in Markdown and draws the latencies over time. A stand-in for the network waits for so many
milliseconds a frame and a window and finds nothing; all around it is real.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from stemseg_ros.models.stemseg.network import by_level
from stemseg_ros.models.stemseg.settings import Settings, own_settings
from stemseg_ros.replay.processes import free_domain

ROOT = Path(__file__).resolve().parent.parent
VARIANTS = (("drop_oldest", 0), ("drop_newest", 0), ("stride", 0), ("drop_oldest", 1000))
"""Policies, with max_latency_ms."""
LOADS = (0.5, 1.0, 2.0, 4.0)
COLOURS = ("#4477aa", "#228833", "#ccbb44", "#ee6677")


@dataclass(frozen=True, slots=True)
class Run:
    """One policy under one load."""

    policy: str
    max_latency_ms: int
    load: float
    sent: int
    published: npt.NDArray[np.float64]
    """(N,) seconds from the begin to the publication of the frames that were answered."""
    latency: npt.NDArray[np.float64]
    """(N,) seconds until their results arrived."""
    drops: dict[str, int]
    """By cause, from the diagnostics."""

    @property
    def name(self) -> str:
        """Policy and bound."""
        bound = f", max_latency_ms {self.max_latency_ms}" if self.max_latency_ms else ""
        return self.policy + bound

    def row(self) -> str:
        """A line of the table."""
        median, high, most = np.percentile(self.latency, [50, 95, 100])
        drops = ", ".join(f"{name} {n}" for name, n in self.drops.items() if n) or "none"
        steady = self.latency[len(self.latency) // 2 :].max()
        return (
            f"| {self.name} | {self.load:g} | {self.sent} | {len(self.latency)} | {drops} "
            f"| {median:.2f} | {high:.2f} | {most:.2f} | {steady:.2f} |"
        )


HEAD = (
    "| policy | load | sent | results | dropped | median s | 95 % s | most s | most, 2nd half |\n"
    "|---|---|---|---|---|---|---|---|---|"
)


def main() -> None:
    """Measure, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="of every run (%(default)s)")
    parser.add_argument("--min-dim", type=int, default=128, help="input.min_dim (%(default)s)")
    parser.add_argument("--size", default="320x192", help="of the images, WxH (%(default)s)")
    parser.add_argument("--device", default="cpu", help="of the node (%(default)s)")
    parser.add_argument(
        "--stand-in",
        nargs=2,
        type=float,
        metavar=("FRAME_MS", "WINDOW_MS"),
        help="instead of the network",
    )
    parser.add_argument("--out", type=Path, default=Path("load.jpg"), help="picture (%(default)s)")
    parser.add_argument("--publish", nargs=2, type=float, help=argparse.SUPPRESS)
    parser.add_argument("--node", action="store_true", help=argparse.SUPPRESS)
    options, ros_arguments = parser.parse_known_args()
    width, height = (int(side) for side in options.size.split("x"))
    if options.publish:
        rate, seconds = options.publish
        publish(rate, seconds, width, height)
        return
    if options.node:
        run_node(options.stand_in, ros_arguments)
    os.environ["ROS_DOMAIN_ID"] = str(free_domain())  # for the processes of this run, too
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    with node(options), observer() as seen:
        capacity = seen.capacity(options.size)
        print(f"capacity: {capacity:.2f} frames/s\n\n{HEAD}")
        runs = []
        for policy, max_latency_ms in VARIANTS:
            seen.set_policy(policy, max_latency_ms)
            for load in LOADS:
                sent, drops = seen.run(load * capacity, options)
                runs.append(Run(policy, max_latency_ms, load, sent, *seen.latencies(), drops))
                print(runs[-1].row(), flush=True)
    draw(runs, capacity, options.out)


def publish(rate: float, seconds: float, width: int, height: int) -> None:
    """The camera: its stamps are monotonic time, so that latency needs no second clock."""
    import rclpy
    from rclpy.qos import qos_profile_sensor_data
    from sensor_msgs.msg import Image

    rclpy.init()
    camera = rclpy.create_node("camera")
    publisher = camera.create_publisher(Image, "image", qos_profile_sensor_data)
    pixels = np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8)
    data = array("B", pixels.tobytes())
    image = Image(height=height, width=width, encoding="bgr8", step=3 * width, data=data)
    while not publisher.get_subscription_count():
        time.sleep(0.05)
    time.sleep(1.0)
    begin, sent = time.monotonic(), 0
    while (elapsed := time.monotonic() - begin) < seconds:
        if elapsed < sent / rate:
            time.sleep(sent / rate - elapsed)
        now = time.monotonic_ns()
        image.header.stamp.sec, image.header.stamp.nanosec = divmod(now, 10**9)
        publisher.publish(image)
        sent += 1
    print(sent, flush=True)
    time.sleep(1.0)


def run_node(stand_in: list[float] | None, arguments: list[str]) -> NoReturn:
    """The node itself, in a process of its own."""
    from stemseg_ros.config import Config
    from stemseg_ros.ros.node import main as node_main
    from stemseg_ros.stream import Model, open_model

    def make(config: Config, checkpoint: str | None, device: str) -> Model:
        if not stand_in:
            return open_model(config, checkpoint, device)
        return Model(config, StandIn(own_settings(config), *(each / 1e3 for each in stand_in)))

    sys.exit(node_main(arguments, make))


class StandIn:
    """An engine that waits, and finds nothing."""

    description = "a fake engine that waits"
    precision = "float32"

    def __init__(self, config: Settings, frame: float, window: float) -> None:
        """frame, window: seconds."""
        self.device = torch.device("cpu")
        self._dims = config.network.embedding_dims
        self._classes = len(config.classes)
        self._seconds = {"encode": frame, "decode": window}

    def run(self, function: str, batch: Sequence[tuple[Tensor, ...]]) -> list[tuple[Tensor, ...]]:
        """Empty maps of stride 4; background everywhere."""
        results = []
        for inputs in batch:
            time.sleep(self._seconds[function])
            results.append(self._cells(*inputs) if function == "encode" else self._maps(*inputs))
        return results

    def _cells(self, image: Tensor) -> tuple[Tensor, ...]:
        return (torch.zeros(1, image.shape[1] // 4, image.shape[2] // 4),) * 4

    def _maps(self, *maps: Tensor) -> tuple[Tensor, ...]:
        finest = by_level(maps)[0]
        grid = (len(finest), *finest[0].shape[1:])
        logits = torch.zeros(self._classes + 2, *grid)
        logits[0] = 1.0
        logits[-1] = -9.0
        embeddings = torch.zeros(self._dims, *grid)
        return embeddings, embeddings, torch.zeros(1, *grid), logits


@contextmanager
def node(options: argparse.Namespace) -> Iterator[None]:
    """The node with random weights: the work is the same, whatever it finds."""
    command = [sys.executable, __file__, "--node"]
    if options.stand_in:
        command += ["--stand-in", *map(str, options.stand_in)]
    command.append("--ros-args")
    for parameter in (
        "checkpoint:=random",
        f"device:={options.device}",
        f"input.min_dim:={options.min_dim}",
        "health.stall_after:=0.0",
        "output.min_score:=1.0",
    ):
        command += ["-p", parameter]
    profile = str(ROOT / "config" / "fastdds_shm.xml")
    environment = {"FASTRTPS_DEFAULT_PROFILES_FILE": profile, **os.environ}
    child = subprocess.Popen(command, cwd=ROOT, env=environment)
    try:
        yield
    finally:
        child.terminate()
        child.wait()


class Observer:
    """Receives the results, and sets the policy of the node."""

    def __init__(self) -> None:
        import rclpy
        from diagnostic_msgs.msg import DiagnosticArray
        from stemseg.msg import InstanceArray

        rclpy.init()
        self._spin_once = rclpy.spin_once
        self.node = rclpy.create_node("observer")
        self.answers: list[tuple[int, int]] = []
        self.values: dict[str, str] = {}
        self.node.create_subscription(InstanceArray, "stemseg/instances", self._answer, 200)
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self._diagnose, 10)

    def _answer(self, message: Any) -> None:
        stamp = message.header.stamp
        self.answers.append((stamp.sec * 10**9 + stamp.nanosec, time.monotonic_ns()))

    def _diagnose(self, message: Any) -> None:
        for status in message.status:
            self.values |= {pair.key: pair.value for pair in status.values}

    def spin(self, seconds: float) -> None:
        """Receive for a while."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._spin_once(self.node, timeout_sec=0.05)

    def wait_for_node(self) -> None:
        """Until it listens."""
        while self.values.get("state") != "active":
            self.spin(0.2)

    def capacity(self, size: str) -> float:
        """Results a second while more images come than can be served."""
        self.wait_for_node()
        rate, answered = 5.0, float("inf")
        while answered > 0.8 * rate:
            rate *= 2
            answered = self._answered(rate, size)
        return answered

    def _answered(self, rate: float, size: str) -> float:
        """Results a second at a rate of images."""
        self.answers.clear()
        with camera(rate, 25.0, size) as child:
            while not self.answers:
                self.spin(0.2)
            self.spin(4.0)
            before, begin = len(self.answers), time.monotonic()
            self.spin(16.0)
            answered = (len(self.answers) - before) / (time.monotonic() - begin)
            while child.poll() is None:
                self.spin(0.1)
        self.settle()
        return answered

    def set_policy(self, policy: str, max_latency_ms: int) -> None:
        """Change both in the running node."""
        from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
        from rcl_interfaces.srv import SetParameters

        client = self.node.create_client(SetParameters, "stemseg/set_parameters")
        text, number = ParameterType.PARAMETER_STRING, ParameterType.PARAMETER_INTEGER
        values = {
            "node.load_policy": ParameterValue(type=text, string_value=policy),
            "node.max_latency_ms": ParameterValue(type=number, integer_value=max_latency_ms),
        }
        parameters = [Parameter(name=name, value=value) for name, value in values.items()]
        while not client.service_is_ready():
            self.spin(0.1)
        future = client.call_async(SetParameters.Request(parameters=parameters))
        while not future.done():
            self.spin(0.1)
        assert all(result.successful for result in future.result().results), future.result()

    def run(self, rate: float, options: argparse.Namespace) -> tuple[int, dict[str, int]]:
        """Send at a rate and receive what comes of it; images sent, and drops by cause."""
        before = self._drops()
        self.answers.clear()
        with camera(rate, options.seconds, options.size) as child:
            while child.poll() is None:
                self.spin(0.1)
            self.settle()
            assert child.stdout is not None
            sent = int(child.stdout.read())
        return sent, {cause: n - before.get(cause, 0) for cause, n in self._drops().items()}

    def latencies(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Times of publication, from the first on, and from there to the results; (N,) seconds."""
        published, arrived = np.array(self.answers, np.int64).reshape(-1, 2).T
        return (published - published[0]) / 1e9, (arrived - published) / 1e9

    def _drops(self) -> dict[str, int]:
        return {
            name.removeprefix("dropped."): int(value)
            for name, value in self.values.items()
            if name.startswith("dropped.")
        }

    def settle(self) -> None:
        """Until nothing comes any more."""
        number = -1
        while number != len(self.answers):
            number = len(self.answers)
            self.spin(3.0)


@contextmanager
def camera(rate: float, seconds: float, size: str) -> Iterator[subprocess.Popen[str]]:
    """The publisher's process; prints how many images it sent."""
    arguments = ["--size", size, "--publish", str(rate), str(seconds)]
    child = subprocess.Popen(
        [sys.executable, __file__, *arguments], stdout=subprocess.PIPE, text=True
    )
    try:
        yield child
    finally:
        child.terminate()
        child.wait()


@contextmanager
def observer() -> Iterator[Observer]:
    """The observer, and the end of its middleware."""
    import rclpy

    seen = Observer()
    try:
        yield seen
    finally:
        seen.node.destroy_node()
        rclpy.shutdown()


def draw(runs: list[Run], capacity: float, path: Path) -> None:
    """Latency over time, a panel for each policy."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    names = list(dict.fromkeys(run.name for run in runs))
    figure, panels = plt.subplots(1, len(names), figsize=(13, 3.4), sharey=True)
    for panel, name in zip(panels, names, strict=True):
        for run, colour in zip((r for r in runs if r.name == name), COLOURS, strict=True):
            label = f"{run.load:g} x capacity"
            panel.plot(run.published, run.latency, ".", ms=3, color=colour, label=label)
        panel.set_title(name, fontsize=10)
        panel.set(xlabel="time of publication (s)", ylim=(0, None))
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("publish to result (s)")
    panels[-1].legend(fontsize=8, loc="upper right")
    figure.suptitle(f"capacity {capacity:.1f} frames/s, node.queue_size 16", fontsize=10)
    figure.tight_layout()
    figure.savefig(path, dpi=90)


if __name__ == "__main__":
    main()
